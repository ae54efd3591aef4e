use protocol::{Event, RequestId};

/// The events of one request. Reading grants the engine credit; dropping it before its end cancels the request.
pub struct EventStream {}

impl EventStream {
    pub fn id(&self) -> RequestId {
        todo!()
    }

    /// Ends with exactly one last event, then `None`.
    pub async fn next(&mut self) -> Option<Event> {
        todo!()
    }
}
