//! The three ways to fail: the library cannot be opened, an operation was given what it cannot take, an evaluation failed.
//!
//! mlx-c reports through one handler for the whole process; ours keeps the message for the thread that made the call.

use crate::{Array, Dtype};
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::path::PathBuf;
use thiserror::Error;

#[derive(Clone, Debug, Error)]
pub enum OpenError {
    #[error(
        "no MLX library was found\nhint: make one with `cargo xtask mlx`, or name its directory in OLLMLX_MLX_PATH; `ollmlx doctor` lists the places looked at"
    )]
    NotFound,
    #[error("`{}` is MLX {found}, and this program is made for {wanted}\nhint: make the right one with `cargo xtask mlx`, or unset OLLMLX_MLX_PATH", place.display())]
    WrongVersion { place: PathBuf, found: String, wanted: &'static str },
    #[error("`{}` lacks {}\nhint: it belongs to another version of this program; make the right one with `cargo xtask mlx`", place.display(), missing.join(", "))]
    MissingSymbols { place: PathBuf, missing: Vec<String> },
    #[error("`{}` cannot compute: {message}\nhint: `ollmlx doctor` shows what was tried", place.display())]
    Unusable { place: PathBuf, message: String },
}

/// An operation that cannot be: shapes or dtypes that do not fit. A bug of the caller, or a checkpoint that lies.
#[derive(Clone, Debug)]
pub struct GraphError {
    pub operation: &'static str,
    /// Shape and dtype of each array it was given.
    pub inputs: Vec<(Vec<i32>, Dtype)>,
    /// The line that asked for it.
    pub location: &'static Location<'static>,
    /// MLX's own words.
    pub message: String,
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.operation)?;
        for (i, (shape, dtype)) in self.inputs.iter().enumerate() {
            write!(f, "{} {dtype}{shape:?}", if i == 0 { " of" } else { "," })?;
        }
        write!(f, " at {}:{}: {}", self.location.file(), self.location.line(), self.message)
    }
}

impl std::error::Error for GraphError {}

#[derive(Clone, Debug, Error)]
pub enum EvalError {
    #[error("out of memory: {0}\nhint: use a smaller model, context or batch")]
    OutOfMemory(String),
    #[error("the evaluation failed: {0}")]
    Failed(String),
    #[error("an array of {found} cannot be read as {wanted}")]
    WrongDtype { found: Dtype, wanted: Dtype },
    #[error("an array of {0} elements is no single value")]
    NotAScalar(usize),
}

impl EvalError {
    /// What MLX said last on this thread.
    pub(crate) fn from_last_message() -> EvalError {
        let message = take_message();
        let words = ["out of memory", "Unable to allocate", "OutOfMemory", "bad_alloc", "[malloc]"];
        match words.iter().any(|word| message.contains(word)) {
            true => EvalError::OutOfMemory(message),
            false => EvalError::Failed(message),
        }
    }
}

/// Errors here carry their hint on a line of its own: the message, and the hint if there is one.
pub fn split_hint(text: &str) -> (&str, Option<&str>) {
    text.split_once("\nhint: ").map_or((text, None), |(message, hint)| (message, Some(hint)))
}

thread_local! {
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `f` and returns the `GraphError` of the first operation in it that failed. Other panics pass through.
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, GraphError> {
    // Arrays that an unwinding leaves behind are whole: each is replaced or dropped, never half written.
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Ok(value),
        Err(payload) => match payload.downcast::<GraphError>() {
            Ok(error) => Err(*error),
            Err(other) => resume_unwind(other),
        },
    }
}

/// Unwinds to the nearest `catch`, without the noise of a panic.
#[track_caller]
pub(crate) fn fail(operation: &'static str, inputs: &[&Array], message: String) -> ! {
    let inputs = inputs.iter().map(|a| (a.shape().to_vec(), a.dtype())).collect();
    resume_unwind(Box::new(GraphError { operation, inputs, location: Location::caller(), message }))
}

/// The handler given to mlx-c before any other call. It must not unwind: it is called by C++.
pub(crate) unsafe extern "C" fn keep_message(message: *const c_char, _data: *mut c_void) {
    // SAFETY: mlx-c passes a C string that lives for the call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // A message during the destruction of the thread is lost, which is the only thing left to do with it.
    let _ = MESSAGE.try_with(|slot| slot.replace(without_source_line(&text).to_owned()));
}

pub(crate) fn take_message() -> String {
    let message = MESSAGE.with(RefCell::take);
    if message.is_empty() { "MLX gave no reason".to_owned() } else { message }
}

/// mlx-c appends the line of its own source, ` at /where/it/was/built.cpp:123`, which helps nobody.
fn without_source_line(message: &str) -> &str {
    let Some((text, place)) = message.rsplit_once(" at ") else { return message };
    match place.rsplit_once(':') {
        Some((file, line))
            if file.ends_with(".cpp") && line.bytes().all(|b| b.is_ascii_digit()) =>
        {
            text
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, expected: &str) {
        assert_eq!(without_source_line(message), expected);
    }

    #[test]
    fn messages_lose_the_line_of_mlx_c_and_nothing_else() {
        check("[matmul] shapes differ at /b/mlx/c/ops.cpp:12", "[matmul] shapes differ");
        check("[x] bad at all", "[x] bad at all");
        check("[x] stop at 3:4", "[x] stop at 3:4");
    }

    #[test]
    fn hints_stand_on_a_line_of_their_own() {
        let error = OpenError::Unusable { place: "/a".into(), message: "no".to_owned() };
        let expected = ("`/a` cannot compute: no", Some("`ollmlx doctor` shows what was tried"));
        assert_eq!(split_hint(&error.to_string()), expected);
        assert_eq!(split_hint("out of luck"), ("out of luck", None));
    }

    #[test]
    fn other_panics_pass_through_catch() {
        let outcome = catch_unwind(|| catch(|| resume_unwind(Box::new(7_i32))));
        assert_eq!(outcome.map(|_| ()).unwrap_err().downcast_ref::<i32>(), Some(&7));
    }
}
