//! Tokenizers that the crate `tokenizers` cannot hold, or not as fast: their added tokens are cut out, the rest goes to
//! the model.

use super::added::{Added, Part};
use super::bytepair::BytePair;
use super::sentencepiece::SentencePiece;

#[derive(Debug)]
pub(crate) struct Own {
    /// Each is looked for in what those before it have left.
    pub added: Vec<Added>,
    pub model: Model,
}

#[derive(Debug)]
pub(crate) enum Model {
    BytePair(BytePair),
    SentencePiece { model: Box<SentencePiece>, prefixes: Prefixes, shift: Option<Shift> },
}

/// Which parts of a text begin with SentencePiece's blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefixes {
    /// Each one behind an added token too: what the models before 2024 were trained with.
    Each,
    /// Only the text's beginning.
    First,
}

/// Fairseq's numbering: its own tokens come first, all pieces but those move up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shift {
    pub by: u32,
    /// Ids of pieces that are at another place, by theirs in the model.
    pub moved: Vec<(u32, u32)>,
}

impl Shift {
    pub(crate) fn apply(&self, id: u32) -> u32 {
        let moved = self.moved.iter().find(|(from, _)| *from == id);
        moved.map_or(id + self.by, |(_, to)| *to)
    }
}

impl Own {
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        let mut parts = vec![Part::Text(text)];
        for added in &self.added {
            let cut = |part| match part {
                Part::Text(text) => added.split(text),
                token => vec![token],
            };
            parts = parts.into_iter().flat_map(cut).collect();
        }
        for (index, part) in parts.into_iter().enumerate() {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => self.model.encode(text, index == 0, &mut ids)?,
            }
        }
        Ok(ids)
    }

    pub(crate) fn token_id(&self, token: &str) -> Option<u32> {
        let mut added = self.added.iter().flat_map(Added::tokens);
        let added = added.find(|added| added.text == token);
        added.map(|added| added.id).or_else(|| self.model.token_id(token))
    }
}

impl Model {
    fn encode(&self, text: &str, is_first: bool, ids: &mut Vec<u32>) -> Result<(), String> {
        match self {
            Model::BytePair(model) => model.encode(text, ids),
            Model::SentencePiece { model, prefixes, shift } => {
                let start = ids.len();
                model.encode(text, is_first || *prefixes == Prefixes::Each, ids)?;
                if let Some(shift) = shift {
                    ids[start..].iter_mut().for_each(|id| *id = shift.apply(*id));
                }
                Ok(())
            }
        }
    }

    fn token_id(&self, token: &str) -> Option<u32> {
        match self {
            Model::BytePair(model) => model.tokens.get(token.as_bytes()).copied(),
            Model::SentencePiece { model, shift, .. } => {
                let id = model.token_id(token)?;
                Some(shift.as_ref().map_or(id, |shift| shift.apply(id)))
            }
        }
    }
}
