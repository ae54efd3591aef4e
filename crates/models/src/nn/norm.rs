use mlx::Array;

/// Root-mean-square norm, arXiv:1910.07467, over the last axis; computed in f32 whatever the input is.
pub struct RmsNorm {
    weight: Array,
    eps: f32,
}

impl RmsNorm {
    pub fn new(weight: Array, eps: f32) -> RmsNorm {
        RmsNorm { weight, eps }
    }

    pub fn forward(&self, x: &Array) -> Array {
        mlx::fast::rms_norm(x, Some(&self.weight), self.eps)
    }
}
