//! The right to use a loaded model. As long as a lease or a stream made from it lives, the model is not idle.

use std::time::Duration;

use protocol::{Event, Failure, LoadedModel, Request};

pub struct Lease {}

impl Lease {
    pub fn info(&self) -> &LoadedModel {
        todo!()
    }

    /// How long this lease was waited for.
    pub fn load_duration(&self) -> Duration {
        todo!()
    }

    /// The context a request gets that names none.
    pub fn context_tokens(&self) -> u32 {
        todo!()
    }

    /// Fills in `options.num_ctx` where the request names none.
    pub async fn submit(&self, _request: Request) -> Result<EventStream, Failure> {
        todo!()
    }
}

/// The events of one request; dropping it cancels the request.
pub struct EventStream {}

impl EventStream {
    /// Ends with exactly one last event, then `None`.
    pub async fn next(&mut self) -> Option<Event> {
        todo!()
    }
}
