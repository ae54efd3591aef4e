use protocol::{Convert, ConvertProgress, Converted, Failure};

use super::Child;

#[derive(Clone, Debug, PartialEq)]
pub enum ConversionEvent {
    Progress(ConvertProgress),
    /// The last event.
    Done(Converted),
    /// The last event.
    Failed(Failure),
}

/// A conversion in a child. Dropping it ends the child.
pub struct Conversion {}

impl Conversion {
    pub async fn start(_child: Child, _job: Convert) -> Result<Conversion, Failure> {
        todo!()
    }

    /// Progress until the last event, then `None`.
    pub async fn next(&mut self) -> Option<ConversionEvent> {
        todo!()
    }
}
