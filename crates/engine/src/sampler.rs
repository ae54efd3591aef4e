//! From logits to tokens: drawing waits for nothing, so the next step can be dispatched before this one's token is read,
//! and reading ([`Readings`]) waits for its own step only, not for the next.
//!
//! The order of the options stands in `kernels::draw`; on the CPU that is what runs, elsewhere `graph` builds the same
//! from MLX's operations. A draw's randomness is a function of (seed, index of the draw, token) alone, so a reply
//! depends neither on who else is in the batch nor on the device. Log-probabilities are those of the raw logits,
//! whatever the options and forms make of them.

mod graph;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mlx::{Array, Draws, EvalError, Reading};
use protocol::{TokenChoice, TokenLogprob};

use crate::executor::Drawn;
use crate::sampling::{Edits, Sampling};

/// What JSON can carry in place of minus infinity.
const LOGPROB_MIN: f32 = -9999.0;

/// One draw, from this row of logits.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub row: usize,
    pub sampling: &'a Sampling,
    /// Counts the draws of the sequence.
    pub index: u64,
    pub edits: &'a Edits,
    pub logprobs: Option<u8>,
}

/// Draws from `logits`, [rows, vocabulary].
pub(crate) fn draw(logits: &Array, rows: &[Row<'_>]) -> Draws {
    let draws: Vec<mlx::Draw> = rows.iter().map(resolved).collect();
    mlx::draw(logits, &draws).unwrap_or_else(|| graph::draw(logits, &draws))
}

fn resolved(row: &Row<'_>) -> mlx::Draw {
    mlx::Draw {
        row: row.row,
        limits: row.sampling.limits,
        key: row.sampling.key(row.index),
        edits: Arc::clone(&row.edits.tokens),
        allowed: row.edits.mask.as_ref().map(|mask| mask.words().into()),
        logprobs: row.logprobs.map(usize::from),
    }
}

/// What the host reads of draws.
pub(crate) struct Readings {
    tokens: Reading,
    vocabulary: u32,
    logprobs: Option<LogprobReadings>,
}

struct LogprobReadings {
    chosen: Reading,
    top: Option<(Reading, Reading)>,
    /// Alternatives of each draw.
    width: usize,
}

impl Readings {
    /// Of draws from so many tokens.
    pub fn of(draws: &Draws, vocabulary: u32) -> Readings {
        let logprobs = |logprobs: &mlx::Logprobs| LogprobReadings {
            chosen: logprobs.chosen.reading(),
            top: logprobs.top.as_ref().map(|(ids, values)| (ids.reading(), values.reading())),
            width: logprobs.top.as_ref().map_or(0, |(ids, _)| ids.dim(1) as usize),
        };
        Readings {
            tokens: draws.tokens.reading(),
            vocabulary,
            logprobs: draws.logprobs.as_ref().map(logprobs),
        }
    }

    /// All that is to be computed for them.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        let logprobs = self.logprobs.iter().flat_map(|logprobs| {
            let top = logprobs.top.iter().flat_map(|(ids, values)| [ids, values]);
            std::iter::once(&logprobs.chosen).chain(top)
        });
        std::iter::once(&self.tokens).chain(logprobs).map(Reading::array)
    }

    /// Waits; `wanted` tells for each draw how many alternatives were asked for.
    pub fn read(&self, wanted: &[Option<u8>]) -> Result<Vec<Drawn>, EvalError> {
        let tokens: Vec<u32> = self.tokens.to_vec()?;
        // A GPU that has failed says so when it is asked for the next step, and until then gives whatever lies there.
        if let Some(token) = tokens.iter().find(|token| **token >= self.vocabulary) {
            let message = format!("token {token} was drawn of {}", self.vocabulary);
            return Err(EvalError::Failed(message));
        }
        let Some(LogprobReadings { chosen, top, width }) = &self.logprobs else {
            return Ok(tokens.into_iter().map(|token| Drawn { token, logprob: None }).collect());
        };
        let chosen: Vec<f32> = chosen.to_vec()?;
        let (ids, values) = match top {
            None => (Vec::new(), Vec::new()),
            Some((ids, values)) => (ids.to_vec::<u32>()?, values.to_vec::<f32>()?),
        };
        let drawn = |(row, (token, wanted)): (usize, (u32, &Option<u8>))| {
            let logprob = wanted.map(|count| {
                let top = row * width..row * width + usize::from(count).min(*width);
                let top = ids[top.clone()].iter().zip(&values[top]);
                TokenLogprob {
                    chosen: choice(token, chosen[row]),
                    top: top.map(|(id, value)| choice(*id, *value)).collect(),
                }
            });
            Drawn { token, logprob }
        };
        Ok(tokens.into_iter().zip(wanted).enumerate().map(drawn).collect())
    }
}

fn choice(id: u32, logprob: f32) -> TokenChoice {
    // NaN, too.
    let logprob = if logprob > LOGPROB_MIN { logprob } else { LOGPROB_MIN };
    TokenChoice { id, logprob, bytes: Vec::new() }
}
