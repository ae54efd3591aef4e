//! A recorded sequence of kernels as one kernel: it runs them in order, on memory planned before.
//!
//! Values that nobody sees from outside lie in scratch memory, which is used again as soon as the last kernel that
//! reads them is done; the thread of MLX's CPU stream keeps it from program to program.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smallvec::SmallVec;

use super::parts::{self, Part};
use super::tape::{Held, Memory, Operand, Step, Value, elements};
use super::{Input, Kernel, Output};
use crate::Dtype;

/// What scratch memory keeps between programs. Price: the next long prompt asks the system for its memory again.
const SCRATCH_KEPT_BYTES: usize = 32 << 20;

/// Values begin at such a multiple: a line of every processor's cache.
const ALIGNMENT: usize = 64;

pub(super) struct Program {
    steps: Vec<Step>,
    operands: Vec<Operand>,
    results: Vec<usize>,
    /// By value.
    places: Vec<Place>,
    /// By source: the output that took its memory over.
    taken: Vec<Option<usize>>,
    /// Memory that is written where it lies.
    written: Vec<Arc<Held>>,
    scratch_bytes: usize,
    /// The step that runs, for the message when it fails.
    current: AtomicUsize,
}

/// Where a value lies.
struct Place {
    home: Home,
    shape: SmallVec<[i32; 4]>,
    dtype: Dtype,
}

#[derive(Clone, Copy)]
enum Home {
    Output(usize),
    Scratch(usize),
    /// Of `Program::written`.
    Written(usize),
    /// No step writes it.
    Nowhere,
}

/// All bytes that an array's shape and strides reach.
#[derive(Clone, Copy)]
pub(crate) struct Reach {
    start: *const u8,
    bytes: usize,
    /// Where the first element is, in elements.
    pub(super) first: usize,
}

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "memory, reached through a pointer")] [u8; ALIGNMENT]);

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Reach {
    /// Of the array whose first element is at `data`.
    pub fn new(data: *const u8, shape: &[i32], strides: &[i64], dtype: Dtype) -> Reach {
        let (mut before, mut after) = (0_i64, 0_i64);
        for (dim, stride) in shape.iter().zip(strides) {
            let reach = i64::from(dim - 1) * stride;
            before += reach.min(0);
            after += reach.max(0);
        }
        let (first, count) = (before.unsigned_abs() as usize, (after - before) as usize + 1);
        let start = data.wrapping_sub(first * dtype.size());
        Reach { start, bytes: count * dtype.size(), first }
    }

    /// Of the first byte.
    pub fn address(&self) -> usize {
        self.start as usize
    }

    /// # Safety
    /// The memory lives, and nobody writes it, for `'a`.
    pub(super) unsafe fn slice<'a>(self) -> &'a [u8] {
        // SAFETY: by contract, and shape and strides reach exactly this.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    fn meets(&self, start: *const u8, bytes: usize) -> bool {
        let (a, b) = (self.start as usize, start as usize);
        a < b + bytes && b < a + self.bytes
    }
}

impl Program {
    /// `exports`: the values that are the program's outputs, in order; those with a source take its memory over.
    pub fn new(
        steps: Vec<Step>,
        operands: Vec<Operand>,
        results: Vec<usize>,
        values: &[Value],
        exports: &[usize],
        sources: usize,
    ) -> Program {
        let mut homes = vec![Home::Nowhere; values.len()];
        let mut taken = vec![None; sources];
        for (output, &value) in exports.iter().enumerate() {
            homes[value] = Home::Output(output);
            if let Some(source) = values[value].source() {
                taken[source] = Some(output);
            }
        }
        let mut written = Vec::new();
        for (value, home) in values.iter().zip(&mut homes) {
            if let Memory::Held(held) = &value.memory {
                *home = Home::Written(written.len());
                written.push(Arc::clone(held));
            }
        }
        let scratch_bytes = plan(&steps, &operands, &results, values, &mut homes);
        let place = |(value, home): (&Value, Home)| Place {
            home,
            shape: value.shape.clone(),
            dtype: value.dtype,
        };
        let places = values.iter().zip(homes).map(place).collect();
        let current = AtomicUsize::new(0);
        Program { steps, operands, results, places, taken, written, scratch_bytes, current }
    }
}

/// Gives every value that is no output a place in scratch memory; how much of it there must be.
fn plan(
    steps: &[Step],
    operands: &[Operand],
    results: &[usize],
    values: &[Value],
    homes: &mut [Home],
) -> usize {
    let mut last = vec![0; values.len()];
    let (mut operand, mut result) = (0, 0);
    for (index, step) in steps.iter().enumerate() {
        for operand in &operands[operand..step.operands_end] {
            if let Operand::Value { value, .. } = operand {
                last[*value] = index;
            }
        }
        for value in &results[result..step.results_end] {
            last[*value] = index;
        }
        (operand, result) = (step.operands_end, step.results_end);
    }
    let mut ends: Vec<SmallVec<[(usize, usize); 4]>> = vec![SmallVec::new(); steps.len()];
    let mut free: Vec<(usize, usize)> = Vec::new();
    let (mut top, mut result) = (0, 0);
    for (index, step) in steps.iter().enumerate() {
        for &value in &results[result..step.results_end] {
            if matches!(homes[value], Home::Nowhere) {
                let Value { shape, dtype, .. } = &values[value];
                let bytes = (elements(shape) * dtype.size()).next_multiple_of(ALIGNMENT);
                let (size, offset) = take(&mut free, bytes).unwrap_or_else(|| {
                    top += bytes;
                    (bytes, top - bytes)
                });
                homes[value] = Home::Scratch(offset);
                ends[last[value]].push((size, offset));
            }
        }
        result = step.results_end;
        // What dies with this step may be written by the next one.
        free.extend(std::mem::take(&mut ends[index]));
    }
    top
}

/// The smallest free piece that holds so much, unless it is far too large.
fn take(free: &mut Vec<(usize, usize)>, bytes: usize) -> Option<(usize, usize)> {
    let fits = |piece: &(usize, &(usize, usize))| (bytes..=2 * bytes).contains(&piece.1.0);
    let (index, _) = free.iter().enumerate().filter(fits).min_by_key(|piece| piece.1.0)?;
    Some(free.swap_remove(index))
}

impl Kernel for Program {
    fn name(&self) -> &'static str {
        let step = self.steps.get(self.current.load(Ordering::Relaxed));
        step.map_or("program", |step| step.kernel.name())
    }

    fn part(&self) -> Part {
        Part::Between
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        SCRATCH.with_borrow_mut(|scratch| {
            let lines = self.scratch_bytes / ALIGNMENT;
            if scratch.len() < lines {
                scratch.resize(lines, Line([0; ALIGNMENT]));
            }
            let outputs = outputs.iter_mut().map(|output| output.bytes.as_mut_ptr()).collect();
            Run { program: self, inputs, outputs, scratch: scratch.as_mut_ptr().cast() }.all();
            if scratch.len() * ALIGNMENT > SCRATCH_KEPT_BYTES {
                *scratch = Vec::new();
            }
        });
    }
}

struct Run<'a> {
    program: &'a Program,
    inputs: &'a [Input<'a>],
    outputs: SmallVec<[*mut u8; 64]>,
    scratch: *mut u8,
}

impl Run<'_> {
    fn all(&self) {
        let Program { steps, operands, results, current, .. } = self.program;
        let (mut operand, mut result) = (0, 0);
        for (index, step) in steps.iter().enumerate() {
            current.store(index, Ordering::Relaxed);
            let mut targets: SmallVec<[Output<'_>; 3]> =
                results[result..step.results_end].iter().map(|value| self.output(*value)).collect();
            let operands = &operands[operand..step.operands_end];
            self.refuse_overlap(operands, &targets);
            let sources: SmallVec<[Input<'_>; 10]> =
                operands.iter().map(|operand| self.input(operand)).collect();
            parts::run(&*step.kernel, &sources, &mut targets);
            (operand, result) = (step.operands_end, step.results_end);
        }
    }

    fn memory(&self, value: usize) -> *mut u8 {
        match self.program.places[value].home {
            Home::Output(output) => self.outputs[output],
            // SAFETY: the plan stays within the scratch memory.
            Home::Scratch(offset) => unsafe { self.scratch.add(offset) },
            Home::Written(written) => self.program.written[written].reach.address() as *mut u8,
            Home::Nowhere => unreachable!("a value that no step writes"),
        }
    }

    fn output(&self, value: usize) -> Output<'_> {
        let Place { shape, dtype, .. } = &self.program.places[value];
        let bytes = match elements(shape) * dtype.size() {
            0 => &mut [][..],
            // SAFETY: the plan (or MLX's allocator) gave the value this much, no other value has it until its last
            // reader is done, and within a step `refuse_overlap` and the recording see to it that nobody reads it.
            bytes => unsafe { std::slice::from_raw_parts_mut(self.memory(value), bytes) },
        };
        Output { shape, dtype: *dtype, bytes }
    }

    fn input<'b>(&'b self, operand: &'b Operand) -> Input<'b> {
        let (shape, strides, dtype, reach) = match operand {
            Operand::Source(source) => match self.program.taken[*source] {
                None => return self.inputs[*source],
                Some(output) => {
                    let Input { shape, strides, dtype, .. } = self.inputs[*source];
                    (shape, strides, dtype, Reach::new(self.outputs[output], shape, strides, dtype))
                }
            },
            Operand::Held(held) => (&held.shape[..], &held.strides[..], held.dtype, held.reach),
            Operand::Value { value, shape, strides, first } => {
                let dtype = self.program.places[*value].dtype;
                let data = self.memory(*value).wrapping_add(first * dtype.size());
                (&shape[..], &strides[..], dtype, Reach::new(data, shape, strides, dtype))
            }
            Operand::Taken { shape, strides, dtype } => {
                return Input { shape, strides, dtype: *dtype, reach: None, first: 0 };
            }
        };
        if shape.contains(&0) {
            return Input { shape, strides, dtype, reach: Some(&[]), first: 0 };
        }
        // SAFETY: the memory belongs to a held array, an output or a value that is written by now, and in this step
        // nobody writes it.
        let bytes = unsafe { reach.slice() };
        Input { shape, strides, dtype, reach: Some(bytes), first: reach.first }
    }

    /// A kernel takes its inputs and outputs for disjoint memory.
    fn refuse_overlap(&self, operands: &[Operand], targets: &[Output<'_>]) {
        if !operands.iter().any(|operand| matches!(operand, Operand::Taken { .. })) {
            return;
        }
        for operand in operands.iter().filter(|operand| !matches!(operand, Operand::Taken { .. })) {
            let reach = match operand {
                Operand::Held(held) => held.reach,
                Operand::Value { value, .. } => {
                    let Place { shape, dtype, .. } = &self.program.places[*value];
                    let bytes = elements(shape) * dtype.size();
                    Reach { start: self.memory(*value), bytes, first: 0 }
                }
                Operand::Source(source) => match self.inputs[*source].reach {
                    Some(bytes) => Reach { start: bytes.as_ptr(), bytes: bytes.len(), first: 0 },
                    None => continue,
                },
                Operand::Taken { .. } => continue,
            };
            let meets = |t: &Output<'_>| reach.meets(t.bytes.as_ptr(), t.bytes.len());
            assert!(!targets.iter().any(meets), "it would read the buffer it writes");
        }
    }
}
