use mlx::{Array, Dtype};

/// Root-mean-square norm, arXiv:1910.07467, over the last axis; computed in f32 whatever the input is.
pub struct RmsNorm {
    weight: Array,
    /// Of the weight in the checkpoint: an input of the same stays in it, others become f32.
    stored: Dtype,
    eps: f32,
}

impl RmsNorm {
    pub fn new(weight: Array, eps: f32) -> RmsNorm {
        RmsNorm { stored: weight.dtype(), weight, eps }
    }

    /// Of a weight that is stored as its distance from 1. The sum is kept in f32: bf16 would round most of the distance
    /// away.
    pub fn centred(weight: &Array, eps: f32) -> RmsNorm {
        let stored = weight.dtype();
        RmsNorm { weight: weight.cast(Dtype::F32) + 1.0, stored, eps }
    }

    pub fn weight(&self) -> &Array {
        &self.weight
    }

    /// What it makes of rows in `x`: where its weight was stored in another dtype, f32.
    pub fn dtype(&self, x: Dtype) -> Dtype {
        if self.stored == x { x } else { Dtype::F32 }
    }

    pub fn forward(&self, x: &Array) -> Array {
        mlx::fast::rms_norm_in(x, Some(&self.weight), self.eps, self.dtype(x.dtype()))
    }
}
