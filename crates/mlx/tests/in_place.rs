//! Which kernels copy and which write in place, by MLX's own figures of memory. They count for the whole process, so all of
//! this is one test, in a process of its own.
#![allow(clippy::unwrap_used)]

use mlx::cpu::{self, Input, Kernel, Output, Start};
use mlx::{Array, Dtype, async_eval, eval, memory, zeros};

/// A kernel from a closure.
struct Run<F>(&'static str, F);

impl<F: Fn(&[Input<'_>], &mut [Output<'_>]) + Send + Sync + 'static> Kernel for Run<F> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        (self.1)(inputs, outputs);
    }
}

const MIB: usize = 1 << 20;

/// Bytes that MLX holds more at the peak of `work` than before it.
fn growth(work: impl FnOnce()) -> usize {
    mlx::synchronize().unwrap();
    memory::clear_cache();
    memory::reset_peak();
    let before = memory::active_bytes();
    work();
    memory::peak_bytes().saturating_sub(before)
}

/// Adds 1 in place to the first element of what it took over.
fn bump(start: Start<'static>, array: &Array) -> Array {
    let bump = |_: &[Input<'_>], outputs: &mut [Output<'_>]| {
        outputs[0].as_slice::<f32>().unwrap()[0] += 1.0;
    };
    cpu::call(Run("bump", bump), &[array], &[start]).swap_remove(0)
}

fn donated_memory_is_not_copied() {
    let count = 2 * MIB as i32;
    let fresh = || {
        let array = zeros(&[count], Dtype::F32);
        eval(&[&array]).unwrap();
        array
    };
    let alone = fresh();
    let grown = growth(move || {
        let bumped = bump(Start::Donated(0), &alone);
        drop(alone);
        eval(&[&bumped]).unwrap();
    });
    assert!(grown < MIB, "{grown} bytes more, though nobody else held the array");
    let kept = fresh();
    let grown = growth(|| eval(&[&bump(Start::Donated(0), &kept)]).unwrap());
    assert!(grown >= 8 * MIB, "only {grown} bytes more, though the array was held");
}

/// A cache that grows while its past is still being read: nothing is copied, and the past stays what it was.
fn shared_memory_is_written_in_place_while_older_arrays_are_in_use() {
    const ROWS: usize = 64;
    const WIDTH: usize = 1 << 14;
    let mut cache = zeros(&[ROWS as i32, WIDTH as i32], Dtype::F32);
    eval(&[&cache]).unwrap();
    let mut sums = Vec::new();
    let grown = growth(|| {
        for row in 0..ROWS {
            let append = move |inputs: &[Input<'_>], outputs: &mut [Output<'_>]| {
                let value = inputs[1].as_slice::<f32>().unwrap()[0];
                outputs[0].as_slice::<f32>().unwrap()[row * WIDTH..][..WIDTH].fill(value);
            };
            let value = Array::from(row as f32);
            let next = cpu::call(Run("append", append), &[&cache, &value], &[Start::Shared(0)])
                .swap_remove(0);
            let history = next.narrow(0, 0, row as i32 + 1);
            sums.push(history.select(1, 7).sum(&[], false));
            async_eval(&[&next, &sums[row]]).unwrap();
            cache = next;
        }
        mlx::synchronize().unwrap();
    });
    let cache_bytes = ROWS * WIDTH * 4;
    assert!(grown < cache_bytes / 2, "{grown} bytes came on top of a cache of {cache_bytes}");
    for (row, sum) in sums.iter().enumerate() {
        let expected = (row * (row + 1) / 2) as f32;
        assert_eq!(sum.item::<f32>().unwrap(), expected, "the first {row} rows");
    }
    assert_eq!(
        cache.select(1, 7).to_vec::<f32>().unwrap(),
        (0..ROWS).map(|r| r as f32).collect::<Vec<_>>()
    );
}

#[test]
fn memory_grows_only_where_it_must() {
    mlx::open().unwrap_or_else(|error| panic!("{error}"));
    // These kernels run on the CPU; what they take over must lie there.
    mlx::set_device(mlx::Device::Cpu);
    donated_memory_is_not_copied();
    shared_memory_is_written_in_place_while_older_arrays_are_in_use();
}
