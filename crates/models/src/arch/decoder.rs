//! What stands around the layers of every decoder here: a table of embeddings before them, a norm and a head behind. An
//! architecture brings its layers, each with the memory it needs; which sizes config.json may leave out it knows too.

use mlx::{Array, Dtype};

use crate::batch::{Batch, Pass};
use crate::cache::{Cache, Memory};
use crate::config::Section;
use crate::error::Result;
use crate::model::Model;
use crate::nn::{Embedding, Linear, RmsNorm, softcap};
use crate::weights::Weights;

/// Sizes that all have, under the names all use.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub vocab_size: i32,
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub rms_norm_eps: f32,
    pub max_position_embeddings: i32,
    pub tie_word_embeddings: bool,
}

/// What they are where config.json does not say.
pub(super) struct Usual {
    pub max_position_embeddings: i32,
    pub tie_word_embeddings: bool,
}

/// `x` is rows, `[rows, hidden]`, and so is the result.
pub(super) trait Layer {
    /// An empty one of the kind that it needs.
    fn cache(&self) -> Cache;

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array;
}

pub(super) struct Decoder<L> {
    embed: Embedding,
    layers: Vec<L>,
    norm: RmsNorm,
    head: Linear,
    /// What the logits are capped at.
    softcap: Option<f32>,
    context_max: usize,
}

impl Frame {
    pub fn read(config: &Section<'_>, usual: Usual) -> Result<Frame> {
        Frame::sized(config, config.size("vocab_size")?, usual)
    }

    /// Of so many tokens.
    pub fn sized(config: &Section<'_>, vocab_size: i32, usual: Usual) -> Result<Frame> {
        Ok(Frame {
            vocab_size,
            hidden_size: config.size("hidden_size")?,
            num_hidden_layers: config.size("num_hidden_layers")?,
            rms_norm_eps: config.positive_or("rms_norm_eps", 1e-6)?,
            max_position_embeddings: config
                .size_or("max_position_embeddings", usual.max_position_embeddings)?,
            tie_word_embeddings: config.flag("tie_word_embeddings", usual.tie_word_embeddings)?,
        })
    }
}

impl<L: Layer> Decoder<L> {
    /// `norm` is the last one. The head stands beside the cursor `w`, in `outer`; each layer is told its number.
    pub fn load(
        frame: &Frame,
        norm: RmsNorm,
        w: &Weights,
        outer: &Weights,
        layer: impl Fn(usize, &Weights) -> Result<L>,
    ) -> Result<Decoder<L>> {
        let embed = w.embedding("embed_tokens", [frame.vocab_size, frame.hidden_size])?;
        let layers = (0..frame.num_hidden_layers)
            .map(|index| layer(index as usize, &w.at_index("layers", index)))
            .collect::<Result<_>>()?;
        let head = outer.head("lm_head", &embed, frame.tie_word_embeddings)?;
        let context_max = frame.max_position_embeddings as usize;
        Ok(Decoder { embed, layers, norm, head, softcap: None, context_max })
    }

    /// Embeddings are multiplied by `factor`, which has their dtype, as when the model was trained.
    pub fn with_scaled_embeddings(mut self, factor: f32) -> Result<Decoder<L>> {
        let factor = Array::scalar(f64::from(factor), self.embed.dtype());
        self.embed = self.embed.scaled(factor.cast(Dtype::F32).item()?);
        Ok(self)
    }

    pub fn with_softcap(self, softcap: Option<f32>) -> Decoder<L> {
        Decoder { softcap, ..self }
    }
}

impl<L: Layer> Model for Decoder<L> {
    fn begin(&self, mut batch: Batch, memory: &mut Memory) -> Pass {
        let _ = memory.step(&mut batch);
        let x = self.embed.forward(&batch.tokens);
        Pass { batch, x, layers: 0 }
    }

    fn advance(&self, pass: &mut Pass, memory: &mut Memory) {
        let (layer, cache) = (&self.layers[pass.layers], memory.layer(pass.layers));
        pass.x = layer.forward(&pass.x, &pass.batch, cache);
        pass.layers += 1;
    }

    fn end(&self, pass: Pass) -> Array {
        self.norm.forward(&pass.x)
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn logits(&self, hidden: &Array) -> Array {
        let logits = self.head.forward(hidden);
        self.softcap.map_or_else(|| logits.clone(), |cap| softcap(&logits, cap))
    }

    fn memory(&self) -> Memory {
        let dtype = self.norm.dtype(self.embed.dtype());
        Memory::new(dtype, self.layers.iter().map(Layer::cache))
    }

    fn context_max(&self) -> usize {
        self.context_max
    }

    fn vocabulary(&self) -> usize {
        self.embed.rows() as usize
    }
}
