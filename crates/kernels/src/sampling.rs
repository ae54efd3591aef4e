//! Rows of logits: the largest, the largest few, and softmax.
//!
//! Ties go to the lower number. Minus infinity and NaN are never chosen.

use std::cmp::Ordering;
use std::ops::Range;

use crate::Cpu;
use crate::element::Floats;
use crate::rows::{Rows, RowsMut};
use crate::spread;
use crate::vector::{Body, Source, SourceRows, TargetRows, Vector, math, on};

/// A column and its value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    pub index: u32,
    pub value: f32,
}

/// The column with the largest value; 0 if there is none.
pub fn argmax(cpu: &Cpu<'_>, row: Floats<'_>) -> usize {
    // SAFETY: the body reads `row.len()` values, and `cpu.isa` was chosen for this processor.
    unsafe { on(cpu.isa, ArgMax { x: row.into(), count: row.len() }) }
}

/// `ln Σ eˣ`; minus infinity for an empty row.
pub fn log_sum_exp(cpu: &Cpu<'_>, row: Floats<'_>) -> f32 {
    let (max, sum) = mass(cpu, row, 1.0);
    if sum == 0.0 { f32::NEG_INFINITY } else { max + sum.ln() }
}

/// `y = softmax(factor * x)` by rows; a row without any finite value becomes zeros.
pub fn softmax(cpu: &Cpu<'_>, factor: f32, x: &Rows<'_>, mut y: RowsMut<'_>) {
    assert_eq!((x.rows, x.columns), (y.rows, y.columns), "shapes of x and y");
    let (rows, columns) = (x.rows, x.columns);
    let (x, y) = (SourceRows::from(x), TargetRows::from(&mut y));
    spread::rows(cpu, rows, 4 * columns, &|rows| {
        // SAFETY: lengths were checked, tasks have rows of their own, and `cpu.isa` was chosen for this processor.
        unsafe { on(cpu.isa, Softmax { x, y, rows, columns, factor }) };
    });
}

/// Puts the `k` largest into `best`, the largest first.
pub fn top_k(cpu: &Cpu<'_>, row: Floats<'_>, k: usize, best: &mut Vec<Candidate>) {
    best.clear();
    let k = k.min(row.len());
    if k == 0 {
        return;
    }
    // Room enough that cutting down to k costs little for each value that is looked at.
    let room = (4 * k).max(ROOM_MIN).min(row.len() + 4 * crate::vector::LANES_MAX);
    best.reserve(room);
    // SAFETY: as in `argmax`.
    unsafe { on(cpu.isa, Best { x: row.into(), count: row.len(), k, room, best }) };
    best.sort_unstable_by(better);
    best.truncate(k);
}

/// The largest value, and `Σ e^(factor * (x - largest))`.
pub(crate) fn mass(cpu: &Cpu<'_>, row: Floats<'_>, factor: f32) -> (f32, f32) {
    // SAFETY: as in `argmax`.
    unsafe { on(cpu.isa, Mass { x: row.into(), count: row.len(), factor }) }
}

/// Exponentials added in f32 before they go into an f64: a vocabulary's worth would lose digits. A multiple of 32.
const STRETCH: usize = 1024;

/// Candidates gathered before the worst are thrown out.
const ROOM_MIN: usize = 1024;

pub(crate) fn better(a: &Candidate, b: &Candidate) -> Ordering {
    b.value.total_cmp(&a.value).then(a.index.cmp(&b.index))
}

struct ArgMax {
    x: Source,
    count: usize,
}

impl Body for ArgMax {
    type Out = usize;
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> usize {
        // SAFETY: as in `vector`.
        unsafe {
            let max = largest::<V>(self.x, self.count);
            if max == f32::NEG_INFINITY {
                return 0;
            }
            // The lane-wise search ends at the first vector that has it.
            let below = V::splat(max.next_down());
            let mut i = 0;
            while i + V::LANES <= self.count && V::greater(self.x.load::<V>(i), below) == 0 {
                i += V::LANES;
            }
            (i..self.count).find(|&i| self.x.get(i) == max).unwrap_or(0)
        }
    }
}

/// The largest value; minus infinity if there is none.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn largest<V: Vector>(x: Source, count: usize) -> f32 {
    let wide = 4 * V::LANES;
    // SAFETY: as in `vector`.
    unsafe {
        let mut max = [V::splat(f32::NEG_INFINITY); 4];
        let mut i = 0;
        while i + wide <= count {
            for (part, max) in max.iter_mut().enumerate() {
                *max = V::max(x.load::<V>(i + part * V::LANES), *max);
            }
            i += wide;
        }
        let max = V::max(V::max(max[0], max[1]), V::max(max[2], max[3]));
        (i..count).fold(V::largest(max), |max, i| max.max(x.get(i)))
    }
}

/// The largest value, and the sum of the exponentials relative to it.
struct Mass {
    x: Source,
    count: usize,
    factor: f32,
}

impl Body for Mass {
    type Out = (f32, f32);
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> (f32, f32) {
        // SAFETY: as in `vector`.
        unsafe { mass_of::<V>(self.x, self.count, self.factor) }
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn mass_of<V: Vector>(x: Source, count: usize, factor: f32) -> (f32, f32) {
    // SAFETY: as in `vector`.
    unsafe {
        let max = largest::<V>(x, count);
        if max == f32::NEG_INFINITY {
            return (max, 0.0);
        }
        // Subtracted first: at a low temperature the products would have no digits left for the difference.
        let (factors, maxima) = (V::splat(factor), V::splat(max));
        let (mut sum, mut i) = (0f64, 0);
        while i + 2 * V::LANES <= count {
            let mut sums = [V::zero(); 2];
            let end = count.min(i + STRETCH);
            while i + 2 * V::LANES <= end {
                for (part, sum) in sums.iter_mut().enumerate() {
                    let v = x.load::<V>(i + part * V::LANES);
                    *sum = V::add(*sum, math::exp::<V>(V::mul(V::sub(v, maxima), factors)));
                }
                i += 2 * V::LANES;
            }
            sum += f64::from(V::sum(V::add(sums[0], sums[1])));
        }
        for i in i..count {
            sum += f64::from(((x.get(i) - max) * factor).exp());
        }
        (max, sum as f32)
    }
}

struct Softmax {
    x: SourceRows,
    y: TargetRows,
    rows: Range<usize>,
    columns: usize,
    factor: f32,
}

impl Body for Softmax {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in self.rows.clone() {
            let (x, y) = (self.x.row(row), self.y.row(row));
            // SAFETY: as in `vector`.
            unsafe {
                let (max, sum) = mass_of::<V>(x, self.columns, self.factor);
                let (max, share) = if sum > 0.0 { (max, 1.0 / sum) } else { (0.0, 0.0) };
                let (factor, max) = (V::splat(self.factor), V::splat(max));
                for i in (0..self.columns).step_by(V::LANES) {
                    let v = V::mul(V::sub(x.load_to::<V>(i, self.columns), max), factor);
                    let v = V::mul(math::exp::<V>(v), V::splat(share));
                    y.store_to::<V>(i, self.columns, v);
                }
            }
        }
    }
}

/// Gathers whatever is larger than the k-th largest seen so far; cuts down to k when the room is full.
struct Best<'a> {
    x: Source,
    count: usize,
    k: usize,
    room: usize,
    best: &'a mut Vec<Candidate>,
}

impl Body for Best<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let wide = 4 * V::LANES;
        let mut threshold = f32::NEG_INFINITY;
        let mut i = 0;
        while i < self.count {
            // SAFETY: as in `vector`.
            unsafe {
                if i + wide > self.count {
                    for i in i..self.count {
                        self.take(i, threshold);
                    }
                    return;
                }
                let limit = V::splat(threshold);
                let mut masks = [0; 4];
                for (part, mask) in masks.iter_mut().enumerate() {
                    *mask = V::greater(self.x.load::<V>(i + part * V::LANES), limit);
                }
                if masks != [0; 4] {
                    for i in i..i + wide {
                        self.take(i, threshold);
                    }
                    if self.best.len() + wide > self.room {
                        threshold = self.throw_out();
                    }
                }
            }
            i += wide;
        }
    }
}

impl Best<'_> {
    #[inline(always)]
    unsafe fn take(&mut self, i: usize, threshold: f32) {
        // SAFETY: the caller's promise.
        let value = unsafe { self.x.get(i) };
        if value > threshold {
            self.best.push(Candidate { index: i as u32, value });
        }
    }

    /// Leaves the k best; the worst of them.
    fn throw_out(&mut self) -> f32 {
        if self.best.len() <= self.k {
            return f32::NEG_INFINITY;
        }
        let (_, worst, _) = self.best.select_nth_unstable_by(self.k - 1, better);
        let worst = worst.value;
        self.best.truncate(self.k);
        worst
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::element::FloatsMut;
    use crate::{Pool, isa};

    fn logits(rng: &mut StdRng, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-9f32..9.0) * rng.random_range(0f32..1.0)).collect()
    }

    /// All that is asked of one row, against plain sorting and f64.
    fn check(row: &[f32], ks: &[usize]) {
        let pool = Pool::new(2);
        let mut sorted: Vec<Candidate> = row
            .iter()
            .enumerate()
            .map(|(i, &value)| Candidate { index: i as u32, value })
            .collect();
        sorted.retain(|c| c.value > f32::NEG_INFINITY);
        sorted.sort_by(better);
        let max = sorted.first().map_or(0.0, |c| f64::from(c.value));
        let mass: f64 = sorted.iter().map(|c| (f64::from(c.value) - max).exp()).sum();
        for isa in isa::available() {
            let cpu = Cpu { isa, pool: &pool };
            let name = isa.name();
            let x = Floats::F32(row);
            assert_eq!(argmax(&cpu, x), sorted.first().map_or(0, |c| c.index as usize), "{name}");
            let mut best = Vec::new();
            for &k in ks {
                top_k(&cpu, x, k, &mut best);
                assert_eq!(best, sorted[..k.min(sorted.len())], "{name} top {k} of {}", row.len());
            }
            let lse = f64::from(log_sum_exp(&cpu, x));
            if row.iter().any(|x| x.is_nan()) {
                assert!(lse.is_nan(), "{name}");
                continue;
            }
            if sorted.is_empty() {
                assert_eq!(lse, f64::NEG_INFINITY, "{name}");
                continue;
            }
            assert!((lse - max - mass.ln()).abs() < 2e-6 * lse.abs().max(1.0), "{name} {lse}");
            let mut y = vec![0f32; row.len()];
            let to = RowsMut::new(FloatsMut::F32(&mut y), 1, row.len());
            softmax(&cpu, 0.5, &Rows::new(x, 1, row.len()), to);
            let warm: f64 = sorted.iter().map(|c| ((f64::from(c.value) - max) * 0.5).exp()).sum();
            for (i, (&x, &y)) in row.iter().zip(&y).enumerate() {
                let want = ((f64::from(x) - max) * 0.5).exp() / warm;
                assert!(
                    (f64::from(y) - want).abs() <= 4e-6 * want,
                    "{name} softmax {i}: {y} {want}"
                );
            }
        }
    }

    #[test]
    fn rows_of_all_lengths() {
        let mut rng = StdRng::seed_from_u64(8);
        for count in [1, 2, 15, 16, 17, 63, 64, 65, 500, 5000] {
            check(&logits(&mut rng, count), &[0, 1, 2, 40, 256, count]);
        }
        check(&logits(&mut rng, 151_936), &[1, 64, 256, 2000]);
    }

    #[test]
    fn ties_orders_and_what_is_not_a_number() {
        let rising: Vec<f32> = (0..9000).map(|i| i as f32 / 1000.0).collect();
        check(&rising, &[1, 256]);
        check(&rising.iter().rev().copied().collect::<Vec<_>>(), &[1, 256]);
        check(&[2.5; 4000], &[3, 256]);
        check(&[f32::NEG_INFINITY; 100], &[5]);
        let mut row = vec![f32::NEG_INFINITY; 3000];
        (row[1700], row[99], row[2999]) = (1.0, -3.0, 1.0);
        check(&row, &[1, 2, 5]);
        (row[98], row[1699], row[0]) = (f32::NAN, f32::NAN, f32::NAN);
        check(&row, &[1, 2, 5]);
    }
}
