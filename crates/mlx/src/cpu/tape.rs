//! What kernels are asked to do on the CPU is recorded, and goes into MLX's graph in one piece.
//!
//! A node of MLX's graph costs an allocation for each array, a task in a queue and, where the queue ran dry, the waking
//! of a thread: a few microseconds, hundreds of times a step. So [`record`] only writes down kernel, operands and
//! results; arrays that stand for results ([`Node`]) know their shape at once. The first question for an array's handle
//! ([`Node::raw`]: another operation of MLX, `eval`, a reading) makes everything recorded so far one node, a
//! [`Program`], whose outputs are the arrays that somebody still holds. What nobody holds is not computed, or lives in
//! scratch memory only. Slices and other arrangements of recorded arrays are arithmetic on strides and cost nothing.
//!
//! Memory that is shared ([`Start::Shared`]: a cache that grows behind its end) and already there is written where it
//! lies, and is neither input nor output of the program. Instead each program that writes such memory leaves a *ticket*
//! that the next one takes, so that programs run in the order in which they were recorded; an array of such memory that
//! MLX asks for becomes a node that takes the ticket too.
//!
//! Seen from outside nothing changes: an array is a value, computed when asked for.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::program::{Program, Reach};
use super::{Kernel, Start};
use crate::ffi::mlx_array;
use crate::{Array, Device, Dtype, error, meter, with_device};

pub(crate) type Dims = SmallVec<[i32; 4]>;
pub(crate) type Strides = SmallVec<[i64; 4]>;

/// More than a pass through any model; what would make a longer program becomes several.
const STEPS_MAX: usize = 1 << 14;

/// An array that was recorded: a part of one of the tape's values, later a handle of MLX.
pub(crate) struct Node {
    pub shape: Dims,
    pub dtype: Dtype,
    strides: Strides,
    first: usize,
    value: usize,
    /// Which tape `value` belongs to.
    tape: u64,
    raw: Cell<mlx_array>,
    pub held: OnceCell<Arc<Held>>,
    /// The memory that its value was written to, where that was there before.
    written: OnceCell<Arc<Held>>,
}

/// Memory that a kernel writes, with the shape of what writes it first.
pub(super) struct Value {
    pub shape: Dims,
    pub dtype: Dtype,
    pub memory: Memory,
}

pub(super) enum Memory {
    New,
    /// The memory of this source, which MLX hands over.
    Source(usize),
    Held(Arc<Held>),
}

impl Value {
    pub fn source(&self) -> Option<usize> {
        match self.memory {
            Memory::Source(source) => Some(source),
            Memory::New | Memory::Held(_) => None,
        }
    }
}

pub(super) struct Step {
    pub kernel: Box<dyn Kernel>,
    /// Where its operands end in the tape's list; they begin where those of the step before end.
    pub operands_end: usize,
    /// As `operands_end`, of its results.
    pub results_end: usize,
}

/// What a kernel reads.
pub(super) enum Operand {
    /// An array that was there before, by what MLX will tell of it.
    Source(usize),
    Held(Arc<Held>),
    Value {
        value: usize,
        shape: Dims,
        strides: Strides,
        first: usize,
    },
    /// A result took its memory over.
    Taken {
        shape: Dims,
        strides: Strides,
        dtype: Dtype,
    },
}

/// An array that is computed: weights, mostly. Its memory stays where it is as long as this lives.
pub(crate) struct Held {
    pub shape: Dims,
    pub strides: Strides,
    pub dtype: Dtype,
    pub reach: Reach,
    raw: mlx_array,
}

// SAFETY: the memory is only read; the handle is only freed, and MLX frees arrays on any thread.
unsafe impl Send for Held {}
// SAFETY: as above.
unsafe impl Sync for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and freed once.
        unsafe { (crate::array::functions().mlx_array_free)(self.raw) };
    }
}

#[derive(Default)]
struct Tape {
    id: u64,
    values: Vec<Value>,
    steps: Vec<Step>,
    operands: Vec<Operand>,
    results: Vec<usize>,
    nodes: Vec<Rc<Node>>,
    sources: Vec<Array>,
    /// By source: the value that is its memory.
    shared: Vec<Option<usize>>,
    /// The values that are held memory, by its address.
    written: HashMap<usize, usize>,
}

thread_local! {
    static TAPE: RefCell<Tape> = RefCell::default();
    /// What the last program left that wrote held memory.
    static TICKET: RefCell<Option<Array>> = const { RefCell::new(None) };
}

/// Writes a call of `kernel` down. Starts must be `Fresh` or `Shared`.
#[track_caller]
pub(super) fn record(
    kernel: Box<dyn Kernel>,
    inputs: &[&Array],
    starts: &[Start<'_>],
) -> Vec<Array> {
    if let Err(words) = check(inputs, starts) {
        error::fail(kernel.name(), inputs, words.to_owned());
    }
    if TAPE.with_borrow(|tape| tape.steps.len() >= STEPS_MAX) {
        flush();
    }
    meter::inside(|| TAPE.with_borrow_mut(|tape| tape.record(kernel, inputs, starts)))
}

fn check(inputs: &[&Array], starts: &[Start<'_>]) -> Result<(), &'static str> {
    for (index, start) in starts.iter().enumerate() {
        match start {
            Start::Fresh { shape, .. } if shape.iter().any(|dim| *dim < 0) => {
                return Err("an output has a dimension that is not there");
            }
            Start::Shared(input) if *input >= inputs.len() => {
                return Err("an output names an input that is not there");
            }
            Start::Shared(input) => {
                let again = |start: &Start<'_>| matches!(start, Start::Shared(i) if i == input);
                if starts[..index].iter().any(again) {
                    return Err("an output names an input that is taken already");
                }
            }
            _ => {}
        }
    }
    Ok(())
}

impl Tape {
    /// An empty one, with room for as much: most steps are like the step before.
    fn next(&self) -> Tape {
        Tape {
            id: self.id + 1,
            values: Vec::with_capacity(self.values.len()),
            steps: Vec::with_capacity(self.steps.len()),
            operands: Vec::with_capacity(self.operands.len()),
            results: Vec::with_capacity(self.results.len()),
            nodes: Vec::with_capacity(self.nodes.len()),
            sources: Vec::with_capacity(self.sources.len()),
            shared: Vec::with_capacity(self.shared.len()),
            written: HashMap::with_capacity(self.written.len()),
        }
    }

    fn record(
        &mut self,
        kernel: Box<dyn Kernel>,
        inputs: &[&Array],
        starts: &[Start<'_>],
    ) -> Vec<Array> {
        let mut arrays = Vec::with_capacity(starts.len());
        let mut taken: SmallVec<[(usize, usize); 2]> = SmallVec::new();
        for start in starts {
            if let Start::Shared(input) = start {
                taken.push((*input, self.share(inputs[*input])));
            }
        }
        for (index, input) in inputs.iter().enumerate() {
            let operand = match taken.iter().any(|(input, _)| *input == index) {
                true => Operand::Taken {
                    shape: Dims::from_slice(input.shape()),
                    strides: row_major(input.shape()),
                    dtype: input.dtype(),
                },
                false => self.operand(input),
            };
            self.operands.push(operand);
        }
        for start in starts {
            let (value, shape, dtype) = match start {
                Start::Fresh { shape, dtype } => {
                    let shape = Dims::from_slice(shape);
                    let (shape_of_value, memory) = (shape.clone(), Memory::New);
                    let value = Value { shape: shape_of_value, dtype: *dtype, memory };
                    self.values.push(value);
                    (self.values.len() - 1, shape, *dtype)
                }
                Start::Shared(input) | Start::Donated(input) => {
                    let value = taken.iter().find(|(taken, _)| taken == input).map(|pair| pair.1);
                    let shape = Dims::from_slice(inputs[*input].shape());
                    (value.unwrap_or_default(), shape, inputs[*input].dtype())
                }
            };
            self.results.push(value);
            let strides = row_major(&shape);
            arrays.push(self.node(value, shape, strides, 0, dtype));
        }
        self.steps.push(Step {
            kernel,
            operands_end: self.operands.len(),
            results_end: self.results.len(),
        });
        arrays
    }

    fn node(
        &mut self,
        value: usize,
        shape: Dims,
        strides: Strides,
        first: usize,
        dtype: Dtype,
    ) -> Array {
        let node = Rc::new(Node {
            shape,
            dtype,
            strides,
            first,
            value,
            tape: self.id,
            raw: Cell::new(mlx_array::NULL),
            held: OnceCell::new(),
            written: OnceCell::new(),
        });
        self.nodes.push(Rc::clone(&node));
        Array::from_node(node)
    }

    /// The node of an array whose value is still on this tape.
    fn own<'a>(&self, array: &'a Array) -> Option<&'a Rc<Node>> {
        array.node().filter(|node| node.is_pending() && node.tape == self.id)
    }

    fn operand(&mut self, array: &Array) -> Operand {
        if let Some(node) = self.own(array) {
            let Node { value, first, .. } = **node;
            return Operand::Value {
                value,
                shape: node.shape.clone(),
                strides: node.strides.clone(),
                first,
            };
        }
        if let Some(held) = array.held() {
            return Operand::Held(Arc::clone(held));
        }
        let source = self.source(array);
        match self.shared[source] {
            Some(value) => Operand::Value {
                value,
                shape: Dims::from_slice(array.shape()),
                strides: row_major(array.shape()),
                first: 0,
            },
            None => Operand::Source(source),
        }
    }

    fn source(&mut self, array: &Array) -> usize {
        let raw = array.raw().ctx;
        let known = self.sources.iter().position(|source| source.raw().ctx == raw);
        known.unwrap_or_else(|| {
            self.sources.push(array.clone());
            self.shared.push(None);
            self.sources.len() - 1
        })
    }

    /// The value that is the memory of `array`.
    fn share(&mut self, array: &Array) -> usize {
        if let Some(node) = self.own(array) {
            return node.value;
        }
        if let Some(held) = array.held().filter(|held| held.is_row_major()) {
            let held = Arc::clone(held);
            return match self.written.get(&held.reach.address()) {
                Some(value) => *value,
                None => {
                    let address = held.reach.address();
                    let value = self.value_in(array, Memory::Held(held));
                    self.written.insert(address, value);
                    value
                }
            };
        }
        let source = self.source(array);
        match self.shared[source] {
            Some(value) => value,
            None => {
                let value = self.value_in(array, Memory::Source(source));
                self.shared[source] = Some(value);
                value
            }
        }
    }

    fn value_in(&mut self, array: &Array, memory: Memory) -> usize {
        let shape = Dims::from_slice(array.shape());
        self.values.push(Value { shape, dtype: array.dtype(), memory });
        self.values.len() - 1
    }

    /// Which values somebody holds.
    fn alive(&self) -> Vec<bool> {
        let mut alive = vec![false; self.values.len()];
        for node in self.nodes.iter().filter(|node| Rc::strong_count(node) > 1) {
            alive[node.value] = true;
        }
        alive
    }

    /// Which values those need that are `alive`; steps that nobody needs are no more.
    fn needed(&mut self, alive: &[bool]) -> Vec<bool> {
        let mut needed = alive.to_vec();
        let mut keep = vec![false; self.steps.len()];
        for index in (0..self.steps.len()).rev() {
            let (operands, results) = self.ranges(index);
            keep[index] = self.results[results].iter().any(|value| needed[*value]);
            if keep[index] {
                for operand in &self.operands[operands] {
                    if let Operand::Value { value, .. } = operand {
                        needed[*value] = true;
                    }
                }
            }
        }
        if keep.contains(&false) {
            self.retain(&keep);
        }
        needed
    }

    fn ranges(&self, index: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let begin = |of: fn(&Step) -> usize| index.checked_sub(1).map_or(0, |i| of(&self.steps[i]));
        let step = &self.steps[index];
        (
            begin(|step| step.operands_end)..step.operands_end,
            begin(|step| step.results_end)..step.results_end,
        )
    }

    fn retain(&mut self, keep: &[bool]) {
        let old = std::mem::take(&mut self.steps);
        let mut operands = std::mem::take(&mut self.operands).into_iter();
        let mut results = std::mem::take(&mut self.results).into_iter();
        let (mut operands_begin, mut results_begin) = (0, 0);
        for (step, keep) in old.into_iter().zip(keep) {
            let count = (step.operands_end - operands_begin, step.results_end - results_begin);
            (operands_begin, results_begin) = (step.operands_end, step.results_end);
            let parts = (operands.by_ref().take(count.0), results.by_ref().take(count.1));
            if !keep {
                parts.0.for_each(drop);
                parts.1.for_each(drop);
                continue;
            }
            self.operands.extend(parts.0);
            self.results.extend(parts.1);
            let (operands_end, results_end) = (self.operands.len(), self.results.len());
            self.steps.push(Step { operands_end, results_end, ..step });
        }
    }
}

/// Makes all that is recorded one node of MLX's graph.
#[track_caller]
pub(crate) fn flush() {
    let tape = TAPE.with_borrow_mut(|tape| {
        let next = tape.next();
        std::mem::replace(tape, next)
    });
    if !tape.steps.is_empty() {
        meter::inside(|| with_device(Device::Cpu, || tape.into_graph()));
    }
}

impl Tape {
    #[track_caller]
    fn into_graph(mut self) {
        let alive = self.alive();
        let needed = self.needed(&alive);
        if self.steps.is_empty() {
            return;
        }
        let mut sources = self.compact_sources(&needed);
        sources.extend(TICKET.with_borrow(Clone::clone));
        let writes = (0..self.values.len())
            .any(|value| needed[value] && matches!(self.values[value].memory, Memory::Held(_)));
        let exported = |value: &usize| match self.values[*value].memory {
            Memory::New => alive[*value],
            Memory::Source(_) => needed[*value],
            Memory::Held(_) => false,
        };
        let exports: Vec<usize> = (0..self.values.len()).filter(exported).collect();
        let (values, nodes) = (self.values, self.nodes);
        let ticket = Start::Fresh { shape: &[1], dtype: Dtype::U8 };
        let mut results = {
            let one = |value: &usize| match &values[*value] {
                Value { memory: Memory::Source(source), .. } => Start::Shared(*source),
                Value { shape, dtype, .. } => Start::Fresh { shape, dtype: *dtype },
            };
            let starts: SmallVec<[Start<'_>; 16]> =
                exports.iter().map(one).chain(writes.then_some(ticket)).collect();
            let (steps, operands, results) = (self.steps, self.operands, self.results);
            let program = Program::new(steps, operands, results, &values, &exports, sources.len());
            super::call_now(Box::new(program), &sources.iter().collect::<Vec<_>>(), &starts)
        };
        if writes {
            TICKET.set(results.pop());
        }
        let mut by_value: Vec<Option<Array>> = (0..values.len()).map(|_| None).collect();
        for (value, array) in exports.into_iter().zip(results) {
            by_value[value] = Some(array);
        }
        for node in nodes.iter().filter(|node| Rc::strong_count(node) > 1) {
            let Value { shape, memory, .. } = &values[node.value];
            match (memory, &by_value[node.value]) {
                (Memory::Held(held), _) => node.was_written(held, shape),
                (_, Some(whole)) => node.raw.set(node.of(whole, shape).new_handle()),
                (_, None) => {}
            }
        }
    }

    /// The sources that steps still use, numbered anew.
    fn compact_sources(&mut self, needed: &[bool]) -> Vec<Array> {
        let mut places: Vec<Option<usize>> = vec![None; self.sources.len()];
        for operand in &self.operands {
            if let Operand::Source(source) = operand {
                places[*source] = Some(0);
            }
        }
        for (value, _) in self.values.iter().zip(needed).filter(|(_, needed)| **needed) {
            if let Some(source) = value.source() {
                places[source] = Some(0);
            }
        }
        let mut kept = Vec::with_capacity(self.sources.len());
        for (place, array) in places.iter_mut().zip(self.sources.drain(..)) {
            if place.is_some() {
                *place = Some(kept.len());
                kept.push(array);
            }
        }
        for operand in &mut self.operands {
            if let Operand::Source(source) = operand {
                *source = places[*source].unwrap_or_default();
            }
        }
        for value in &mut self.values {
            if let Memory::Source(source) = &mut value.memory {
                *source = places[*source].unwrap_or_default();
            }
        }
        kept
    }
}

impl Node {
    pub fn is_pending(&self) -> bool {
        self.raw.get().ctx.is_null() && self.written.get().is_none()
    }

    /// The handle, after recording ends where it is still recorded.
    #[track_caller]
    pub fn raw(&self) -> mlx_array {
        if self.is_pending() {
            flush();
        }
        if self.raw.get().ctx.is_null() {
            match self.written.get() {
                Some(held) => self.raw.set(self.of(&in_turn(held), &held.shape).new_handle()),
                None => {
                    let message = "the operations it came from failed".to_owned();
                    error::fail("recorded", &[], message);
                }
            }
        }
        self.raw.get()
    }

    /// Its value is this memory now, of this shape.
    fn was_written(&self, held: &Arc<Held>, shape: &[i32]) {
        if self.first == 0 && self.shape[..] == *shape && self.strides == row_major(shape) {
            let _ = self.held.set(Arc::clone(held));
        }
        let _ = self.written.set(Arc::clone(held));
    }

    pub fn handle(&self) -> mlx_array {
        self.raw.get()
    }

    /// This part of its value, which is `whole` now.
    #[track_caller]
    fn of(&self, whole: &Array, shape: &[i32]) -> Array {
        let straight = self.first == 0 && self.strides == row_major(&self.shape);
        if straight && self.shape[..] == *shape {
            whole.clone()
        } else if straight && elements(&self.shape) == elements(shape) {
            whole.reshape(&self.shape)
        } else {
            whole.as_strided(&self.shape, &self.strides, self.first)
        }
    }
}

/// Held memory as an array that is computed after everything recorded before has run.
#[track_caller]
fn in_turn(held: &Held) -> Array {
    struct InTurn;
    impl Kernel for InTurn {
        fn name(&self) -> &'static str {
            "in_turn"
        }

        fn run(&self, _: &[super::Input<'_>], _: &mut [super::Output<'_>]) {}
    }
    let memory = held.array();
    let ticket = TICKET.with_borrow(Clone::clone);
    let inputs: SmallVec<[&Array; 2]> =
        [Some(&memory), ticket.as_ref()].into_iter().flatten().collect();
    with_device(Device::Cpu, || {
        super::call_now(Box::new(InTurn), &inputs, &[Start::Shared(0)]).swap_remove(0)
    })
}

impl Held {
    fn is_row_major(&self) -> bool {
        self.strides == row_major(&self.shape)
    }

    fn array(&self) -> Array {
        // SAFETY: the handle is alive; the new reference is the array's.
        unsafe { Array::from_raw(crate::array::another(self.raw)) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let raw = self.raw.get();
        if !raw.ctx.is_null() {
            // SAFETY: the handle is ours and freed once.
            meter::inside(|| unsafe { (crate::array::functions().mlx_array_free)(raw) });
        }
    }
}

/// A recorded array in another arrangement of the same memory; none where it is not recorded or `arrange` finds none.
pub(crate) fn view(
    array: &Array,
    arrange: impl FnOnce(&Layout<'_>) -> Option<View>,
) -> Option<Array> {
    let node = array.node().filter(|node| node.is_pending())?;
    TAPE.with_borrow_mut(|tape| {
        let node = tape.own(array).map(|_| node)?;
        let layout = Layout { shape: &node.shape, strides: &node.strides };
        let View { shape, strides, skip } = arrange(&layout)?;
        Some(tape.node(node.value, shape, strides, node.first + skip, node.dtype))
    })
}

/// Whether it is still only recorded.
pub(crate) fn is_recorded(array: &Array) -> bool {
    array.node().is_some_and(|node| node.is_pending())
}

pub(crate) struct Layout<'a> {
    pub shape: &'a [i32],
    pub strides: &'a [i64],
}

pub(crate) struct View {
    pub shape: Dims,
    pub strides: Strides,
    /// Elements before the first.
    pub skip: usize,
}

impl Layout<'_> {
    pub fn is_row_major(&self) -> bool {
        let mut expected = 1;
        for (dim, stride) in self.shape.iter().zip(self.strides).rev() {
            if *dim != 1 && *stride != expected {
                return false;
            }
            expected *= i64::from(*dim);
        }
        true
    }
}

pub(crate) fn row_major(shape: &[i32]) -> Strides {
    let mut strides: Strides = SmallVec::from_elem(1, shape.len());
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * i64::from(shape[axis + 1]);
    }
    strides
}

pub(super) fn elements(shape: &[i32]) -> usize {
    shape.iter().map(|dim| *dim as usize).product()
}

/// A computed array, to be read where it lies; none where it is not computed yet.
pub(crate) fn hold(array: &Array) -> Option<Arc<Held>> {
    if array.size() == 0 || !array.is_available() {
        return None;
    }
    let copy = array.new_handle();
    let f = crate::array::functions();
    let (shape, dtype) = (Dims::from_slice(array.shape()), array.dtype());
    // SAFETY: the handle is alive and computed, so strides and memory are there; both live as long as the copy.
    let (strides, data) = unsafe {
        let strides = match shape.len() {
            0 => Strides::new(),
            // Strides are signed inside MLX; its C face says size_t.
            dims => {
                std::slice::from_raw_parts((f.mlx_array_strides)(copy).cast::<i64>(), dims).into()
            }
        };
        (strides, (f.mlx_array_data_uint8)(copy))
    };
    let reach = Reach::new(data, &shape, &strides, dtype);
    Some(Arc::new(Held { shape, strides, dtype, reach, raw: copy }))
}
