//! What kernels on the CPU are asked for is recorded and run as one program: nobody must see a difference.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx::cpu::{self, Input, Kernel, Output, Start};
use mlx::{Array, Device, Dtype, eval, set_device};

struct Copy(Arc<AtomicUsize>);

impl Kernel for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        self.0.fetch_add(1, Ordering::SeqCst);
        outputs[0].as_bytes().copy_from_slice(inputs[0].as_bytes().expect("whole"));
    }
}

fn copy(x: &Array, runs: &Arc<AtomicUsize>) -> Array {
    let start = Start::Fresh { shape: x.shape(), dtype: x.dtype() };
    cpu::call(Copy(Arc::clone(runs)), &[x], &[start]).swap_remove(0)
}

fn open() -> Arc<AtomicUsize> {
    mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
    set_device(Device::Cpu);
    Arc::default()
}

fn numbers(shape: &[i32]) -> Array {
    let size: i32 = shape.iter().product();
    mlx::arange(0.0, f64::from(size), 1.0, Dtype::F32).reshape(shape)
}

#[test]
fn what_nobody_holds_is_not_computed() {
    let runs = open();
    let x = numbers(&[4]);
    let first = copy(&x, &runs);
    drop(copy(&first, &runs));
    let second = copy(&first, &runs);
    drop(first);
    assert_eq!(runs.load(Ordering::SeqCst), 0, "nobody asked yet");
    assert_eq!(second.to_vec::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    assert_eq!(second.to_vec::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(runs.load(Ordering::SeqCst), 2, "and not again");
}

/// A step that unwound leaves operations behind; the next one does not pay for them.
#[test]
fn what_an_error_left_behind_is_forgotten() {
    let runs = open();
    let failed = mlx::catch(|| {
        let x = copy(&numbers(&[2, 2]), &runs);
        x.reshape(&[3])
    });
    assert!(failed.is_err());
    assert_eq!(copy(&numbers(&[1]), &runs).to_vec::<f32>().unwrap(), [0.0]);
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

/// A pseudo-random sequence, the same on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % sides
    }
}

/// The same arrangement of an array that is recorded and of one that is MLX's.
fn arrange(dice: &mut Dice, x: &Array) -> Array {
    let shape = x.shape().to_vec();
    let (ndim, size) = (shape.len(), x.size() as i32);
    match dice.roll(6) {
        0 if ndim > 1 => x.swapaxes(dice.roll(ndim) as i32, -1),
        1 => {
            let mut axes: Vec<i32> = (0..ndim as i32).collect();
            axes.rotate_left(dice.roll(ndim));
            x.transpose(&axes)
        }
        2 if size % 2 == 0 => x.reshape(&[2, -1]),
        3 => x.reshape(&[size]),
        4 => {
            let starts: Vec<i32> =
                shape.iter().map(|dim| dice.roll(*dim as usize) as i32).collect();
            let steps: Vec<i32> = shape.iter().map(|_| 1 + dice.roll(2) as i32).collect();
            x.slice(&starts, &shape, &steps)
        }
        _ => x + x,
    }
}

#[test]
fn arrangements_are_those_of_mlx() {
    let runs = open();
    for seed in 0..400 {
        let (mut a, mut b) = (Dice(seed), Dice(seed));
        let x = numbers(&[2, 3, 4, 2]);
        eval(&[&x]).unwrap();
        let (mut recorded, mut plain) = (copy(&x, &runs), x);
        let mut parts = Vec::new();
        for _ in 0..6 {
            (recorded, plain) = (arrange(&mut a, &recorded), arrange(&mut b, &plain));
            eval(&[&plain]).unwrap();
            parts.push((recorded.clone(), plain.clone()));
        }
        for (recorded, plain) in parts {
            assert_eq!(recorded.shape(), plain.shape(), "seed {seed}");
            let both = (recorded.to_vec::<f32>().unwrap(), plain.to_vec::<f32>().unwrap());
            assert_eq!(both.0, both.1, "seed {seed}");
        }
    }
}

#[test]
fn rows_join_in_their_order() {
    let runs = open();
    let (a, b) = (numbers(&[2, 3]), numbers(&[1, 3]));
    let joined = mlx::concatenate(&[&copy(&a, &runs), &b, &copy(&b, &runs)], 0);
    let expected = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 1.0, 2.0, 0.0, 1.0, 2.0];
    assert_eq!((joined.shape(), joined.to_vec::<f32>().unwrap()), (&[4, 3][..], expected.to_vec()));
}

/// A cache that grows by one row a step, read as a whole and in part, at once and much later.
#[test]
fn memory_that_grows_is_read_as_it_was_written() {
    let runs = open();
    let row = |value: i32| mlx::full(&[1, 2], f64::from(value), Dtype::F32);
    let mut cache = mlx::unwritten(&[64, 2], Dtype::F32);
    let mut seen = Vec::new();
    for step in 0..64 {
        cache = cache.write_unread(&copy(&row(step), &runs), &[step, 0]);
        seen.push(copy(
            &copy(&cache.narrow(0, 0, step + 1), &runs).narrow(1, 1, 2).reshape(&[-1]),
            &runs,
        ));
        if step % 3 == 0 {
            mlx::async_eval(&[&seen[step as usize]]).unwrap();
        }
    }
    for (step, seen) in seen.iter().enumerate().rev() {
        let expected: Vec<f32> = (0..=step).map(|step| step as f32).collect();
        assert_eq!(seen.to_vec::<f32>().unwrap(), expected);
    }
    let whole: Vec<f32> = (0..128).map(|index| (index / 2) as f32).collect();
    assert_eq!(cache.to_vec::<f32>().unwrap(), whole);
    assert_eq!((&cache + &cache).narrow(0, 63, 64).to_vec::<f32>().unwrap(), [126.0, 126.0]);
}
