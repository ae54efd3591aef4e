//! A child's log: its lines go to ours, and the last ones into the message when it dies.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStderr;
use tokio::sync::oneshot;

/// Longer lines are cut in pieces. Price: this much memory for each child.
const LINE_BYTES_MAX: u64 = 4096;

/// What a failure's message quotes.
const QUOTED_LINES_MAX: usize = 5;
const QUOTED_BYTES_MAX: usize = 300;

/// How long the rest of a dead child's log is waited for: a grandchild may hold it open.
const REST_WAIT: Duration = Duration::from_millis(300);

#[derive(Default)]
pub(super) struct Stderr {
    last: Arc<Mutex<VecDeque<String>>>,
    complete: Option<oneshot::Receiver<()>>,
}

impl Stderr {
    pub fn follow(from: ChildStderr, pid: u32) -> Stderr {
        let last = Arc::<Mutex<VecDeque<String>>>::default();
        let (done, complete) = oneshot::channel();
        let lines = Arc::clone(&last);
        tokio::spawn(async move {
            follow(from, pid, &lines).await;
            let _ = done.send(());
        });
        Stderr { last, complete: Some(complete) }
    }

    /// The last lines of a child that has ended, oldest first.
    pub async fn last_lines(&mut self) -> Vec<String> {
        if let Some(complete) = self.complete.take() {
            let _ = tokio::time::timeout(REST_WAIT, complete).await;
        }
        let lines = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

async fn follow(from: ChildStderr, pid: u32, last: &Mutex<VecDeque<String>>) {
    let mut from = BufReader::new(from);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match (&mut from).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        tracing::info!(target: "runner", pid, "{line}");
        remember(&mut last.lock().unwrap_or_else(PoisonError::into_inner), line);
    }
}

fn remember(last: &mut VecDeque<String>, line: &str) {
    if last.len() == QUOTED_LINES_MAX {
        last.pop_front();
    }
    let cut = line.floor_char_boundary(QUOTED_BYTES_MAX);
    last.push_back(line[..cut].to_owned());
}
