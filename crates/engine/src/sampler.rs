//! From logits to tokens: nothing here waits for the device, so the next step can be dispatched before this one's token
//! is read.
//!
//! The order of the options stands in `kernels::draw`; on the CPU that is what runs, elsewhere `graph` builds the same
//! from MLX's operations. A draw's randomness is a function of (seed, index of the draw, token) alone, so a reply
//! depends neither on who else is in the batch nor on the device. Log-probabilities are those of the raw logits,
//! whatever the options and forms make of them.

mod graph;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mlx::{Array, Draws, EvalError};
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

/// Waits for draws; `wanted` tells for each how many alternatives were asked for.
pub(crate) fn read(draws: &Draws, wanted: &[Option<u8>]) -> Result<Vec<Drawn>, EvalError> {
    let tokens: Vec<u32> = draws.tokens.to_vec()?;
    let Some(logprobs) = &draws.logprobs else {
        return Ok(tokens.into_iter().map(|token| Drawn { token, logprob: None }).collect());
    };
    let chosen: Vec<f32> = logprobs.chosen.to_vec()?;
    let (ids, values, width) = match &logprobs.top {
        None => (Vec::new(), Vec::new(), 0),
        Some((ids, values)) => {
            (ids.to_vec::<u32>()?, values.to_vec::<f32>()?, ids.shape()[1] as usize)
        }
    };
    let drawn = |(row, (token, wanted)): (usize, (u32, &Option<u8>))| {
        let logprob = wanted.map(|count| {
            let top = row * width..row * width + width.min(usize::from(count));
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

fn choice(id: u32, logprob: f32) -> TokenChoice {
    // NaN, too.
    let logprob = if logprob > LOGPROB_MIN { logprob } else { LOGPROB_MIN };
    TokenChoice { id, logprob, bytes: Vec::new() }
}
