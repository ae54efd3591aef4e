use mlx::{Array, Dtype};

/// Root-mean-square norm, arXiv:1910.07467, over the last axis; computed in f32 whatever the input is.
pub struct RmsNorm {
    weight: Array,
    eps: f32,
}

impl RmsNorm {
    pub fn new(weight: Array, eps: f32) -> RmsNorm {
        RmsNorm { weight, eps }
    }

    /// What it makes of rows in `x`: where its weight is of another dtype, f32.
    pub fn dtype(&self, x: Dtype) -> Dtype {
        if self.weight.dtype() == x { x } else { Dtype::F32 }
    }

    pub fn forward(&self, x: &Array) -> Array {
        mlx::fast::rms_norm(x, Some(&self.weight), self.eps)
    }
}
