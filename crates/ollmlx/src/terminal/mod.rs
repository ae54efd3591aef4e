//! What the program writes to a person: tables, progress, a reply as it comes in, humane numbers.
//!
//! Knows nothing of HTTP. Standard output carries results, standard error everything about them.

pub mod humane;
pub mod progress;
pub mod reply;
pub mod table;

use std::io::{self, IsTerminal, Write};

/// Columns and lines assumed where there is no terminal to ask.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// Writes to standard output, now. A reader that has gone (`| head`) is an error, not a panic.
pub fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

pub fn out_line(text: &str) -> io::Result<()> {
    out(&format!("{text}\n"))
}

/// Writes to standard error. Nobody can be told when that fails.
pub fn note(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

pub fn note_line(text: &str) {
    note(&format!("{text}\n"));
}

pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Columns and lines of the terminal, or 80 × 24.
pub fn size() -> (usize, usize) {
    terminal_size::terminal_size()
        .map_or(SIZE_DEFAULT, |(width, height)| (usize::from(width.0), usize::from(height.0)))
}
