//! The right to use a loaded model. As long as a lease or a stream made from it lives, the model is not idle.

use std::sync::Arc;
use std::time::Duration;

use protocol::{Event, Failure, LoadedModel, Request, RequestId};
use runner::Runner;

use crate::pump::Inner;

pub struct Lease {
    in_use: Arc<Use>,
    waited: Duration,
    context_tokens: u32,
}

impl Lease {
    pub(crate) fn new(in_use: Use, waited: Duration, context_tokens: u32) -> Lease {
        Lease { in_use: Arc::new(in_use), waited, context_tokens }
    }

    pub fn info(&self) -> &LoadedModel {
        self.in_use.runner.info()
    }

    /// How long this lease was waited for.
    pub fn load_duration(&self) -> Duration {
        self.waited
    }

    /// The context a request gets that names none.
    pub fn context_tokens(&self) -> u32 {
        self.context_tokens
    }

    /// Fills in `options.num_ctx` where the request names none.
    pub async fn submit(&self, mut request: Request) -> Result<EventStream, Failure> {
        request.options.num_ctx.get_or_insert(i64::from(self.context_tokens));
        let events = self.in_use.runner.submit(request)?;
        Ok(EventStream { events, _use: Arc::clone(&self.in_use) })
    }
}

/// The events of one request; dropping it cancels the request.
pub struct EventStream {
    events: runner::EventStream,
    /// Dropped after the events, so that the cancellation is on its way first.
    _use: Arc<Use>,
}

impl EventStream {
    pub fn id(&self) -> RequestId {
        self.events.id()
    }

    /// Ends with exactly one last event, then `None`. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.next().await
    }
}

/// One request in flight, counted from the hand-out of its lease.
pub(crate) struct Use {
    pub scheduler: Arc<Inner>,
    pub digest: String,
    /// Which of the runners that this digest had.
    pub epoch: u64,
    pub runner: Arc<Runner>,
}

impl Drop for Use {
    fn drop(&mut self) {
        self.scheduler.release(&self.digest, self.epoch);
    }
}
