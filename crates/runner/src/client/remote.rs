use std::time::Duration;

use protocol::{Failure, LoadModel, LoadedModel, MemoryReport, Request};

use super::{Child, EventStream};

/// A child with a loaded model. Dropping it ends the child.
pub struct Runner {}

impl Runner {
    /// `stall_max`: how long loading may go without progress; `None` waits for ever.
    pub async fn load(
        _child: Child,
        _model: LoadModel,
        _stall_max: Option<Duration>,
        _progress: impl FnMut(u64, u64) + Send,
    ) -> Result<Runner, Failure> {
        todo!()
    }

    pub fn info(&self) -> &LoadedModel {
        todo!()
    }

    pub async fn submit(&self, _request: Request) -> Result<EventStream, Failure> {
        todo!()
    }

    /// What the engine last said about its memory; asks anew and waits a moment for the answer.
    pub async fn memory(&self) -> MemoryReport {
        todo!()
    }

    /// Returns when the child is gone, with the reason.
    pub async fn ended(&self) -> Failure {
        todo!()
    }

    pub fn is_alive(&self) -> bool {
        todo!()
    }

    /// Asks the child to end, kills it after a grace time, returns when it is gone.
    pub async fn shutdown(&self) {
        todo!()
    }
}
