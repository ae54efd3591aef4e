//! What the host will read of a step while the next one is computed already.
//!
//! [`Array::to_vec`] adds an operation to the stream and waits for it, and so for all that was handed over before the
//! question: whoever asks for a step's tokens once the next step is under way would wait for that as well. A [`Reading`]
//! is made with the step and handed over with it; reading it waits for the step alone. Its values are its own, so
//! nothing that is computed later writes to them.

use crate::array::elements_of;
use crate::cpu::arrange::packed;
use crate::{Array, Device, Element, EvalError, device};

/// An array's values, to be read later.
#[derive(Clone, Debug)]
pub struct Reading {
    values: Array,
}

impl Reading {
    #[track_caller]
    pub(crate) fn of(array: &Array) -> Reading {
        // On the CPU other arrays may be written in place; elsewhere nobody writes to what is held.
        let values = if device() == Device::Cpu { packed(array) } else { array.contiguous() };
        Reading { values }
    }

    /// What is to be handed over, see `async_eval`.
    pub fn array(&self) -> &Array {
        &self.values
    }

    /// The elements in row-major order. The array's dtype must be `T`'s.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, EvalError> {
        self.values.check_holds::<T>()?;
        self.values.wait()?;
        // SAFETY: computed now and row contiguous; only this type has the array, and lends it for computing.
        Ok(elements_of(unsafe { self.values.settled_bytes() }))
    }
}
