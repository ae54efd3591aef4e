//! The narrow door through which `runner` serves any engine: the real one, or a scripted one in tests.

use crate::{Event, Request, RequestId};

/// Owned by one thread. Nothing happens in the middle of a step: requests and cancellations come between steps.
pub trait Engine {
    /// Takes a request on. It is answered through `out`, now or in later steps, with exactly one last event.
    fn submit(&mut self, request: Request, out: &mut dyn Outbox);

    /// Forgets a request. No further event of it may be sent; its memory is free after this call.
    fn cancel(&mut self, id: RequestId);

    /// One step. Sequences whose reader is slow (`!out.ready(id)`) are left out of it.
    fn step(&mut self, out: &mut dyn Outbox) -> Work;

    fn memory(&self) -> MemoryReport;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Call `step` again at once.
    More,
    /// Nothing to do until a command comes (or a paused reader is ready again).
    Idle,
}

/// Where events go. Sending never blocks: a reader that does not keep up only pauses its own sequence.
pub trait Outbox {
    fn send(&mut self, id: RequestId, event: Event);

    /// Whether the reader of this request can take more.
    fn ready(&self, id: RequestId) -> bool;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MemoryReport {
    pub active_bytes: u64,
    pub cache_bytes: u64,
    pub peak_bytes: u64,
}
