use mlx::Array;
use mlx::fast::{Gate, gated};

use crate::nn::Linear;

/// A network with a gate, arXiv:2002.05202: down(f(gate x) × up x).
pub struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
    f: Gate,
}

impl Mlp {
    pub fn new(f: Gate, [gate, up, down]: [Linear; 3]) -> Mlp {
        Mlp { gate, up, down, f }
    }

    pub fn forward(&self, x: &Array) -> Array {
        let [gate, up] = Linear::together([&self.gate, &self.up], x);
        self.down.forward(&gated(self.f, &gate, &up))
    }
}
