//! How a checkpoint lies on disk makes no difference: one file or several, with an index or without.

use std::path::Path;

use fixtures::{Encoding, random_checkpoint};
use mlx::{Array, Dtype};
use models::Weights;
use serde_json::json;

use crate::support::{Checkpoint, Rows, Session, open_mlx, write_safetensors};

const TOKENS: [u32; 9] = [17, 4, 99, 250, 3, 3, 411, 80, 5];

fn run(config: &str, weights: Weights) -> Rows {
    Session::new(models::load(config, weights).unwrap()).alone(&TOKENS)
}

/// Cuts the fixture's file into two.
fn split(checkpoint: &Checkpoint, folder: &Path) -> Vec<(String, &'static str)> {
    let tensors = checkpoint.tensors();
    let (first, second) = tensors.split_at(tensors.len() / 3);
    let mut places = Vec::new();
    for (name, part) in
        [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)]
    {
        write_safetensors(&folder.join(name), &[("format", "pt")], part);
        places.extend(part.iter().map(|(tensor, _)| (tensor.clone(), name)));
    }
    places
}

#[test]
fn several_files_are_one_checkpoint() {
    let checkpoint = Checkpoint::of("qwen3");
    let expected = run(&checkpoint.config, checkpoint.weights());
    let folder = tempfile::tempdir().unwrap();
    let places = split(&checkpoint, folder.path());
    assert_eq!(
        run(&checkpoint.config, Weights::from_folder(folder.path()).unwrap()),
        expected,
        "without an index"
    );
    // With an index, files that it does not name are not read: here one that would be refused.
    write_safetensors(&folder.path().join("other.safetensors"), &[], &checkpoint.tensors());
    assert!(Weights::from_folder(folder.path()).is_err());
    let map: serde_json::Map<_, _> =
        places.into_iter().map(|(tensor, file)| (tensor, file.into())).collect();
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map}).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    assert_eq!(
        run(&checkpoint.config, Weights::from_folder(folder.path()).unwrap()),
        expected,
        "with an index"
    );
}

/// The same blob may be listed twice, as a store keeps equal ones once.
#[test]
fn a_file_listed_twice_is_read_once() {
    let checkpoint = Checkpoint::of("llama");
    let file = checkpoint.folder.path().join("model.safetensors");
    let weights = Weights::from_files(&[file.clone(), file]).unwrap();
    assert_eq!(run(&checkpoint.config, weights), run(&checkpoint.config, checkpoint.weights()));
}

#[test]
fn random_checkpoints_load_and_speak_numbers() {
    open_mlx();
    let config = r#"{"architectures": ["Qwen3ForCausalLM"], "vocab_size": 512, "hidden_size": 256,
        "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "tie_word_embeddings": true}"#;
    let llama = config
        .replace("Qwen3For", "LlamaFor")
        .replace("\"tie_word_embeddings\": true", "\"mlp_bias\": true");
    for config in [config, &llama] {
        for encoding in [
            Encoding::Bf16,
            Encoding::Affine { bits: 4, group_size: 64 },
            Encoding::Affine { bits: 8, group_size: 32 },
        ] {
            let folder = tempfile::tempdir().unwrap();
            let bytes = random_checkpoint(config, 3, folder.path(), encoding).unwrap();
            let written = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
            let weights = Weights::from_folder(folder.path()).unwrap();
            assert_eq!(weights.bytes(), bytes);
            let rows = run(&written, weights.clone());
            assert_eq!(weights.untaken(), [""; 0], "{encoding:?}");
            for row in rows {
                let spread = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b))
                    - row.iter().fold(0.0, |a: f32, b| a.min(*b));
                assert!(
                    row.iter().all(|value| value.is_finite()) && (1.0..50.0).contains(&spread),
                    "{encoding:?}: {spread}"
                );
            }
        }
    }
}

/// What is stored in f32 or f16 is computed in it.
#[test]
fn the_stored_dtype_is_the_one_to_compute_in() {
    let checkpoint = Checkpoint::of("llama");
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let tensors: Vec<(String, Array)> = checkpoint
            .tensors()
            .into_iter()
            .map(|(name, tensor)| (name, tensor.cast(dtype)))
            .collect();
        let model = models::load(&checkpoint.config, Weights::from_arrays(tensors)).unwrap();
        let mut session = Session::new(model);
        let width = session.memory.page_bytes() / session.memory.page_tokens() / dtype.size();
        session.memory = session.model.memory().in_lanes();
        let slot = session.memory.open();
        let hidden = session.hidden(&[(slot, &TOKENS)]);
        let lanes = session.memory.page_bytes() / session.memory.page_tokens() / dtype.size();
        assert_eq!(width, lanes, "numbers of a position in pages and lanes");
        assert_eq!((hidden.dtype(), session.model.logits(&hidden).dtype()), (dtype, dtype));
        assert!(session.memory.arrays(slot).iter().all(|array| array.dtype() == dtype));
    }
}
