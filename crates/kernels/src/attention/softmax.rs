//! The running softmax of one row, and what is done to scores before it.

use super::MaskCells;
use crate::vector::{Vector, math};

/// What is known of a row so far: sums are relative to `e^max`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Running {
    pub max: f32,
    pub sum: f32,
}

impl Running {
    pub const NEW: Running = Running { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Raises the maximum to that of these scores, of which the last vector is padded with minus infinity; the logarithm
    /// of what the past must be multiplied with.
    ///
    /// # Safety
    /// `scores` is good for `count` floats, rounded up to whole vectors.
    #[inline(always)]
    pub unsafe fn raise<V: Vector>(&mut self, scores: *const f32, count: usize) -> f32 {
        // SAFETY: the caller's promise.
        let max = unsafe {
            let mut most = V::load(scores);
            for i in (V::LANES..count).step_by(V::LANES) {
                most = V::max(V::load(scores.add(i)), most);
            }
            V::largest(most).max(self.max)
        };
        let before = std::mem::replace(&mut self.max, max);
        if before == max { 0.0 } else { before - max }
    }

    /// Turns scores into weights relative to the maximum; the padding becomes 0.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    pub unsafe fn take<V: Vector>(&mut self, scores: *mut f32, count: usize, past: f32) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.max == f32::NEG_INFINITY {
                for i in (0..count).step_by(V::LANES) {
                    // Minus infinity becomes 0, NaN stays.
                    let v = V::load(scores.add(i));
                    V::store(scores.add(i), V::where_less(v, V::zero(), V::zero(), v));
                }
                return;
            }
            let (shift, mut sum) = (V::splat(self.max), V::zero());
            for i in (0..count).step_by(V::LANES) {
                let weight = math::exp::<V>(V::sub(V::load(scores.add(i)), shift));
                sum = V::add(sum, weight);
                V::store(scores.add(i), weight);
            }
            self.sum = self.sum * past + V::sum(sum);
        }
    }

    /// Both histories together, and what each's values must be multiplied with.
    pub fn join(self, other: Running) -> (Running, f32, f32) {
        let max = self.max.max(other.max);
        if max == f32::NEG_INFINITY {
            return (self, 1.0, 1.0);
        }
        let (a, b) = ((self.max - max).exp(), (other.max - max).exp());
        (Running { max, sum: self.sum * a + other.sum * b }, a, b)
    }

    /// What the sum of weighted values must be multiplied with in the end; 0 where nothing was seen.
    pub fn share(self, sink: Option<f32>) -> f32 {
        let (end, own, _) = match sink {
            Some(sink) => self.join(Running { max: sink, sum: 1.0 }),
            None => (self, 1.0, 0.0),
        };
        if end.sum == 0.0 { 0.0 } else { own / end.sum }
    }
}

/// # Safety
/// `scores` is good for `count` floats, rounded up to whole vectors.
#[inline(always)]
pub(super) unsafe fn cap<V: Vector>(scores: *mut f32, count: usize, cap: f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (wide, narrow) = (V::splat(cap), V::splat(1.0 / cap));
        for i in (0..count).step_by(V::LANES) {
            let v = math::tanh::<V>(V::mul(V::load(scores.add(i)), narrow));
            V::store(scores.add(i), V::mul(v, wide));
        }
    }
}

/// # Safety
/// `scores` is good for `count` floats.
#[inline(always)]
pub(super) unsafe fn mask(scores: *mut f32, count: usize, cells: &MaskCells<'_>, at: usize) {
    for i in 0..count {
        // SAFETY: the caller's promise.
        let score = unsafe { &mut *scores.add(i) };
        match cells {
            MaskCells::Add(floats) => *score += floats.get(at + i),
            MaskCells::Keep(bytes) if bytes[at + i] == 0 => *score = f32::NEG_INFINITY,
            MaskCells::Keep(_) => {}
        }
    }
}
