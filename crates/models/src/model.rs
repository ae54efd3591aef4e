//! What every language model can do, and how one is loaded.

use mlx::Array;

use crate::arch::ARCHITECTURES;
use crate::batch::{Batch, Pass};
use crate::cache::Memory;
use crate::config::{self, Section};
use crate::error::{Error, Result};
use crate::weights::Weights;

/// A decoder. What only some models can do is a trait of its own.
pub trait Model {
    /// The hidden state of every row after the last norm, `[rows, hidden]`. The slots' memory grows by their rows,
    /// also where the pass unwinds half-way: then rewind them to where they were.
    fn forward(&self, batch: Batch, memory: &mut Memory) -> Array {
        let mut pass = self.begin(batch, memory);
        while pass.layers() < self.layers() {
            self.advance(&mut pass, memory);
        }
        self.end(pass)
    }

    /// A pass before its first layer; the slots' memory has grown.
    fn begin(&self, batch: Batch, memory: &mut Memory) -> Pass;

    /// Takes it through one more layer. Other passes may come in between, over other slots.
    fn advance(&self, pass: &mut Pass, memory: &mut Memory);

    /// What comes of a pass that is through.
    fn end(&self, pass: Pass) -> Array;

    fn layers(&self) -> usize;

    /// `[rows, hidden]` → `[rows, vocabulary]`. Ask for the rows that are needed only.
    fn logits(&self, hidden: &Array) -> Array;

    /// An empty memory of the kind this model needs.
    fn memory(&self) -> Memory;

    /// The longest sequence the model was made for, in tokens.
    fn context_max(&self) -> usize;

    /// Rows of the output head: one more than the largest token id there may be.
    fn vocabulary(&self) -> usize;
}

/// The name that config.json gives the architecture, known or not.
pub fn architecture(config_json: &str) -> Result<String> {
    let fields = config::parse(config_json)?;
    Section::whole(&fields).first_text("architectures").map(str::to_owned)
}

/// Builds the model that `config_json` (the text of a config.json) describes, with `weights`.
pub fn load(config_json: &str, weights: Weights) -> Result<Box<dyn Model>> {
    let fields = config::parse(config_json)?;
    let config = Section::whole(&fields);
    let name = config.first_text("architectures")?;
    let Some((_, load)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
        let known = ARCHITECTURES.iter().map(|(known, _)| *known).collect();
        return Err(Error::UnknownArchitecture { name: name.to_owned(), known });
    };
    weights.declare(&config)?;
    let model = mlx::catch(|| load(&config, &weights))??;
    weights.finish()?;
    Ok(model)
}
