//! `Array`: one reference to a node of MLX's graph, freed when dropped. Making one from host data, and reading it back.

use crate::cpu::parts;
use crate::cpu::tape::{self, Held, Node};
use crate::device::{device, stream_for};
use crate::ffi::{Functions, mlx_array, mlx_vector_array};
use crate::open::library;
use crate::{Device, Dtype, Element, EvalError, Reading, cpu, error, meter};
use half::{bf16, f16};
use std::cell::OnceCell;
use std::ffi::c_void;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// An array of MLX, computed or not. Cloning shares the node. Neither `Send` nor `Sync`, as the streams of MLX are not:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<mlx::Array>();
/// ```
/// ```compile_fail,E0277
/// fn sync<T: Sync>() {}
/// sync::<mlx::Array>();
/// ```
pub struct Array {
    /// Null where `node` has the handle, or will have it.
    raw: mlx_array,
    /// Of arrays that came off the CPU's tape.
    node: Option<Rc<Node>>,
    /// Where its memory is, once it was read as the operand of a kernel.
    held: OnceCell<Arc<Held>>,
}

/// Computes the arrays and waits for them.
pub fn eval(arrays: &[&Array]) -> Result<(), EvalError> {
    evaluate(arrays, "waiting", |f| f.mlx_eval)
}

/// Starts computing the arrays and returns at once. Errors of the computation come with the next `eval` or reading.
pub fn async_eval(arrays: &[&Array]) -> Result<(), EvalError> {
    evaluate(arrays, "handing over", |f| f.mlx_async_eval)
}

type Evaluate = unsafe extern "C" fn(mlx_vector_array) -> i32;

fn evaluate(
    arrays: &[&Array],
    name: &'static str,
    which: fn(&Functions) -> Evaluate,
) -> Result<(), EvalError> {
    if arrays.is_empty() {
        return Ok(());
    }
    let f = functions();
    let vector = Vector::of(f, arrays);
    // SAFETY: the vector holds references of its own and lives for the call.
    metered(name, || unsafe { which(f)(vector.raw) })
}

/// Computing, or waiting for it: what failed on the way is its failure.
fn metered(name: &'static str, call: impl FnOnce() -> i32) -> Result<(), EvalError> {
    let call = || meter::inside(call);
    // On the CPU a thread of its own computes meanwhile, and tells for itself.
    let status = if device() == Device::Cpu { call() } else { parts::queue(name, call) };
    match (status, cpu::take_failure()) {
        (0, None) => Ok(()),
        (0, Some(message)) => Err(EvalError::Failed(message)),
        _ => Err(EvalError::from_last_message()),
    }
}

impl Array {
    /// Copies `data`, which fills `shape` in row-major order.
    #[track_caller]
    pub fn from_slice<T: Element>(data: &[T], shape: &[i32]) -> Array {
        // SAFETY: `Element` is plain data without padding, so its bytes can be read.
        let bytes =
            unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), size_of_val(data)) };
        Array::from_bytes(bytes, shape, T::DTYPE)
    }

    /// Copies `bytes`: the elements of `shape` in row-major order, little-endian, as `dtype`.
    #[track_caller]
    pub fn from_bytes(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Array {
        let (f, _) = stream_for("array", &[]);
        if byte_len(shape, dtype) != Some(bytes.len()) {
            error::fail(
                "array",
                &[],
                format!("{} bytes do not fill {dtype}{shape:?}", bytes.len()),
            );
        }
        // SAFETY: the size was checked; MLX copies before it returns.
        let raw = unsafe {
            (f.mlx_array_new_data)(
                bytes.as_ptr().cast::<c_void>(),
                shape.as_ptr(),
                shape.len() as i32,
                dtype as u32,
            )
        };
        if raw.ctx.is_null() {
            error::fail("array", &[], error::take_message());
        }
        // SAFETY: a new handle.
        unsafe { Array::from_raw(raw) }
    }

    /// A single value without dimensions, rounded to `dtype`.
    #[track_caller]
    pub fn scalar(value: f64, dtype: Dtype) -> Array {
        let one = |bytes: &[u8]| Array::from_bytes(bytes, &[], dtype);
        match dtype {
            Dtype::Bool => one(&[u8::from(value != 0.0)]),
            Dtype::U8 => one(&(value as u8).to_ne_bytes()),
            Dtype::U16 => one(&(value as u16).to_ne_bytes()),
            Dtype::U32 => one(&(value as u32).to_ne_bytes()),
            Dtype::U64 => one(&(value as u64).to_ne_bytes()),
            Dtype::I8 => one(&(value as i8).to_ne_bytes()),
            Dtype::I16 => one(&(value as i16).to_ne_bytes()),
            Dtype::I32 => one(&(value as i32).to_ne_bytes()),
            Dtype::I64 => one(&(value as i64).to_ne_bytes()),
            Dtype::F16 => one(&f16::from_f64(value).to_ne_bytes()),
            Dtype::Bf16 => one(&bf16::from_f64(value).to_ne_bytes()),
            Dtype::F32 => one(&(value as f32).to_ne_bytes()),
            Dtype::F64 => one(&value.to_ne_bytes()),
            Dtype::Complex64 => one(&[(value as f32).to_ne_bytes(), 0_f32.to_ne_bytes()].concat()),
        }
    }

    pub fn shape(&self) -> &[i32] {
        if let Some(node) = &self.node {
            return &node.shape;
        }
        if let Some(held) = self.held.get() {
            return &held.shape;
        }
        let f = functions();
        // SAFETY: the handle is alive. MLX keeps the shape as long as the node, and this reference keeps the node.
        unsafe {
            match (f.mlx_array_ndim)(self.raw) {
                0 => &[],
                ndim => std::slice::from_raw_parts((f.mlx_array_shape)(self.raw), ndim),
            }
        }
    }

    /// The size of one dimension; negative ones count from the last.
    #[track_caller]
    pub fn dim(&self, axis: i32) -> i32 {
        let shape = self.shape();
        let index = if axis < 0 { axis + shape.len() as i32 } else { axis };
        match shape.get(index as usize) {
            Some(size) => *size,
            None => error::fail("dim", &[self], format!("there is no axis {axis}")),
        }
    }

    pub fn ndim(&self) -> usize {
        self.shape().len()
    }

    /// The number of elements.
    pub fn size(&self) -> usize {
        if let Some(node) = &self.node {
            return node.shape.iter().map(|dim| *dim as usize).product();
        }
        // SAFETY: the handle is alive.
        unsafe { (functions().mlx_array_size)(self.raw) }
    }

    pub fn nbytes(&self) -> usize {
        self.size() * self.dtype().size()
    }

    pub fn dtype(&self) -> Dtype {
        if let Some(node) = &self.node {
            return node.dtype;
        }
        if let Some(held) = self.held.get() {
            return held.dtype;
        }
        // SAFETY: the handle is alive.
        Dtype::from_raw(unsafe { (functions().mlx_array_dtype)(self.raw) })
    }

    /// The elements in row-major order. Computes what is not computed yet. The dtype must be `T`'s: cast first.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, EvalError> {
        Reading::now(self)?.to_vec()
    }

    /// The elements as bytes, in row-major order.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EvalError> {
        Ok(Reading::now(self)?.bytes()?.to_vec())
    }

    /// The only element.
    pub fn item<T: Element>(&self) -> Result<T, EvalError> {
        match self.to_vec()?.as_slice() {
            [value] => Ok(*value),
            values => Err(EvalError::NotAScalar(values.len())),
        }
    }

    /// The values, to be read once the next step is under way: see [`Reading`].
    #[track_caller]
    pub fn reading(&self) -> Reading {
        Reading::of(self)
    }

    /// Waits until it is computed, and for nothing that was handed over later.
    pub(crate) fn wait(&self) -> Result<(), EvalError> {
        let (f, raw) = (functions(), self.raw());
        // SAFETY: the handle is alive.
        metered("waiting", || unsafe { (f.mlx_array_eval)(raw) })
    }

    /// Whether the values are there already, so that reading them waits for nothing.
    pub fn is_available(&self) -> bool {
        let raw = self.node.as_ref().map_or(self.raw, |node| node.handle());
        let mut available = false;
        // SAFETY: the handle is alive (or null: only recorded), the flag is ours.
        !raw.ctx.is_null()
            && unsafe { (functions()._mlx_array_is_available)(&mut available, raw) == 0 }
            && available
    }

    /// This array's memory with a holder of its own: what can write in place will, though work under way still reads what
    /// is there. For memory that grows behind its end, and only for places that nothing reads.
    ///
    /// A GPU's queue holds the inputs of a step until the step is done, so without this a step that is dispatched before
    /// the last one is done copies what it appends to. The CPU's queue is short; there, and before anything was
    /// dispatched, this is the array itself.
    #[track_caller]
    pub fn sole(&self) -> Array {
        let (f, _) = stream_for("sole", &[self]);
        if device() == Device::Cpu {
            return self.clone();
        }
        let mut raw = mlx_array::NULL;
        // SAFETY: the handle is alive, the result is ours.
        if meter::inside(|| unsafe { (f.ollmlx_array_sole)(&mut raw, self.raw()) }) != 0 {
            error::fail("sole", &[self], error::take_message());
        }
        // SAFETY: the call succeeded.
        unsafe { Array::from_raw(raw) }
    }

    /// The handle. An array that is only recorded becomes one of MLX's first, with all that is recorded.
    #[track_caller]
    pub(crate) fn raw(&self) -> mlx_array {
        self.node.as_ref().map_or(self.raw, |node| node.raw())
    }

    /// # Safety
    /// `raw` is a handle that mlx-c filled in, and nobody else frees it.
    pub(crate) unsafe fn from_raw(raw: mlx_array) -> Array {
        Array { raw, node: None, held: OnceCell::new() }
    }

    pub(crate) fn from_node(node: Rc<Node>) -> Array {
        Array { raw: mlx_array::NULL, node: Some(node), held: OnceCell::new() }
    }

    pub(crate) fn node(&self) -> Option<&Rc<Node>> {
        self.node.as_ref()
    }

    /// Where its memory is, if it is computed. Asked once; then it stays where it is.
    pub(crate) fn held(&self) -> Option<&Arc<Held>> {
        let cell = self.node.as_ref().map_or(&self.held, |node| &node.held);
        if cell.get().is_none() {
            let _ = cell.set(tape::hold(self)?);
        }
        cell.get()
    }

    /// A new reference to the same node of MLX's graph.
    #[track_caller]
    pub(crate) fn new_handle(&self) -> mlx_array {
        // SAFETY: the handle is alive.
        unsafe { another(self.raw()) }
    }
}

impl From<f32> for Array {
    #[track_caller]
    fn from(value: f32) -> Array {
        Array::from_slice(&[value], &[])
    }
}

impl From<i32> for Array {
    #[track_caller]
    fn from(value: i32) -> Array {
        Array::from_slice(&[value], &[])
    }
}

impl Clone for Array {
    fn clone(&self) -> Array {
        if let Some(node) = &self.node {
            return Array::from_node(Rc::clone(node));
        }
        Array { raw: self.new_handle(), node: None, held: self.held.clone() }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        if self.node.is_none() {
            // SAFETY: the handle is ours and freed once.
            meter::inside(|| unsafe { (functions().mlx_array_free)(self.raw) });
        }
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array {}{:?}", self.dtype(), self.shape())
    }
}

/// The table, for code that holds an array and so knows that the library is open.
pub(crate) fn functions() -> &'static Functions {
    match library() {
        Ok(library) => library.functions(),
        Err(error) => panic!("an array without a library: {error}"),
    }
}

/// A new reference to the same node of MLX's graph.
///
/// # Safety
/// `raw` is a living handle.
pub(crate) unsafe fn another(raw: mlx_array) -> mlx_array {
    let mut new = mlx_array::NULL;
    // SAFETY: the source is alive; a null destination is filled with a new reference.
    let status = unsafe { (functions().mlx_array_set)(&mut new, raw) };
    let reason = if status == 0 { String::new() } else { error::take_message() };
    assert_eq!(status, 0, "a reference to an array could not be made: {reason}");
    new
}

/// Bytes of an array; none where a dimension is negative or the product overflows.
pub(crate) fn byte_len(shape: &[i32], dtype: Dtype) -> Option<usize> {
    let mut bytes = dtype.size();
    for dim in shape {
        bytes = bytes.checked_mul(usize::try_from(*dim).ok()?)?;
    }
    Some(bytes)
}

/// A list of arrays on its way into or out of mlx-c.
pub(crate) struct Vector<'f> {
    pub raw: mlx_vector_array,
    pub f: &'f Functions,
}

impl<'f> Vector<'f> {
    pub fn empty(f: &'f Functions) -> Vector<'f> {
        Vector { raw: mlx_vector_array::NULL, f }
    }

    /// # Safety
    /// `array` is a living handle.
    pub unsafe fn of_raw(f: &'f Functions, array: mlx_array) -> Vector<'f> {
        // SAFETY: one handle, alive by contract; the vector takes a reference of its own.
        Vector { raw: unsafe { (f.mlx_vector_array_new_data)(&array, 1) }, f }
    }

    pub fn of(f: &'f Functions, arrays: &[&Array]) -> Vector<'f> {
        let handles: Vec<mlx_array> = arrays.iter().map(|a| a.raw()).collect();
        // SAFETY: the handles are alive; the vector takes references of its own.
        Vector { raw: unsafe { (f.mlx_vector_array_new_data)(handles.as_ptr(), handles.len()) }, f }
    }

    /// New references to all that mlx-c put in.
    pub fn arrays(&self) -> Vec<Array> {
        // SAFETY: the vector is alive.
        let size = unsafe { (self.f.mlx_vector_array_size)(self.raw) };
        (0..size)
            .map(|i| {
                let mut raw = mlx_array::NULL;
                // SAFETY: the index is within the size; the destination is filled with a new reference.
                let status = unsafe { (self.f.mlx_vector_array_get)(&mut raw, self.raw, i) };
                assert_eq!(status, 0, "a result of MLX is missing: {}", error::take_message());
                // SAFETY: a new reference.
                unsafe { Array::from_raw(raw) }
            })
            .collect()
    }
}

impl Drop for Vector<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours (or null, which mlx-c accepts) and freed once.
        unsafe { (self.f.mlx_vector_array_free)(self.raw) };
    }
}
