//! Commands on their way to an engine: in order, and never more than the live requests make.
//!
//! Used at both ends. Neither end ever blocks to push: what could pile up melts together instead (a cancellation
//! removes its own unread submission, credit adds up, one question about memory is enough), so the length is
//! bounded by a few entries for each of the at most [`REQUESTS_MAX`] live requests.

use std::collections::VecDeque;

use protocol::RequestId;
use protocol::wire::ToChild;

/// Requests alive in one runner. Price: each its own body, and events up to its credit.
pub(crate) const REQUESTS_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Commands {
    queue: VecDeque<ToChild>,
}

impl Commands {
    pub fn push(&mut self, command: ToChild) {
        match command {
            ToChild::Cancel(id) if self.forget_unread(id) => {}
            ToChild::Credit { id, events } if self.add_credit(id, events) => {}
            ToChild::Memory if self.queue.contains(&ToChild::Memory) => {}
            other => self.queue.push_back(other),
        }
    }

    pub fn pop(&mut self) -> Option<ToChild> {
        self.queue.pop_front()
    }

    /// True: the request was not read yet, so nobody has to be told.
    fn forget_unread(&mut self, id: RequestId) -> bool {
        let before = self.queue.len();
        self.queue
            .retain(|command| !matches!(command, ToChild::Submit(request) if request.id == id));
        let unread = self.queue.len() < before;
        self.queue
            .retain(|command| !matches!(command, ToChild::Credit { id: of, .. } if *of == id));
        unread
    }

    fn add_credit(&mut self, id: RequestId, more: u32) -> bool {
        for command in &mut self.queue {
            if let ToChild::Credit { id: of, events } = command
                && *of == id
            {
                *events = events.saturating_add(more);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Request;

    fn submit(id: u64) -> ToChild {
        ToChild::Submit(Box::new(Request::raw(RequestId(id), "")))
    }

    fn credit(id: u64, events: u32) -> ToChild {
        ToChild::Credit { id: RequestId(id), events }
    }

    fn check(pushed: Vec<ToChild>, expected: Vec<ToChild>) {
        let mut commands = Commands::default();
        pushed.into_iter().for_each(|command| commands.push(command));
        let left: Vec<_> = std::iter::from_fn(|| commands.pop()).collect();
        assert_eq!(left, expected);
    }

    #[test]
    fn what_could_pile_up_melts_together() {
        let cancel = |id| ToChild::Cancel(RequestId(id));
        check(vec![submit(1), submit(2), cancel(1)], vec![submit(2)]);
        check(vec![cancel(1), submit(2)], vec![cancel(1), submit(2)]);
        check(vec![credit(1, 3), cancel(1)], vec![cancel(1)]);
        check(vec![credit(1, 3), credit(2, 1), credit(1, 4)], vec![credit(1, 7), credit(2, 1)]);
        check(vec![ToChild::Memory, submit(1), ToChild::Memory], vec![ToChild::Memory, submit(1)]);
        check(vec![submit(1), ToChild::Shutdown], vec![submit(1), ToChild::Shutdown]);
    }
}
