//! Time as answers tell it; tests hold it still.

use std::time::{Duration, Instant};

use jiff::Timestamp;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// Since the request came in.
    Running(Instant),
    #[cfg(test)]
    Still,
}

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        match self {
            Clock::Running(_) => Timestamp::now(),
            #[cfg(test)]
            Clock::Still => Timestamp::UNIX_EPOCH,
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            Clock::Running(started) => started.elapsed(),
            #[cfg(test)]
            Clock::Still => Duration::from_nanos(1_000),
        }
    }
}
