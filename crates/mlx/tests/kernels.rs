//! Kernels of our own as nodes of MLX's graph: values, views, donation, sharing, failure.

use mlx::cpu::{self, Input, Kernel, Output, Start};
use mlx::{Array, Dtype, arange, async_eval, catch, eval, memory, ones, zeros};

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
        let fail = |_: &[Input<'_>], _: &mut [Output<'_>]| std::panic::resume_unwind(Box::new("on purpose"));
        let broken = cpu::call(Run("fail", fail), &[&x], &[fresh(&[64, 64])]).swap_remove(0);
        let outcome = eval(&[&(&broken + 1.0)]);
        let error = outcome.expect_err(&format!("round {round}")).to_string();
        assert!(error.contains("the kernel `fail` panicked: on purpose"), "{error}");
        assert_eq!(ones(&[2], Dtype::F32).to_vec::<f32>().unwrap(), [1.0, 1.0], "the next evaluation is not touched");
    }
}
