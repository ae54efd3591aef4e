//! Lines of progress on standard error: spinners and bars, drawn over one another while work goes on.
//!
//! A thread redraws ten times a second, on a terminal only; elsewhere just the last state of lines that stay is
//! written. How the lines end is the caller's choice: [`Progress::kept`] leaves them, [`Progress::cleared`] wipes them.
//! Dropping ends them.

mod bar;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bar::Bar;

const TICK: Duration = Duration::from_millis(100);
const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// Lines kept; older ones of a very long job are dropped from the top. Price: a redraw writes all that fit the screen.
const LINES_MAX: usize = 10_000;

const SYNC_ON: &str = "\x1b[?2026h";
const SYNC_OFF: &str = "\x1b[?2026l";
const CURSOR_OFF: &str = "\x1b[?25l";
const CURSOR_ON: &str = "\x1b[?25h";
const LINE_UP: &str = "\x1b[A";
const LINE_START: &str = "\x1b[1G";
const ERASE_TO_END: &str = "\x1b[K";
const ERASE_LINE: &str = "\x1b[2K";

pub struct Progress {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
    clear: bool,
    animated: bool,
    ended: bool,
}

/// One line, to change it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineId(usize);

impl Progress {
    /// The lines stay when it ends.
    pub fn kept() -> Progress {
        Progress::start(Box::new(io::stderr()), io::stderr().is_terminal(), false)
    }

    /// The lines are wiped when it ends.
    pub fn cleared() -> Progress {
        Progress::start(Box::new(io::stderr()), io::stderr().is_terminal(), true)
    }

    /// A spinner without words, wiped when it ends.
    pub fn waiting() -> Progress {
        let progress = Progress::cleared();
        progress.spinner("");
        progress
    }

    fn start(to: Box<dyn Write + Send>, animated: bool, clear: bool) -> Progress {
        let screen = Screen { to, lines: Vec::new(), dropped: 0, drawn: 0, ticks: 0 };
        let shared = Arc::new(Shared { screen: Mutex::new((screen, false)), wake: Condvar::new() });
        let ticker = animated.then(|| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.tick())
        });
        Progress { shared, ticker, clear, animated, ended: false }
    }

    pub fn spinner(&self, message: &str) -> LineId {
        self.lock().0.add(Line::Spinner { message: message.to_owned(), turning: true })
    }

    pub fn bar(&self, message: &str, total_bytes: u64, completed_bytes: u64) -> LineId {
        self.lock().0.add(Line::Bar(Bar::new(message, total_bytes, completed_bytes)))
    }

    /// Changes a spinner's words.
    pub fn say(&self, id: LineId, message: &str) {
        if let Some(Line::Spinner { message: old, .. }) = self.lock().0.line(id) {
            message.clone_into(old);
        }
    }

    /// Stops a spinner; its words stay.
    pub fn stop(&self, id: LineId) {
        if let Some(Line::Spinner { turning, .. }) = self.lock().0.line(id) {
            *turning = false;
        }
    }

    pub fn set(&self, id: LineId, completed_bytes: u64) {
        if let Some(Line::Bar(bar)) = self.lock().0.line(id) {
            bar.set(completed_bytes, Instant::now());
        }
    }

    /// Ends the lines; later calls change nothing that is seen.
    pub fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.lock().1 = true;
        self.shared.wake.notify_all();
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
        let mut guard = self.lock();
        let screen = &mut guard.0;
        screen.stop_spinners();
        // Nobody can be told when standard error is gone.
        let _ = match self.clear {
            false => screen.draw_last(),
            // What would be wiped at once need not be written to a file.
            true if self.animated => screen.wipe(),
            true => Ok(()),
        };
    }

    fn lock(&self) -> MutexGuard<'_, (Screen, bool)> {
        self.shared.lock()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

struct Shared {
    /// The screen, and whether the ticker shall end.
    screen: Mutex<(Screen, bool)>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Screen, bool)> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        let mut guard = self.lock();
        loop {
            let (woken, timeout) =
                self.wake.wait_timeout(guard, TICK).unwrap_or_else(PoisonError::into_inner);
            guard = woken;
            if guard.1 {
                return;
            }
            if timeout.timed_out() {
                guard.0.ticks += 1;
                let _ = guard.0.draw();
            }
        }
    }
}

struct Screen {
    to: Box<dyn Write + Send>,
    lines: Vec<Line>,
    /// Lines no longer kept, so that ids stay right.
    dropped: usize,
    drawn: usize,
    ticks: usize,
}

impl Screen {
    fn add(&mut self, line: Line) -> LineId {
        if self.lines.len() == LINES_MAX {
            self.lines.remove(0);
            self.dropped += 1;
        }
        self.lines.push(line);
        LineId(self.dropped + self.lines.len() - 1)
    }

    fn line(&mut self, id: LineId) -> Option<&mut Line> {
        self.lines.get_mut(id.0.checked_sub(self.dropped)?)
    }

    fn stop_spinners(&mut self) {
        for line in &mut self.lines {
            if let Line::Spinner { turning, .. } = line {
                *turning = false;
            }
        }
    }

    fn draw(&mut self) -> io::Result<()> {
        let frame = self.frame();
        self.to.write_all(frame.as_bytes())?;
        self.to.flush()
    }

    fn draw_last(&mut self) -> io::Result<()> {
        let frame = self.frame() + "\n";
        self.to.write_all(frame.as_bytes())?;
        self.to.flush()
    }

    fn wipe(&mut self) -> io::Result<()> {
        let frame = self.frame();
        let lines = vec![format!("{ERASE_LINE}{LINE_START}"); self.drawn].join(LINE_UP);
        write!(self.to, "{CURSOR_OFF}{frame}{lines}{CURSOR_ON}")?;
        self.to.flush()
    }

    /// All lines that fit the screen, drawn over those of the frame before.
    fn frame(&mut self) -> String {
        let (width, height) = super::size();
        let shown = self.lines.len().min(height);
        let up = LINE_UP.repeat(self.drawn.saturating_sub(1));
        let tail = &self.lines[self.lines.len() - shown..];
        let text = |line: &Line| line.text(self.ticks, width) + ERASE_TO_END;
        let body = tail.iter().map(text).collect::<Vec<_>>().join("\n");
        self.drawn = shown;
        format!("{SYNC_ON}{CURSOR_OFF}{up}{LINE_START}{body}{CURSOR_ON}{SYNC_OFF}")
    }
}

enum Line {
    Spinner { message: String, turning: bool },
    Bar(Bar),
}

impl Line {
    fn text(&self, ticks: usize, width: usize) -> String {
        match self {
            Line::Bar(bar) => bar.text(width),
            Line::Spinner { message, turning } => {
                let message = message.trim();
                let blank = if message.is_empty() { "" } else { " " };
                let frame =
                    if *turning { format!("{} ", FRAMES[ticks % 10]) } else { String::new() };
                format!("{message}{blank}{frame}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn check(clear: bool, work: impl FnOnce(&Progress), expected: &str) {
        let kept = Kept::default();
        let mut progress = Progress::start(Box::new(kept.clone()), false, clear);
        work(&progress);
        progress.end();
        drop(progress);
        assert_eq!(String::from_utf8(kept.0.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn the_last_frame_is_what_scripts_see() {
        check(false, |_| {}, "\x1b[?2026h\x1b[?25l\x1b[1G\x1b[?25h\x1b[?2026l\n");
        check(
            false,
            |progress| {
                let first = progress.spinner("gathering model components");
                progress.stop(first);
                let second = progress.spinner("copying file 0%");
                progress.say(second, "copying file 100%");
            },
            "\x1b[?2026h\x1b[?25l\x1b[1Ggathering model components \x1b[K\ncopying file 100% \x1b[K\x1b[?25h\x1b[?2026l\n",
        );
        check(
            true,
            |progress| {
                progress.spinner("");
            },
            "",
        );
    }

    #[test]
    fn wiped_lines_leave_nothing() {
        let kept = Kept::default();
        let line = || Line::Spinner { message: String::new(), turning: false };
        let to = Box::new(kept.clone());
        let lines = vec![line(), line()];
        Screen { to, lines, dropped: 0, drawn: 0, ticks: 0 }.wipe().unwrap();
        let expected = "\x1b[?25l\x1b[?2026h\x1b[?25l\x1b[1G\x1b[K\n\x1b[K\x1b[?25h\x1b[?2026l\
                        \x1b[2K\x1b[1G\x1b[A\x1b[2K\x1b[1G\x1b[?25h";
        assert_eq!(String::from_utf8(kept.0.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn a_job_with_very_many_lines_keeps_the_last_ones() {
        let progress = Progress::start(Box::new(Kept::default()), false, false);
        let first = progress.spinner("first");
        for _ in 0..LINES_MAX {
            progress.spinner("more");
        }
        progress.say(first, "gone");
        assert_eq!(progress.lock().0.lines.len(), LINES_MAX);
    }
}
