//! A conversion in a child of its own. Its news is read as fast as its reader takes it; the child waits meanwhile.

use protocol::wire::{FromChild, ToChild};
use protocol::{Convert, ConvertProgress, Converted, Failure};

use super::Child;
use super::connection::Connection;

#[derive(Clone, Debug, PartialEq)]
pub enum ConversionEvent {
    Progress(ConvertProgress),
    /// The last event.
    Done(Converted),
    /// The last event.
    Failed(Failure),
}

/// A conversion in a child. Dropping it ends the child.
pub struct Conversion {
    /// `None` after the last event.
    connection: Option<Connection>,
}

impl Conversion {
    pub async fn start(child: Child, job: Convert) -> Result<Conversion, Failure> {
        let mut connection = Connection::open(child, "conversion".to_owned()).await?;
        connection.tell(&ToChild::Convert(Box::new(job))).await?;
        Ok(Conversion { connection: Some(connection) })
    }

    /// Progress until the last event, then `None`. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<ConversionEvent> {
        let connection = self.connection.as_mut()?;
        let last = match connection.frames.next().await {
            Ok(Some(FromChild::Progress(news))) => return Some(ConversionEvent::Progress(news)),
            Ok(Some(FromChild::Converted(converted))) => ConversionEvent::Done(converted),
            Ok(Some(FromChild::Refused(failure))) => ConversionEvent::Failed(failure),
            other => ConversionEvent::Failed(connection.life.lost_after(other).await),
        };
        self.connection = None;
        Some(last)
    }
}
