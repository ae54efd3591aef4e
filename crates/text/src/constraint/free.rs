//! What comes before the constrained part: thinking, which is free until its closing tag.
//!
//! The tag may be one token or many, and the token that ends it may go on behind it. Only white space may follow there:
//! anything else would belong to the constrained part without having been asked for.

use super::{Mask, Vocabulary};

/// How a model thinks in this request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinking {
    /// What the model has to write before it thinks; empty where the prompt has already opened it.
    pub open: String,
    /// What ends it.
    pub close: String,
}

#[derive(Clone, Debug)]
pub(super) struct Free {
    /// Of the opening tag, what is still to be written.
    opening: Vec<u8>,
    close: Vec<u8>,
    /// The last bytes written, as many as may belong to the closing tag.
    tail: Vec<u8>,
    /// By the number of the tag's bytes that are written: tokens that close it and go on with something.
    overshooting: Vec<Vec<u32>>,
}

impl Free {
    pub fn new(thinking: &Thinking, vocabulary: &Vocabulary) -> Free {
        let close = thinking.close.as_bytes().to_vec();
        let overshooting = overshooting(&close, vocabulary);
        Free { opening: thinking.open.as_bytes().to_vec(), tail: Vec::new(), close, overshooting }
    }

    pub fn mask(&self, vocabulary: &Vocabulary) -> Mask {
        match self.opening.is_empty() {
            true => self.mask_of_thoughts(vocabulary),
            false => mask_of_tag(&self.opening, vocabulary),
        }
    }

    fn mask_of_thoughts(&self, vocabulary: &Vocabulary) -> Mask {
        let mut mask = vocabulary.inner.text.clone();
        for (written, tokens) in self.overshooting.iter().enumerate() {
            if self.tail.ends_with(&self.close[..written]) {
                tokens.iter().for_each(|id| mask.forbid(*id));
            }
        }
        mask
    }

    /// True when this token ends the free part.
    pub fn accept(&mut self, bytes: &[u8]) -> bool {
        if !self.opening.is_empty() {
            let taken = bytes.len().min(self.opening.len());
            self.opening.drain(..taken);
            return false;
        }
        self.tail.extend_from_slice(bytes);
        let blanks = self.tail.iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count();
        let ends = self.tail.ends_with(&self.close)
            || (blanks > 0 && self.tail[..self.tail.len() - blanks].ends_with(&self.close));
        let kept = self.tail.len().saturating_sub(self.close.len());
        self.tail.drain(..kept);
        ends
    }
}

/// The longest token that writes the tag on; none if no token does.
fn mask_of_tag(rest: &[u8], vocabulary: &Vocabulary) -> Mask {
    let inner = &vocabulary.inner;
    let mut mask = Mask::none(vocabulary.len() + 1);
    let writes = |id: &u32| rest.starts_with(inner.pieces.bytes(*id));
    let longest = inner.text.ids().filter(writes).max_by_key(|id| inner.pieces.bytes(*id).len());
    longest.into_iter().for_each(|id| mask.allow(id));
    mask
}

/// By the number of the tag's bytes that are written: tokens that begin with the rest of it (or hold all of it, when
/// nothing is written), and then more than white space.
fn overshooting(tag: &[u8], vocabulary: &Vocabulary) -> Vec<Vec<u32>> {
    let inner = &vocabulary.inner;
    let mut found = vec![Vec::new(); tag.len()];
    for id in inner.text.ids() {
        let bytes = inner.pieces.bytes(id);
        for (written, tokens) in found.iter_mut().enumerate() {
            if goes_on(bytes, &tag[written..]) || (written == 0 && holds(bytes, tag)) {
                tokens.push(id);
            }
        }
    }
    found
}

fn goes_on(bytes: &[u8], rest: &[u8]) -> bool {
    bytes.starts_with(rest) && !bytes[rest.len()..].trim_ascii().is_empty()
}

/// The whole tag in the middle of a token.
fn holds(bytes: &[u8], tag: &[u8]) -> bool {
    let last = bytes.windows(tag.len().max(1)).rposition(|window| window == tag);
    last.is_some_and(|at| goes_on(&bytes[at..], tag))
}
