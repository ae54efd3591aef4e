//! One reply on its way through its grammar: what may come next, and what came.

use llguidance::Matcher;

use super::free::{Free, Step};
use super::grammar::reason;
use super::numbers::Numbers;
use super::{Mask, Vocabulary};
use crate::{Error, Result};

pub struct Constraint {
    vocabulary: Vocabulary,
    matcher: Matcher,
    /// What comes before the constrained part.
    free: Option<Free>,
    numbers: Option<Numbers>,
}

impl Constraint {
    pub(super) fn new(
        vocabulary: Vocabulary,
        matcher: Matcher,
        free: Option<Free>,
        numbers: Option<Numbers>,
    ) -> Constraint {
        Constraint { vocabulary, matcher, free, numbers }
    }

    /// The same reply at the same place, to go another way.
    pub fn fork(&self) -> Constraint {
        Constraint {
            vocabulary: self.vocabulary.clone(),
            matcher: self.matcher.clone(),
            free: self.free.clone(),
            numbers: self.numbers.clone(),
        }
    }

    /// The tokens that may come next, end tokens among them where the reply may end. Never empty.
    pub fn mask(&mut self) -> Result<Mask> {
        let mask = match self.free.take() {
            Some(free) => {
                let mask = free.mask(&self.vocabulary.clone(), || self.answer());
                self.free = Some(free);
                mask?
            }
            None => self.answer()?,
        };
        if mask.is_empty() {
            let why = "the reply cannot go on, as the model's vocabulary lacks what comes next";
            return Err(Error::format(why));
        }
        Ok(mask)
    }

    fn answer(&mut self) -> Result<Mask> {
        let allowed = self.matcher.compute_mask_or_eos();
        let allowed = allowed.map_err(|error| Error::format(reason(&error.to_string())))?;
        let mut mask = Mask::from_words(allowed.into());
        // Stands for the end where the model has none.
        mask.forbid(self.vocabulary.len() as u32);
        if let Some(numbers) = &self.numbers {
            numbers.limit(&self.vocabulary.inner.numbers, &mut mask);
        }
        Ok(mask)
    }

    /// Takes the token that was drawn; not an end token.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        let bytes = self.vocabulary.inner.pieces.bytes(token);
        if let Some(free) = &mut self.free {
            let matcher = &mut self.matcher;
            match free.accept(bytes, || matcher.validate_tokens(&[token]).is_ok_and(|n| n == 1)) {
                Step::Free => return Ok(()),
                Step::Closed => {
                    self.free = None;
                    return Ok(());
                }
                Step::Answer => self.free = None,
            }
        }
        if let Some(numbers) = &mut self.numbers {
            numbers.push(bytes);
        }
        let taken = self.matcher.consume_token(token);
        taken.map_err(|error| Error::format(reason(&error.to_string())))
    }

    /// Whether what came so far is a whole answer.
    pub fn may_end(&mut self) -> bool {
        self.free.is_none() && self.matcher.is_accepting().unwrap_or(false)
    }

    /// Whether nothing can follow.
    pub fn is_complete(&self) -> bool {
        self.free.is_none() && self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Constraint over {:?}", self.vocabulary)
    }
}
