//! Tokens to text, one by one.

/// What becomes of special tokens in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    Skip,
    Show,
}

#[derive(Clone, Debug, Default)]
pub struct Stream {}

impl Stream {
    /// The text that this token completes; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> String {
        let _ = id;
        String::new()
    }

    /// What is still held back, at the end of a reply.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
