//! An engine without a model.

use protocol::{Engine, MemoryReport, Outbox, Request, RequestId, Work};

pub struct Scripted {}

impl Engine for Scripted {
    fn submit(&mut self, _request: Request, _out: &mut dyn Outbox) {
        todo!()
    }
    fn cancel(&mut self, _id: RequestId) {
        todo!()
    }
    fn step(&mut self, _out: &mut dyn Outbox) -> Work {
        todo!()
    }
    fn memory(&self) -> MemoryReport {
        todo!()
    }
}
