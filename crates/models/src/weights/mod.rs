//! A checkpoint's tensors, taken by name: a cursor that walks the names as an architecture does.
//!
//! `w.at("self_attn").linear("q_proj", …)` takes `….self_attn.q_proj.weight`, dense or quantised as it is found, with
//! its shape checked. Each tensor is taken once; [`Weights::finish`] tells which ones nobody took.

mod gather;
mod quantised;
mod stacked;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mlx::fast::Gate;
use mlx::safetensors::SafeTensors;
use mlx::{Array, Dtype};

use crate::config::Section;
use crate::error::{Error, Result};
use crate::nn::{Embedding, Linear, Mlp, RmsNorm};

use quantised::Declarations;

/// Shared by its clones; `at` makes one that stands deeper.
#[derive(Clone)]
pub struct Weights {
    gathered: Rc<RefCell<Gathered>>,
    prefix: String,
}

#[derive(Default)]
struct Gathered {
    tensors: BTreeMap<String, Stored>,
    declarations: Declarations,
    /// Floating-point tensors are converted to it, where it is set.
    dtype: Option<Dtype>,
    /// Names (or beginnings of names) that may stay untaken.
    ignored: BTreeSet<String>,
    /// What was taken, to be evaluated once at the end.
    taken: Vec<Array>,
}

/// A tensor that waits to be taken.
enum Stored {
    InFile(Rc<SafeTensors>),
    Made(Array),
}

impl Weights {
    /// A Hugging Face folder: the files its index lists, else every safetensors file in it.
    pub fn from_folder(folder: &Path) -> Result<Weights> {
        Weights::from_files(&gather::files_of(folder)?)
    }

    /// Any number of safetensors files, such as the blobs of a store. Nothing is read but their headers.
    pub fn from_files(files: &[PathBuf]) -> Result<Weights> {
        gather::gather(files).map(Weights::of)
    }

    pub fn from_arrays(tensors: impl IntoIterator<Item = (String, Array)>) -> Weights {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, Stored::Made(tensor)));
        Weights::of(Gathered { tensors: tensors.collect(), ..Gathered::default() })
    }

    fn of(gathered: Gathered) -> Weights {
        Weights { gathered: Rc::new(RefCell::new(gathered)), prefix: String::new() }
    }

    /// Converts floating-point tensors to `dtype` as they are taken; the model then computes in it.
    #[must_use]
    pub fn in_dtype(self, dtype: Dtype) -> Weights {
        self.gathered.borrow_mut().dtype = Some(dtype);
        self
    }

    /// Of the tensors that nobody has taken, as they are stored.
    pub fn bytes(&self) -> usize {
        let bytes = |(name, stored): (&String, &Stored)| match stored {
            Stored::InFile(file) => file.tensor(name).map_or(0, |tensor| tensor.nbytes()),
            Stored::Made(tensor) => tensor.nbytes(),
        };
        self.gathered.borrow().tensors.iter().map(bytes).sum()
    }

    /// Takes note of how config.json says that tensors are quantised.
    pub(crate) fn declare(&self, config: &Section<'_>) -> Result<()> {
        self.gathered.borrow_mut().declarations.read(config)
    }

    pub fn at(&self, name: &str) -> Weights {
        Weights { gathered: Rc::clone(&self.gathered), prefix: self.path(name) }
    }

    pub fn at_index(&self, name: &str, index: i32) -> Weights {
        self.at(&format!("{name}.{index}"))
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    pub fn has(&self, name: &str) -> bool {
        self.gathered.borrow().tensors.contains_key(&self.path(name))
    }

    /// Of a tensor that is there and was not taken.
    pub fn shape(&self, name: &str) -> Option<Vec<i32>> {
        let path = self.path(name);
        match self.gathered.borrow().tensors.get(&path)? {
            Stored::Made(tensor) => Some(tensor.shape().to_vec()),
            Stored::InFile(file) => Some(file.tensor(&path)?.shape.clone()),
        }
    }

    /// Whether there is any tensor below `name`.
    pub fn has_below(&self, name: &str) -> bool {
        let start = format!("{}.", self.path(name));
        self.gathered.borrow().tensors.keys().any(|name| name.starts_with(&start))
    }

    /// The place where all names begin, if that is `name`; else this one.
    #[must_use]
    pub fn within(&self, name: &str) -> Weights {
        let inner = self.at(name);
        let is_there = |path: &String| path.starts_with(&format!("{}.", inner.prefix));
        let all = self.gathered.borrow().tensors.keys().all(is_there);
        if all { inner } else { self.clone() }
    }

    /// Tensors whose names begin so may stay untaken.
    pub fn ignore(&self, name: &str) {
        self.gathered.borrow_mut().ignored.insert(self.path(name));
    }

    /// A floating-point tensor of exactly this shape.
    pub fn tensor(&self, name: &str, shape: &[i32]) -> Result<Array> {
        let (path, tensor) = (self.path(name), self.take(name)?);
        if tensor.shape() != shape {
            let (expected, found) = (shape.to_vec(), tensor.shape().to_vec());
            return Err(Error::WrongShape { path, expected, found });
        }
        if !tensor.dtype().is_float() {
            return Err(Error::WrongDtype { path, found: tensor.dtype() });
        }
        Ok(tensor)
    }

    /// Takes it in whatever shape it is.
    fn take(&self, name: &str) -> Result<Array> {
        let (path, mut gathered) = (self.path(name), self.gathered.borrow_mut());
        let tensor = match gathered.tensors.remove(&path) {
            None => return Err(Error::MissingTensor { path }),
            Some(Stored::Made(tensor)) => tensor,
            Some(Stored::InFile(file)) => file.array(&path)?,
        };
        let tensor = match gathered.dtype {
            Some(dtype) if tensor.dtype().is_float() => tensor.cast(dtype),
            _ => tensor,
        };
        gathered.taken.push(tensor.clone());
        Ok(tensor)
    }

    /// The linear layer `name` from `in` to `out`, dense or quantised; with a bias of its own if `bias`.
    pub fn linear(&self, name: &str, [out, input]: [i32; 2], bias: bool) -> Result<Linear> {
        let w = self.at(name);
        let quantised = w.quantised([out, input])?;
        let linear_bias = if bias { Some(w.tensor("bias", &[out])?) } else { None };
        match quantised {
            Some(weight) => Ok(Linear::quantised(weight, linear_bias)),
            None => Ok(Linear::dense(&w.tensor("weight", &[out, input])?, linear_bias)),
        }
    }

    /// Several layers without biases that a checkpoint stores as one, interleaved: the rows of each, in order.
    pub fn linears<const N: usize>(
        &self,
        name: &str,
        input: i32,
        rows: [Vec<i32>; N],
    ) -> Result<[Linear; N]> {
        let taken = self.gathered.borrow().taken.len();
        let out = rows.iter().map(Vec::len).sum::<usize>() as i32;
        let stored = self.linear(name, [out, input], false)?;
        let parts =
            rows.map(|rows| stored.of_rows(&Array::from_slice(&rows, &[rows.len() as i32])));
        let arrays: Vec<Array> = parts.iter().flat_map(Linear::arrays).collect();
        mlx::eval(&arrays.iter().collect::<Vec<_>>())?;
        // The one that was stored is let go.
        self.gathered.borrow_mut().taken.truncate(taken);
        Ok(parts)
    }

    pub fn embedding(&self, name: &str, [rows, width]: [i32; 2]) -> Result<Embedding> {
        let w = self.at(name);
        match w.quantised([rows, width])? {
            Some(table) => {
                // fp4 and fp8 modes have byte scales, which tell nothing about what to compute in.
                let scales = table.scales.dtype();
                let dtype = self.gathered.borrow().dtype.unwrap_or(Dtype::Bf16);
                Ok(Embedding::quantised(table, if scales.is_float() { scales } else { dtype }))
            }
            None => Ok(Embedding::dense(w.tensor("weight", &[rows, width])?)),
        }
    }

    /// The output head: the embedding's table if it is tied, else a linear layer of its own without bias.
    pub fn head(&self, name: &str, embedding: &Embedding, tied: bool) -> Result<Linear> {
        if tied {
            self.ignore(name);
            return Ok(embedding.as_linear());
        }
        self.linear(name, [embedding.rows(), embedding.width()], false)
    }

    /// The network whose projections lie where the cursor stands, from `hidden` over `wide` and back.
    pub fn mlp(&self, f: Gate, [hidden, wide]: [i32; 2], bias: bool) -> Result<Mlp> {
        let gate = self.linear("gate_proj", [wide, hidden], bias)?;
        let up = self.linear("up_proj", [wide, hidden], bias)?;
        Ok(Mlp::new(f, [gate, up, self.linear("down_proj", [hidden, wide], bias)?]))
    }

    pub fn rms_norm(&self, name: &str, size: i32, eps: f32) -> Result<RmsNorm> {
        Ok(RmsNorm::new(self.at(name).tensor("weight", &[size])?, eps))
    }

    /// As `rms_norm`, of a weight that is stored as its distance from 1.
    pub fn centred_rms_norm(&self, name: &str, size: i32, eps: f32) -> Result<RmsNorm> {
        let norm = RmsNorm::centred(&self.at(name).tensor("weight", &[size])?, eps);
        self.gathered.borrow_mut().taken.push(norm.weight().clone());
        Ok(norm)
    }

    /// The names that nobody has taken; of a model that is loaded, those that it does not use.
    pub fn untaken(&self) -> Vec<String> {
        let gathered = self.gathered.borrow();
        // Derived from the configuration by everyone; old checkpoints store it all the same.
        let harmless = |name: &str| name.ends_with("rotary_emb.inv_freq");
        let ignored = |name: &str| gathered.ignored.iter().any(|start| name.starts_with(start));
        let names = gathered.tensors.keys();
        names.filter(|name| !harmless(name) && !ignored(name)).cloned().collect()
    }

    /// Evaluates what was taken (conversions), and logs the names of the rest.
    pub(crate) fn finish(&self) -> Result<()> {
        let untaken = self.untaken();
        if !untaken.is_empty() {
            tracing::warn!(tensors = untaken.join(", "), "{} tensors are not used", untaken.len());
        }
        let taken = std::mem::take(&mut self.gathered.borrow_mut().taken);
        Ok(mlx::eval(&taken.iter().collect::<Vec<_>>())?)
    }
}
