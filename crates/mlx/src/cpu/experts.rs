//! Mixtures of experts on our own kernels: a layer's networks as one call, and the choice before it.

use kernels::{Activation, Choices, Gate, GateUp, Routing, Rows, RowsMut, Score};

use super::products::{Held, Shape, cpu, forced, parts};
use super::rows::{are_ids, ids};
use super::values::{Values, floats_mut, is_float};
use super::{Input, Kernel, Output, Part, Start, call, kernels_compute};
use crate::ops::{Experts, Stack};
use crate::{Array, Dtype};

/// Our kernels keep scores of so many on the stack.
const EXPERTS_MAX: i32 = 1024;

#[track_caller]
pub(crate) fn route(logits: &Array, routing: crate::Routing) -> Option<(Array, Array)> {
    let &[rows, count] = logits.shape() else { return None };
    let each = routing.each;
    let fits = (1..=count).contains(&each) && count <= EXPERTS_MAX;
    if !kernels_compute() || !is_float(logits) || !fits {
        return None;
    }
    let shape = [rows, each];
    let starts = [Dtype::U32, Dtype::F32].map(|dtype| Start::Fresh { shape: &shape, dtype });
    let mut both = call(Route { routing }, &[logits], &starts).into_iter();
    both.next().zip(both.next())
}

struct Route {
    routing: crate::Routing,
}

impl Kernel for Route {
    fn name(&self) -> &'static str {
        "route"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let [chosen, weights] = outputs else { return };
        let logits = Values::of(&inputs[0]);
        let [rows, count] = [0, 1].map(|axis| inputs[0].shape[axis] as usize);
        let routing = Routing {
            each: self.routing.each as usize,
            score: Score::Softmax,
            bias: None,
            normalised: self.routing.normalised,
            scale: 1.0,
        };
        let logits = Rows::new(logits.floats(), rows, count);
        let chosen = chosen.as_slice().unwrap_or_default();
        let weights = weights.as_slice().unwrap_or_default();
        kernels::route(&cpu(None), &logits, &routing, chosen, weights);
    }
}

#[track_caller]
pub(crate) fn experts(
    x: &Array,
    chosen: &Array,
    weights: &Array,
    experts: &Experts<'_>,
) -> Option<Array> {
    let (&[rows, hidden], &[_, each]) = (x.shape(), chosen.shape()) else { return None };
    let matching = chosen.shape() == [rows, each] && weights.shape() == chosen.shape();
    if !kernels_compute() || !is_float(x) || !is_float(weights) || !are_ids(chosen) {
        return None;
    }
    let count = usize::try_from(experts.count).ok().filter(|count| *count > 0 && matching)?;
    let stacks: Vec<&Stack<'_>> = experts.gate_up.iter().chain([&experts.down]).collect();
    let inner = columns(&experts.down)?;
    let forms: Option<Vec<Form>> = stacks.iter().map(|stack| Form::of(stack, count)).collect();
    let forms = forms?;
    let (down, before) = forms.split_last()?;
    let twice: usize = before.iter().map(Form::rows).sum();
    let fits = matches!(before, [_] | [_, _])
        && before.iter().all(|form| form.columns() == hidden as usize)
        && before.iter().all(|form| form.rows() * before.len() == twice)
        && twice == 2 * count * inner as usize;
    let outputs = down.rows() / count;
    if !fits {
        return None;
    }
    let inputs: Vec<&Array> =
        [x, chosen, weights].into_iter().chain(stacks.into_iter().flat_map(arrays)).collect();
    let start = Start::Fresh { shape: &[rows, outputs as i32], dtype: x.dtype() };
    Some(call(Mixture { count, forms, isa: forced() }, &inputs, &[start]).swap_remove(0))
}

fn columns(stack: &Stack<'_>) -> Option<i32> {
    match stack {
        Stack::Dense(weights) => weights.shape().last().copied(),
        Stack::Quantized(weights, _) => Some(weights.scales.shape().last()? * weights.group_size),
    }
}

fn arrays<'a>(stack: &'a Stack<'a>) -> Vec<&'a Array> {
    match stack {
        Stack::Dense(weights) => vec![*weights],
        Stack::Quantized(weights, factors) => parts(weights).chain(*factors).collect(),
    }
}

/// One stack, checked.
enum Form {
    Dense { rows: usize, columns: usize },
    Quantized { shape: Shape, factors: bool },
}

impl Form {
    fn of(stack: &Stack<'_>, count: usize) -> Option<Form> {
        let form = match stack {
            Stack::Dense(weights) => {
                let &[rows, columns] = weights.shape() else { return None };
                is_float(weights)
                    .then_some(Form::Dense { rows: rows as usize, columns: columns as usize })?
            }
            Stack::Quantized(weights, factors) => {
                let fits = factors.is_none_or(|factors| {
                    factors.dtype() == Dtype::F32
                        && factors.shape() == [count as i32]
                        && weights.biases.is_none()
                        && weights.bits == 4
                });
                let shape = Shape::of(weights, columns(stack)?).filter(|_| fits)?;
                Form::Quantized { shape, factors: factors.is_some() }
            }
        };
        (form.rows() % count == 0).then_some(form)
    }

    fn rows(&self) -> usize {
        match self {
            Form::Dense { rows, .. } => *rows,
            Form::Quantized { shape, .. } => shape.rows(),
        }
    }

    fn columns(&self) -> usize {
        match self {
            Form::Dense { columns, .. } => *columns,
            Form::Quantized { shape, .. } => shape.columns(),
        }
    }

    fn inputs(&self) -> usize {
        match self {
            Form::Dense { .. } => 1,
            Form::Quantized { shape, factors } => shape.inputs() + usize::from(*factors),
        }
    }
}

/// A stack's memory.
enum Memory<'a> {
    Dense { values: Values<'a>, rows: usize, columns: usize },
    Quantized { held: Held<'a>, factors: Vec<f32> },
}

impl<'a> Memory<'a> {
    fn of(form: &Form, inputs: &[Input<'a>]) -> Memory<'a> {
        match form {
            Form::Dense { rows, columns } => {
                Memory::Dense { values: Values::of(&inputs[0]), rows: *rows, columns: *columns }
            }
            Form::Quantized { shape, factors } => {
                let (own, rest) = inputs.split_at(shape.inputs());
                let factors = rest.iter().filter(|_| *factors);
                let factors = factors.flat_map(|input| super::values::in_order(input).into_owned());
                Memory::Quantized { held: Held::of(shape, own), factors: factors.collect() }
            }
        }
    }

    fn stack(&self) -> kernels::Stack<'_> {
        match self {
            Memory::Dense { values, rows, columns } => {
                kernels::Stack::Dense(Rows::new(values.floats(), *rows, *columns))
            }
            Memory::Quantized { held, factors } => {
                kernels::Stack::Quantized(held.matrix().with_factors(factors))
            }
        }
    }
}

struct Mixture {
    count: usize,
    /// Of gate and up (or of both in one), and of down.
    forms: Vec<Form>,
    isa: Option<kernels::Isa>,
}

impl Kernel for Mixture {
    fn name(&self) -> &'static str {
        "experts"
    }

    fn part(&self) -> Part {
        Part::Products
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let [x, chosen, weights, rest @ ..] = inputs else { return };
        let mut rest = rest;
        let take = |form: &Form| {
            let (own, others) = rest.split_at(form.inputs());
            rest = others;
            Memory::of(form, own)
        };
        let memory: Vec<Memory<'_>> = self.forms.iter().map(take).collect();
        let (gate_up, down) = match &memory[..] {
            [gate, up, down] => (GateUp::Apart { gate: gate.stack(), up: up.stack() }, down),
            [both, down] => (GateUp::Joined(both.stack()), down),
            _ => unreachable!("checked when the node was made"),
        };
        let layer = kernels::Experts {
            count: self.count,
            gate_up,
            down: down.stack(),
            gate: Gate::Times(Activation::Silu),
        };
        let [rows, hidden] = [0, 1].map(|axis| x.shape[axis] as usize);
        let each = chosen.shape[1] as usize;
        let (x, chosen, weights) = (Values::of(x), ids(chosen), Values::of(weights));
        let choices = Choices { each, experts: &chosen, weights: weights.floats() };
        let outputs_each = outputs[0].shape[1] as usize;
        let y = RowsMut::new(floats_mut(&mut outputs[0]), rows, outputs_each);
        let x = Rows::new(x.floats(), rows, hidden);
        kernels::experts(&cpu(self.isa), &x, &choices, &layer, y);
    }
}
