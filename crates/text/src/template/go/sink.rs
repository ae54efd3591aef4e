//! Where output goes: bytes up to a limit. What is beyond it is dropped and remembered as too much.

pub(in crate::template) struct Sink {
    pub bytes: Vec<u8>,
    limit: usize,
    /// The size that was too much.
    pub refused: Option<usize>,
}

impl Sink {
    pub(in crate::template) fn new(limit: usize) -> Sink {
        Sink { bytes: Vec::new(), limit, refused: None }
    }

    pub(super) fn push(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let size = self.bytes.len().saturating_add(bytes.len());
        match size > self.limit {
            true => self.refused = Some(size),
            false => self.bytes.extend_from_slice(bytes),
        }
    }

    pub(super) fn push_char(&mut self, character: char) {
        self.push(character.encode_utf8(&mut [0; 4]));
    }

    pub(super) fn fill(&mut self, byte: u8, count: usize) {
        let size = self.bytes.len().saturating_add(count);
        match size > self.limit {
            true => self.refused = Some(size),
            false => self.bytes.resize(size, byte),
        }
    }
}
