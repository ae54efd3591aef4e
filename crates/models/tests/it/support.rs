//! Loading fixtures, running prompts, reading log-probabilities.

use std::path::{Path, PathBuf};

use mlx::{Array, Dtype};
use models::nn::{choices_of, with_choices};
use models::{Batch, Memory, Model, Pass, Slot, Weights};
use serde_json::Value;
use tempfile::TempDir;

/// The fixtures of the architectures there are, apart from embedders.
pub const DECODERS: [&str; 9] = [
    "gemma3",
    "gemma3-linear",
    "llama",
    "llama-bias",
    "llama-yarn",
    "llama3-rope",
    "qwen3",
    "qwen3-moe",
    "qwen3-next",
];

pub fn open_mlx() {
    mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
}

/// A fixture as it would lie on a hub.
pub struct Checkpoint {
    pub config: String,
    pub folder: TempDir,
}

impl Checkpoint {
    pub fn of(fixture: &str) -> Checkpoint {
        open_mlx();
        let folder = tempfile::tempdir().unwrap();
        fixtures::materialise(&fixtures::arch(fixture), folder.path()).unwrap();
        let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        Checkpoint { config, folder }
    }

    pub fn weights(&self) -> Weights {
        Weights::from_folder(self.folder.path()).unwrap()
    }

    /// The weights as they are stored, or upcast.
    pub fn load(&self, dtype: Option<Dtype>) -> Box<dyn Model> {
        let weights = self.weights();
        let weights = match dtype {
            Some(dtype) => weights.in_dtype(dtype),
            None => weights,
        };
        models::load(&self.config, weights).unwrap()
    }

    /// The stored tensors by name.
    pub fn tensors(&self) -> Vec<(String, Array)> {
        tensors(&self.folder.path().join("model.safetensors"))
    }
}

/// Reads a file with as few words as possible, so that a fault of the real reader shows.
pub fn tensors(file: &Path) -> Vec<(String, Array)> {
    let bytes = std::fs::read(file).unwrap();
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    let tensor = |value: &Value| {
        let numbers = |key: &str| {
            let list = value[key].as_array().unwrap();
            list.iter().map(|number| number.as_u64().unwrap() as usize).collect::<Vec<_>>()
        };
        let shape: Vec<i32> = numbers("shape").iter().map(|size| *size as i32).collect();
        let offsets = numbers("data_offsets");
        let dtype = DTYPES.iter().find(|(name, _)| *name == value["dtype"]).unwrap().1;
        Array::from_bytes(&data[offsets[0]..offsets[1]], &shape, dtype)
    };
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
    tensors.map(|(name, value)| (name.clone(), tensor(value))).collect()
}

const DTYPES: [(&str, Dtype); 4] =
    [("BF16", Dtype::Bf16), ("F32", Dtype::F32), ("U32", Dtype::U32), ("U8", Dtype::U8)];

/// A model with the memory of its sequences.
pub struct Session {
    pub model: Box<dyn Model>,
    pub memory: Memory,
    /// Computes all the same before, and tells which experts to choose.
    guide: Option<Box<Session>>,
}

/// Log-probabilities by row.
pub type Rows = Vec<Vec<f32>>;

impl Session {
    pub fn new(model: Box<dyn Model>) -> Session {
        Session { memory: model.memory(), model, guide: None }
    }

    /// Where two experts of a mixture are nearly equal, rounding to bf16 decides which is chosen, and what follows says
    /// nothing about the arithmetic: `guide`, the same model in f32, chooses.
    pub fn guided(self, guide: Box<dyn Model>) -> Session {
        Session { guide: Some(Box::new(Session::new(guide))), ..self }
    }

    pub fn open(&mut self) -> Slot {
        let slot = self.memory.open();
        if let Some(guide) = &mut self.guide {
            assert_eq!(guide.open(), slot);
        }
        slot
    }

    pub fn close(&mut self, slot: Slot) {
        self.memory.close(slot);
        if let Some(guide) = &mut self.guide {
            guide.close(slot);
        }
    }

    /// One forward pass over these sequences' next tokens.
    pub fn step(&mut self, parts: &[(Slot, &[u32])]) -> Rows {
        let hidden = self.hidden(parts);
        log_probabilities(&self.model.logits(&hidden))
    }

    pub fn hidden(&mut self, parts: &[(Slot, &[u32])]) -> Array {
        match self.guide.take() {
            Some(mut guide) => {
                let (_, choices) = choices_of(|| guide.hidden(parts));
                self.guide = Some(guide);
                with_choices(choices, || self.own_hidden(parts))
            }
            None => self.own_hidden(parts),
        }
    }

    fn own_hidden(&mut self, parts: &[(Slot, &[u32])]) -> Array {
        let batch = self.batch(parts);
        self.model.forward(batch, &mut self.memory)
    }

    fn batch(&self, parts: &[(Slot, &[u32])]) -> Batch {
        let tokens: Vec<u32> =
            parts.iter().flat_map(|(_, tokens)| tokens.iter().copied()).collect();
        let lengths: Vec<_> = parts.iter().map(|(slot, tokens)| (*slot, tokens.len())).collect();
        let tokens = Array::from_slice(&tokens, &[tokens.len() as i32]);
        Batch::new(tokens, &lengths, &self.memory)
    }

    /// As `step`, where after some layers the first `segments` go on to the end, then `between` is done, and then the others
    /// go on.
    pub fn step_in_two(
        &mut self,
        parts: &[(Slot, &[u32])],
        (layers, segments): (usize, usize),
        between: impl FnOnce(&mut Session),
    ) -> Rows {
        let batch = self.batch(parts);
        let mut pass = self.model.begin(batch, &mut self.memory);
        self.advance(&mut pass, layers);
        mlx::eval(&[pass.hidden()]).unwrap();
        let [first, rest] = pass.split(segments);
        let mut rows = self.end(first);
        between(self);
        rows.extend(self.end(rest));
        rows
    }

    fn advance(&mut self, pass: &mut Pass, layers: usize) {
        while pass.layers() < layers {
            self.model.advance(pass, &mut self.memory);
        }
    }

    fn end(&mut self, mut pass: Pass) -> Rows {
        self.advance(&mut pass, self.model.layers());
        log_probabilities(&self.model.logits(&self.model.end(pass)))
    }

    /// A sequence by itself, in a slot of its own: the rows of all its tokens.
    pub fn alone(&mut self, tokens: &[u32]) -> Rows {
        let slot = self.open();
        let rows = self.step(&[(slot, tokens)]);
        self.close(slot);
        rows
    }
}

pub fn log_probabilities(logits: &Array) -> Rows {
    let logits = logits.cast(Dtype::F32);
    let values = (&logits - &logits.logsumexp(&[-1], true)).to_vec::<f32>().unwrap();
    values.chunks(logits.dim(-1) as usize).map(<[f32]>::to_vec).collect()
}

pub fn best(row: &[f32]) -> u32 {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32
}

/// The largest difference; infinite if any is not a number.
pub fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len(), "rows");
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let differences = pairs.map(|(a, b)| (a - b).abs());
    differences.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max)
}

/// As `difference`, for the twenty best of each row of `b`.
pub fn difference_of_best(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let best = |row: &Vec<f32>| {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|x, y| row[*y].total_cmp(&row[*x]));
        order.truncate(20);
        order
    };
    let of = |rows: &[Vec<f32>]| -> Rows {
        rows.iter()
            .zip(b)
            .map(|(row, b)| best(b).into_iter().map(|index| row[index]).collect())
            .collect()
    };
    difference(&of(a), &of(b))
}

/// Writes a safetensors file with metadata.
pub fn write_safetensors(file: &PathBuf, metadata: &[(&str, &str)], tensors: &[(String, Array)]) {
    let metadata: serde_json::Map<_, _> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    let mut header = serde_json::json!({"__metadata__": metadata});
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let begin = data.len();
        data.extend(tensor.to_bytes().unwrap());
        let dtype = DTYPES.iter().find(|(_, dtype)| *dtype == tensor.dtype()).unwrap().0;
        header[name] = serde_json::json!({
            "dtype": dtype, "shape": tensor.shape(), "data_offsets": [begin, data.len()],
        });
    }
    let header = header.to_string().into_bytes();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(file, bytes).unwrap();
}
