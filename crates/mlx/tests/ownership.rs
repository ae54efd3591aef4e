//! Every array is freed once: the memory that MLX counts stays exactly the same over many steps, and after errors.
//!
//! MLX counts for the whole process, so all of this is one test, in a process of its own.
#![allow(clippy::unwrap_used)]

use mlx::cpu::{Input, Kernel, Output, Start};
use mlx::fast::{Angles, Mask, Rope, rms_norm, scaled_dot_product_attention};
use mlx::{Array, Device, Dtype, catch, concatenate, eval, memory, ones, zeros};

const STEPS: usize = 100_000;
const WARM_UP: usize = 200;

/// A layer's worth of small arrays, and what is kept from step to step.
struct Layer {
    weight: Array,
    norm: Array,
    cache: Array,
}

/// Writes its second input into the cache at a row.
struct Append {
    row: usize,
}

impl Kernel for Append {
    fn name(&self) -> &'static str {
        "append"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let row = inputs[1].as_slice::<f32>().unwrap();
        outputs[0].as_slice::<f32>().unwrap()[self.row * 8..][..8].copy_from_slice(row);
    }
}

impl Layer {
    fn new() -> Layer {
        let weight =
            Array::from_slice(&(0..64).map(|i| (i % 7) as f32 / 7.0).collect::<Vec<_>>(), &[8, 8]);
        Layer { weight, norm: ones(&[8], Dtype::F32), cache: zeros(&[16, 8], Dtype::F32) }
    }

    fn forward(&mut self, x: &Array, step: usize) -> Array {
        let h = rms_norm(x, Some(&self.norm), 1e-5).matmul(&self.weight);
        let rope = Rope { dims: 8, traditional: false, angles: Angles::Base(1e4), scale: 1.0 };
        let q = rope.apply(&h.reshape(&[1, 1, 1, 8]), (step % 16) as i32);
        let cache = std::mem::replace(&mut self.cache, h.clone());
        self.cache = append(cache, &h, step);
        let history = self.cache.reshape(&[1, 1, 16, 8]);
        let out = scaled_dot_product_attention(&q, &history, &history, 0.35, Mask::None, None);
        let parts = out.reshape(&[1, 8]).split(2, -1);
        let joined = concatenate(&[&parts[1], &parts[0]], -1);
        &joined.silu() * 0.5 + x
    }
}

/// On the CPU by a kernel of our own, on a GPU as caches do it there.
fn append(cache: Array, h: &Array, step: usize) -> Array {
    let row = step % 16;
    if mlx::device() == Device::Gpu {
        let cache = if step.is_multiple_of(2) { cache } else { cache.sole() };
        return cache.slice_update(h, &[row as i32, 0], &[row as i32 + 1, 8], &[1, 1]);
    }
    let start = if step.is_multiple_of(2) { Start::Donated(0) } else { Start::Shared(0) };
    mlx::cpu::call(Append { row }, &[&cache, h], &[start]).swap_remove(0)
}

fn steps(layer: &mut Layer, range: std::ops::Range<usize>) {
    let mut x = ones(&[1, 8], Dtype::F32);
    for step in range {
        let next = layer.forward(&x, step);
        match step % 3 {
            // The next step is asked for before this one is read, as the engine does.
            0 => mlx::async_eval(&[&next, &layer.cache]).unwrap(),
            1 => eval(&[&next, &layer.cache]).unwrap(),
            _ => assert!(next.select(1, 0).item::<f32>().unwrap().is_finite()),
        }
        x = next.clip(Some(&Array::from(-1.0)), Some(&Array::from(1.0)));
    }
    eval(&[&x, &layer.cache]).unwrap();
    drop(x);
    mlx::synchronize().unwrap();
}

/// Graphs whose middle is impossible: nothing of what was built before may stay.
fn failing_graph(layer: &mut Layer) {
    let outcome = catch(|| {
        let x = layer.forward(&ones(&[1, 8], Dtype::F32), 0);
        let wide = concatenate(&[&x, &x], -1);
        let wrong = wide.matmul(&layer.weight);
        wrong.sum(&[], false)
    });
    let error = outcome.unwrap_err();
    assert_eq!(error.operation, "matmul");
    assert!(error.location.file().ends_with("ownership.rs"), "{error}");
    *layer = Layer::new();
}

/// A kernel that fails when it runs: the evaluation is an error, and the arrays behind it go.
fn failing_evaluation() {
    struct Fail;
    impl Kernel for Fail {
        fn name(&self) -> &'static str {
            "fail"
        }

        fn run(&self, _: &[Input<'_>], _: &mut [Output<'_>]) {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    let x = ones(&[64, 64], Dtype::F32) + 1.0;
    let broken =
        mlx::cpu::call(Fail, &[&x], &[Start::Fresh { shape: &[64, 64], dtype: Dtype::F32 }]);
    let error = eval(&[&(&broken[0] + 1.0)]).unwrap_err();
    assert!(error.to_string().contains("the kernel `fail` panicked: on purpose"), "{error}");
}

#[test]
fn memory_is_the_same_after_many_steps_and_after_errors() {
    mlx::open().unwrap_or_else(|error| panic!("{error}"));
    let mut layer = Layer::new();
    steps(&mut layer, 0..WARM_UP);
    let settled = memory::active_bytes();
    assert!(settled > 0);
    steps(&mut layer, WARM_UP..WARM_UP + STEPS);
    assert_eq!(memory::active_bytes(), settled, "after {STEPS} steps");
    assert!(memory::cache_bytes() < 1 << 20, "the free list grew to {}", memory::cache_bytes());

    let settled = fresh(&mut layer);
    for _ in 0..1000 {
        failing_graph(&mut layer);
    }
    assert_eq!(fresh(&mut layer), settled, "after 1000 graphs with an error in the middle");
    for _ in 0..1000 {
        mlx::with_device(Device::Cpu, failing_evaluation);
    }
    assert_eq!(fresh(&mut layer), settled, "after 1000 evaluations that failed");
    steps(&mut layer, 0..100);
}

/// The memory of a new layer that has done nothing.
fn fresh(layer: &mut Layer) -> usize {
    *layer = Layer::new();
    eval(&[&layer.weight, &layer.norm, &layer.cache]).unwrap();
    mlx::synchronize().unwrap();
    memory::active_bytes()
}
