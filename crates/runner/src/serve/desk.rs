//! What the engine answers through: which requests live, and how far each may run ahead of its reader.

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;

use protocol::wire::{CREDIT_EVENTS, FromChild};
use protocol::{Event, Outbox, RequestId};

pub(super) struct Desk {
    frames: SyncSender<FromChild>,
    /// Of live requests. Below zero when an engine sent events that it had in hand already.
    credit: HashMap<RequestId, i64>,
}

impl Desk {
    pub fn new(frames: SyncSender<FromChild>) -> Desk {
        Desk { frames, credit: HashMap::new() }
    }

    pub fn admit(&mut self, id: RequestId) {
        self.credit.insert(id, i64::from(CREDIT_EVENTS));
    }

    pub fn live(&self) -> usize {
        self.credit.len()
    }

    pub fn dismiss(&mut self, id: RequestId) -> bool {
        self.credit.remove(&id).is_some()
    }

    pub fn grant(&mut self, id: RequestId, events: u32) {
        if let Some(credit) = self.credit.get_mut(&id) {
            *credit += i64::from(events);
        }
    }

    /// A server that is gone hears nothing; the inbox says so soon.
    pub fn tell(&self, frame: FromChild) {
        let _ = self.frames.send(frame);
    }
}

impl Outbox for Desk {
    fn send(&mut self, id: RequestId, event: Event) {
        let Some(credit) = self.credit.get_mut(&id) else {
            tracing::debug!(id = id.0, "an event of a request that is over");
            return;
        };
        *credit -= 1;
        if event.is_last() {
            self.credit.remove(&id);
        }
        self.tell(FromChild::Event { id, event });
    }

    fn ready(&self, id: RequestId) -> bool {
        self.credit.get(&id).is_none_or(|credit| *credit > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Delta, Failure, FailureKind};
    use std::sync::mpsc::sync_channel;

    const ID: RequestId = RequestId(1);

    #[test]
    fn credit_runs_out_and_comes_back() {
        let (frames, sent) = sync_channel(1000);
        let mut desk = Desk::new(frames);
        desk.admit(ID);
        let mut count = 0;
        while desk.ready(ID) {
            desk.send(ID, Event::Delta(Delta::default()));
            count += 1;
        }
        assert_eq!(count, CREDIT_EVENTS);
        desk.grant(ID, 1);
        assert!(desk.ready(ID));
        assert_eq!(sent.try_iter().count(), CREDIT_EVENTS as usize);
    }

    #[test]
    fn nothing_follows_the_last_event() {
        let (frames, sent) = sync_channel(10);
        let mut desk = Desk::new(frames);
        desk.admit(ID);
        let failure = Failure::new(FailureKind::Internal, "x");
        desk.send(ID, Event::Failed(failure.clone()));
        desk.send(ID, Event::Delta(Delta::default()));
        desk.send(ID, Event::Failed(failure));
        assert_eq!(sent.try_iter().count(), 1);
        assert!(!desk.dismiss(ID));
    }
}
