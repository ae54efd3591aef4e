//! Kernels of our own as nodes of MLX's graph: values, views, donation, sharing, failure.
#![allow(clippy::unwrap_used)]

use mlx::cpu::{self, Input, Kernel, Output, Start};
use mlx::{Array, Dtype, arange, catch, eval, ones, zeros};

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

fn fresh(shape: &[i32]) -> Start<'_> {
    Start::Fresh { shape, dtype: Dtype::F32 }
}

#[test]
fn a_kernel_that_panics_is_an_error_of_the_evaluation_every_time() {
    mlx::open().unwrap_or_else(|error| panic!("{error}"));
    for round in 0..100 {
        let x = ones(&[64, 64], Dtype::F32) + 1.0;
        let fail = |_: &[Input<'_>], _: &mut [Output<'_>]| {
            std::panic::resume_unwind(Box::new("on purpose"))
        };
        let broken = cpu::call(Run("fail", fail), &[&x], &[fresh(&[64, 64])]).swap_remove(0);
        let outcome = eval(&[&(&broken + 1.0)]);
        let error = outcome.expect_err(&format!("round {round}")).to_string();
        assert!(error.contains("the kernel `fail` panicked: on purpose"), "{error}");
        assert_eq!(
            ones(&[2], Dtype::F32).to_vec::<f32>().unwrap(),
            [1.0, 1.0],
            "the next evaluation is not touched"
        );
    }
}

/// Sums what it is given by shape and strides, as a kernel for views does.
fn strided_sum(input: &Input<'_>) -> f64 {
    let (values, first) = input.reach::<f32>().unwrap();
    let count: i32 = input.shape.iter().product();
    let mut sum = 0.0;
    for mut i in 0..i64::from(count) {
        let mut place = first as i64;
        for (dim, stride) in input.shape.iter().zip(input.strides).rev() {
            place += i % i64::from(*dim) * stride;
            i /= i64::from(*dim);
        }
        sum += f64::from(values[place as usize]);
    }
    sum
}

#[test]
fn views_are_seen_with_their_strides() {
    fn check(view: impl FnOnce(&Array) -> Array, row_contiguous: bool) {
        let base = arange(0.0, 24.0, 1.0, Dtype::F32).reshape(&[4, 6]);
        eval(&[&base]).unwrap();
        let view = view(&base);
        let sum = move |inputs: &[Input<'_>], outputs: &mut [Output<'_>]| {
            assert_eq!(inputs[0].is_row_contiguous(), row_contiguous);
            assert_eq!(inputs[0].as_slice::<f32>().is_some(), row_contiguous);
            assert!(inputs[0].as_slice::<i32>().is_none());
            outputs[0].as_slice::<f32>().unwrap()[0] = strided_sum(&inputs[0]) as f32;
        };
        let found = cpu::call(Run("sum", sum), &[&view], &[fresh(&[])]).swap_remove(0);
        let expected: f32 = view.to_vec::<f32>().unwrap().iter().sum();
        assert_eq!(found.item::<f32>().unwrap(), expected);
    }
    check(|x| x.clone(), true);
    check(|x| x.t(), false);
    check(|x| x.narrow(0, 1, 3), true);
    check(|x| x.narrow(1, 2, 5), false);
    check(|x| x.slice(&[3, 5], &[-5, -7], &[-1, -2]), false);
    check(|x| x.reshape(&[24]).flip(0), false);
    check(|x| x.narrow(0, 2, 3).broadcast_to(&[5, 6]), false);
    check(|x| x.select(1, 3), false);
    check(|x| x.as_strided(&[3, 2], &[1, 7], 4), false);
}

#[test]
fn several_outputs_of_several_types() {
    let x = arange(0.0, 5.0, 1.0, Dtype::F32);
    let both = |inputs: &[Input<'_>], outputs: &mut [Output<'_>]| {
        let x = inputs[0].as_slice::<f32>().unwrap();
        let [first, second, third] = outputs else { panic!() };
        first.as_slice::<f32>().unwrap().copy_from_slice(&x[..3]);
        second.as_slice::<i64>().unwrap()[0] = x.iter().sum::<f32>() as i64;
        assert!(
            third.as_bytes().is_empty()
                && third.as_slice::<u8>().is_some_and(|empty| empty.is_empty())
        );
    };
    let starts = [
        fresh(&[3, 1]),
        Start::Fresh { shape: &[], dtype: Dtype::I64 },
        Start::Fresh { shape: &[0, 4], dtype: Dtype::U8 },
    ];
    let out = cpu::call(Run("both", both), &[&x], &starts);
    assert_eq!(
        (out[0].shape(), out[0].to_vec::<f32>().unwrap()),
        (&[3, 1][..], vec![0.0, 1.0, 2.0])
    );
    assert_eq!(out[1].item::<i64>().unwrap(), 10);
    assert!(out[2].to_vec::<u8>().unwrap().is_empty());
}

/// Adds 1 in place to the first element of what it took over.
fn bump(start: Start<'static>, array: &Array) -> Array {
    let bump = |inputs: &[Input<'_>], outputs: &mut [Output<'_>]| {
        assert!(inputs[0].as_bytes().is_none() && inputs[0].reach::<f32>().is_none());
        outputs[0].as_slice::<f32>().unwrap()[0] += 1.0;
    };
    cpu::call(Run("bump", bump), &[array], &[start]).swap_remove(0)
}

const MIB: usize = 1 << 20;

#[test]
fn donated_memory_is_reused_where_nobody_else_holds_it_and_copied_else() {
    let array = zeros(&[2 * MIB as i32], Dtype::F32) + 5.0;
    eval(&[&array]).unwrap();
    let kept = array.clone();
    let bumped = bump(Start::Donated(0), &array);
    assert_eq!(bumped.narrow(0, 0, 2).to_vec::<f32>().unwrap(), [6.0, 5.0]);
    assert_eq!(
        kept.narrow(0, 0, 2).to_vec::<f32>().unwrap(),
        [5.0, 5.0],
        "who else holds it sees no change"
    );
    let view = kept.reshape(&[2, MIB as i32]).t();
    let bumped = bump(Start::Donated(0), &view);
    assert_eq!(bumped.shape(), [MIB as i32, 2]);
    assert_eq!(
        bumped.narrow(0, 0, 2).to_vec::<f32>().unwrap(),
        [6.0, 5.0, 5.0, 5.0],
        "a view is packed first"
    );
}

#[test]
fn wrong_uses_are_refused_when_the_node_is_made() {
    fn check(make: impl FnOnce() -> Vec<Array>, words: &str) {
        let error = catch(make).expect_err("accepted").to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains("kernels.rs"), "{error}");
    }
    let nothing = || Run("nothing", |_: &[Input<'_>], _: &mut [Output<'_>]| {});
    let x = ones(&[4], Dtype::F32);
    check(|| cpu::call(nothing(), &[&x], &[Start::Donated(1)]), "names an input that is not there");
    check(|| cpu::call(nothing(), &[&x], &[Start::Donated(0), Start::Shared(0)]), "taken already");
    check(|| cpu::call(nothing(), &[&x], &[fresh(&[-1])]), "not there");
}

#[test]
fn wrong_uses_that_only_the_evaluation_sees_are_errors_of_it() {
    fn check(node: Array, words: &str) {
        let error = eval(&[&node]).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let x = arange(0.0, 16.0, 1.0, Dtype::F32).reshape(&[4, 4]);
    eval(&[&x]).unwrap();
    check(bump(Start::Shared(0), &x.t()), "can only share a row contiguous buffer");
    let nothing = Run("nothing", |_: &[Input<'_>], _: &mut [Output<'_>]| {});
    let same = x.reshape(&[16]);
    check(
        cpu::call(nothing, &[&x, &same], &[Start::Shared(0)]).swap_remove(0),
        "would read the buffer it writes",
    );
}

/// A kernel may compute with threads of its own while the stream waits for it.
#[test]
fn kernels_may_use_threads() {
    let x = arange(0.0, 1e6, 1.0, Dtype::F32);
    let square = |inputs: &[Input<'_>], outputs: &mut [Output<'_>]| {
        let (x, y) = (inputs[0].as_slice::<f32>().unwrap(), outputs[0].as_slice::<f32>().unwrap());
        std::thread::scope(|scope| {
            for (x, y) in x.chunks(250_000).zip(y.chunks_mut(250_000)) {
                scope.spawn(move || x.iter().zip(y).for_each(|(x, y)| *y = x * x));
            }
        });
    };
    let squares = cpu::call(Run("square", square), &[&x], &[fresh(&[1_000_000])]).swap_remove(0);
    let same = mlx::array_equal(&squares, &x.square());
    assert_eq!(same.item::<u8>().unwrap(), 1);
}

#[test]
fn a_reading_waits_for_its_own_step_only() {
    mlx::open().unwrap_or_else(|error| panic!("{error}"));
    // Memory is written in place there only.
    mlx::with_device(mlx::Device::Cpu, read_while_the_next_step_writes);
}

fn read_while_the_next_step_writes() {
    let add = |_: &[Input<'_>], outputs: &mut [Output<'_>]| {
        outputs[0].as_slice::<f32>().unwrap()[0] += 1.0;
    };
    let cache = zeros(&[4], Dtype::F32);
    let first = cpu::call(Run("add", add), &[&cache], &[Start::Shared(0)]).swap_remove(0);
    let view = first.narrow(0, 0, 2);
    let readings = [first.reading(), view.reading()];
    mlx::async_eval(&[&first, readings[0].array(), readings[1].array()]).unwrap();
    // The next step writes to the same memory, and ends only when the first is read.
    let (told, tells) = std::sync::mpsc::channel();
    let tells = std::sync::Mutex::new(tells);
    let wait = move |inputs: &[Input<'_>], outputs: &mut [Output<'_>]| {
        add(inputs, outputs);
        let told = tells.lock().unwrap().recv_timeout(std::time::Duration::from_secs(20));
        outputs[0].as_slice::<f32>().unwrap()[3] = if told.is_ok() { 1.0 } else { -1.0 };
    };
    let second = cpu::call(Run("wait", wait), &[&first], &[Start::Shared(0)]).swap_remove(0);
    mlx::async_eval(&[&second]).unwrap();
    assert_eq!(readings[0].to_vec::<f32>().unwrap(), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(readings[1].to_vec::<f32>().unwrap(), [1.0, 0.0]);
    told.send(()).unwrap();
    let last = second.reading();
    assert!(last.to_vec::<u32>().is_err(), "another dtype");
    assert_eq!(last.to_vec::<f32>().unwrap(), [2.0, 0.0, 0.0, 1.0], "-1: the reading waited");
}
