//! What the host reads of arrays, also of a step while the next one is computed already.
//!
//! [`Array::to_vec`] adds an operation to the stream and waits for it, and so for all that was handed over before the
//! question: whoever asks for a step's tokens once the next step is under way would wait for that as well. A [`Reading`]
//! is made with the step and handed over with it; reading it waits for the step alone. Its values are its own, so
//! nothing that is computed later writes to them.

use crate::array::functions;
use crate::cpu::arrange::packed;
use crate::{Array, Device, Element, EvalError, cpu, device, error};

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

    /// To be read at once: no copy is made for what might be written in place later.
    pub(crate) fn now(array: &Array) -> Result<Reading, EvalError> {
        let values = error::catch(|| match cpu::buffers_are_shared() {
            true => packed(array),
            false => array.contiguous(),
        });
        let values = values.map_err(|error| EvalError::Failed(error.to_string()))?;
        Ok(Reading { values })
    }

    /// What is to be handed over, see `async_eval`.
    pub fn array(&self) -> &Array {
        &self.values
    }

    /// The elements in row-major order. The array's dtype must be `T`'s.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, EvalError> {
        if !T::reads(self.values.dtype()) {
            return Err(EvalError::WrongDtype { found: self.values.dtype(), wanted: T::DTYPE });
        }
        let bytes = self.bytes()?;
        let count = bytes.len() / size_of::<T>();
        let mut values = Vec::<T>::with_capacity(count);
        // SAFETY: the capacity is that many elements of that many bytes together; `Element` takes any bits.
        unsafe {
            let to = values.as_mut_ptr().cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count * size_of::<T>());
            values.set_len(count);
        }
        Ok(values)
    }

    /// The elements' bytes in row-major order.
    pub(crate) fn bytes(&self) -> Result<&[u8], EvalError> {
        self.values.wait()?;
        if self.values.size() == 0 {
            return Ok(&[]);
        }
        // SAFETY: computed now and row contiguous, so `nbytes` bytes are there, as long as `self` is; only this type has
        // the array, and lends it for computing.
        Ok(unsafe {
            std::slice::from_raw_parts(
                (functions().mlx_array_data_uint8)(self.values.raw()),
                self.values.nbytes(),
            )
        })
    }
}
