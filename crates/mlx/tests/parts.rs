//! Where the time of kernels goes is told by kernel and kind, and only to whoever asks.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use mlx::cpu::{self, Input, Kernel, Output, Part, Start, parts};
use mlx::{Device, set_device};

const NAP: Duration = Duration::from_millis(3);

struct Nap(Part);

impl Kernel for Nap {
    fn name(&self) -> &'static str {
        if self.0 == Part::Attention { "dream" } else { "nap" }
    }

    fn part(&self) -> Part {
        self.0
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        std::thread::sleep(NAP);
        outputs[0].as_bytes().copy_from_slice(inputs[0].as_bytes().expect("whole"));
    }
}

/// Five recorded kernels.
fn naps() {
    let mut x = mlx::full(&[4], 1.0, mlx::Dtype::F32);
    for part in [Part::Other, Part::Attention, Part::Other, Part::Products, Part::Attention] {
        let start = Start::Fresh { shape: &[4], dtype: mlx::Dtype::F32 };
        x = cpu::call(Nap(part), &[&x], &[start]).swap_remove(0);
    }
    assert_eq!(x.to_vec::<f32>().unwrap(), [1.0; 4]);
}

#[test]
fn time_is_told_by_kernel_while_somebody_asks() {
    mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
    set_device(Device::Cpu);
    naps();
    parts::start();
    let begin = Instant::now();
    naps();
    let whole = begin.elapsed();
    let spent = parts::stop();
    naps();
    assert!(parts::stop().is_empty(), "nobody asked");
    let calls = |kernel: &str| {
        let found = spent.iter().find(|spent| spent.kernel == kernel);
        found.map(|spent| (spent.calls, spent.time >= NAP * spent.calls as u32))
    };
    assert_eq!(calls("dream"), Some((2, true)));
    assert_eq!(calls("nap"), Some((3, true)));
    // The sequence is no kernel of its own: what ran inside of it is not counted again.
    let between = spent.iter().find(|spent| spent.part == Part::Between).unwrap();
    assert!(between.calls == 1 && between.time < NAP, "{between:?}");
    assert!(spent.iter().map(|spent| spent.time).sum::<Duration>() <= whole);
}
