//! The events of one request.

use std::sync::Arc;

use protocol::wire::{CREDIT_EVENTS, ToChild};
use protocol::{Event, RequestId};
use tokio::sync::mpsc;

use super::remote::Shared;

/// Events an engine may have in hand when its credit is used up.
const SLACK_EVENTS: u32 = 64;

/// What waits for a reader at most.
pub(super) const WAITING_EVENTS_MAX: usize = (CREDIT_EVENTS + SLACK_EVENTS) as usize;

/// Credit goes back in portions, so that granting costs little and the engine never starves.
const GRANT_EVENTS: u32 = CREDIT_EVENTS / 4;

/// The events of one request. Reading grants the engine credit; dropping it before its end cancels the request.
pub struct EventStream {
    id: RequestId,
    events: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
    read_events: u32,
    over: bool,
}

impl EventStream {
    pub(super) fn new(
        id: RequestId,
        events: mpsc::Receiver<Event>,
        shared: Arc<Shared>,
    ) -> EventStream {
        EventStream { id, events, shared, read_events: 0, over: false }
    }

    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Ends with exactly one last event, then `None`. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        let event = match self.events.recv().await {
            Some(event) => event,
            None => Event::Failed(self.shared.why_ended()),
        };
        self.over = event.is_last();
        self.grant();
        Some(event)
    }

    fn grant(&mut self) {
        self.read_events += 1;
        if self.read_events >= GRANT_EVENTS && !self.over {
            self.shared.tell(ToChild::Credit { id: self.id, events: self.read_events });
            self.read_events = 0;
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if !self.over {
            self.shared.cancel(self.id);
        }
    }
}
