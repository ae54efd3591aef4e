//! Draws as a kernel: tokens, and what log-probabilities were asked for, in one call.

use kernels::{Cpu, Drawn, Rows};

use super::values::{Values, is_float};
use super::{Input, Kernel, Output, Start, call, kernels_compute};
use crate::ops::{Draw, Draws, Logprobs};
use crate::{Array, Dtype};

#[track_caller]
pub(crate) fn draw(logits: &Array, draws: &[Draw]) -> Option<Draws> {
    let &[rows, columns] = logits.shape() else { return None };
    let fits = draws.iter().all(|draw| draw.row < rows as usize);
    if !kernels_compute() || !is_float(logits) || columns == 0 || draws.is_empty() || !fits {
        return None;
    }
    let count = draws.len() as i32;
    let alternatives = draws.iter().filter_map(|draw| draw.logprobs).max();
    let top = alternatives.map(|n| n.min(columns as usize)).filter(|n| *n > 0);
    let (line, table) = ([count], [count, top.unwrap_or(0) as i32]);
    let mut starts = vec![Start::Fresh { shape: &line, dtype: Dtype::U32 }];
    if alternatives.is_some() {
        starts.push(Start::Fresh { shape: &line, dtype: Dtype::F32 });
    }
    if top.is_some() {
        starts.extend([Dtype::U32, Dtype::F32].map(|dtype| Start::Fresh { shape: &table, dtype }));
    }
    let mut results = call(Drawing { draws: draws.to_vec() }, &[logits], &starts).into_iter();
    let tokens = results.next()?;
    let logprobs =
        results.next().map(|chosen| Logprobs { chosen, top: results.next().zip(results.next()) });
    Some(Draws { tokens, logprobs })
}

struct Drawing {
    draws: Vec<Draw>,
}

impl Kernel for Drawing {
    fn name(&self) -> &'static str {
        "draw"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let logits = Values::of(&inputs[0]);
        let [rows, columns] = [0, 1].map(|axis| inputs[0].shape[axis] as usize);
        let logits = Rows::new(logits.floats(), rows, columns);
        let draws: Vec<kernels::Draw<'_>> = self.draws.iter().map(borrowed).collect();
        let drawn = kernels::draw(&Cpu::current(), &logits, &draws);
        write(&mut outputs[0], drawn.iter().map(|drawn| drawn.token));
        if let Some(chosen) = outputs.get_mut(1) {
            write(chosen, drawn.iter().map(|drawn| drawn.logprob));
        }
        if let [_, _, ids, values] = outputs {
            let width = ids.shape[1] as usize;
            write(ids, table(&drawn, width, |drawn, place| drawn.top.get(place).map(|c| c.index)));
            let value = |drawn: &Drawn, place: usize| drawn.top.get(place).map(|c| c.value);
            write(values, table(&drawn, width, value));
        }
    }
}

fn borrowed(draw: &Draw) -> kernels::Draw<'_> {
    let Draw { row, limits, key, ref edits, ref allowed, logprobs } = *draw;
    kernels::Draw { row, limits, key, edits, allowed: allowed.as_deref(), logprobs }
}

/// `width` cells for each draw; what is not there is 0.
fn table<T: Default>(
    drawn: &[Drawn],
    width: usize,
    cell: impl Fn(&Drawn, usize) -> Option<T>,
) -> impl Iterator<Item = T> {
    let cell = move |drawn: &Drawn, place| cell(drawn, place).unwrap_or_default();
    let cells: Vec<T> = drawn
        .iter()
        .flat_map(|drawn| (0..width).map(|place| cell(drawn, place)).collect::<Vec<_>>())
        .collect();
    cells.into_iter()
}

fn write<T: crate::Element>(output: &mut Output<'_>, values: impl Iterator<Item = T>) {
    let cells = output.as_slice::<T>().unwrap_or_default();
    cells.iter_mut().zip(values).for_each(|(cell, value)| *cell = value);
}
