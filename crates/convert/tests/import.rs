//! Whole imports, from files on disk to blobs in a store.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::{Convert, Converted, Failure, FailureKind};
use serde_json::{Value, json};
use store::{Capability, Config, Name, SafetensorsHeader, Store, media};
use tempfile::TempDir;

/// A source directory and a store, both of their own.
struct Scene {
    directory: TempDir,
}

impl Scene {
    fn empty() -> Scene {
        let scene = Scene { directory: tempfile::tempdir().unwrap() };
        std::fs::create_dir(scene.source()).unwrap();
        scene
    }

    fn of_fixture(name: &str) -> Scene {
        let scene = Scene::empty();
        fixtures::materialise(&fixtures::arch(name), &scene.source()).unwrap();
        scene
    }

    /// One shard of these tensors and a config.
    fn of(config: Value, tensors: &[(&str, &str, &[u64])]) -> Scene {
        let scene = Scene::empty();
        scene.put("config.json", config.to_string().as_bytes());
        scene.put("model.safetensors", &safetensors(tensors));
        scene
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("models")
    }

    fn store(&self) -> Store {
        Store::open(self.root(), None).unwrap()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.source().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn import(&self) -> Result<Converted, Failure> {
        let files = convert::source_files(&self.source())?;
        convert::import(&Convert { files, store: self.root(), quantize: None }, &mut |_| {})
    }

    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root().join("blobs")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    fn check_refused(&self, kind: FailureKind, message: &str) {
        let failure = self.import().unwrap_err();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.message.contains(message), "{failure:?}, expected {message}");
        assert!(self.blobs().is_empty(), "nothing may be left behind");
    }
}

/// A file of these tensors, its bytes counting up.
fn safetensors(tensors: &[(&str, &str, &[u64])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let width = match *dtype {
            "F32" | "U32" => 4,
            "BF16" | "F16" => 2,
            _ => 1,
        };
        let begin = end;
        end += shape.iter().product::<u64>() * width;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]});
        header.insert((*name).to_owned(), entry);
    }
    let header = Value::Object(header).to_string();
    let data = (0..end).map(|at| at as u8);
    let length = (header.len() as u64).to_le_bytes();
    length.into_iter().chain(header.bytes()).chain(data).collect()
}

/// All tensors of some files with their bytes.
fn contents<'a>(
    files: impl IntoIterator<Item = &'a Path>,
) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for path in files {
        let bytes = std::fs::read(path).unwrap();
        for tensor in SafetensorsHeader::read(path).unwrap().tensors {
            let data = bytes[tensor.data.start as usize..tensor.data.end as usize].to_vec();
            assert!(all.insert(tensor.name, (tensor.dtype, tensor.shape, data)).is_none());
        }
    }
    all
}

fn blob_paths(scene: &Scene, converted: &Converted, media_type: &str) -> BTreeMap<String, PathBuf> {
    let layers = converted.layers.iter().filter(|layer| layer.media_type == media_type);
    let path = |digest: &str| scene.store().blob_path(&digest.parse().unwrap());
    layers.map(|layer| (layer.name.clone().unwrap(), path(&layer.digest))).collect()
}

fn llama() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
}

#[test]
fn a_checkpoint_comes_out_as_it_went_in() {
    for name in ["llama", "qwen3", "mamba2", "gpt-oss-mxfp4", "qwen3.5-vl"] {
        let scene = Scene::of_fixture(name);
        let converted = scene.import().unwrap();
        let blobs = blob_paths(&scene, &converted, media::TENSOR);
        let shards: Vec<PathBuf> = std::fs::read_dir(scene.source())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
            .collect();
        let before = contents(shards.iter().map(PathBuf::as_path));
        assert_eq!(contents(blobs.values().map(PathBuf::as_path)), before, "{name}");
        assert_eq!(blobs.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{name}");
        for path in blobs.values() {
            let begin = SafetensorsHeader::read(path).unwrap().tensors[0].data.start;
            assert_eq!(begin % 64, 0, "data on a boundary");
        }
        let texts = blob_paths(&scene, &converted, media::JSON);
        for (file, path) in &texts {
            assert_eq!(
                std::fs::read(path).unwrap(),
                std::fs::read(scene.source().join(file)).unwrap()
            );
        }
        assert!(texts.contains_key("config.json") && texts.contains_key("tokenizer.json"));
        assert!(!texts.contains_key("model.safetensors.index.json"));
    }
}

#[test]
fn a_model_is_described_by_its_config() {
    let scene = Scene::of_fixture("llama");
    convert::bundle(&scene.source(), &scene.root(), "pocket", &mut |_| {}).unwrap();
    let model = scene.store().model(&Name::parse("pocket").unwrap()).unwrap();
    model.verify().unwrap();
    let info = model.info().unwrap();
    assert_eq!(model.config.model_type, store::parameter_size(info.parameter_count));
    assert_eq!(
        (model.config.model_format.as_str(), model.config.model_family.as_str()),
        ("safetensors", "llama")
    );
    assert_eq!(model.config.context_length, info.facts.context_length);
    assert!(info.facts.context_length > 0 && info.facts.embedding_length > 0);
    assert!(model.can(Capability::Completion));
    assert_eq!(info.quantization, "bfloat16");
    let by_hand = contents(model.tensors.iter().map(|(_, path)| path.as_path()));
    let count: u64 = by_hand.values().map(|(_, shape, _)| shape.iter().product::<u64>()).sum();
    assert_eq!(info.parameter_count, count);
}

#[test]
fn twice_is_once() {
    let scene = Scene::of_fixture("qwen3");
    let first = scene.import().unwrap();
    let blobs = scene.blobs();
    assert_eq!(scene.import().unwrap(), first);
    assert_eq!(scene.blobs(), blobs);
    let elsewhere = Scene::of_fixture("qwen3");
    assert_eq!(elsewhere.import().unwrap(), first, "the same digests in another store");
}

#[test]
fn parts_of_an_embedder_keep_their_folders() {
    let scene = Scene::of_fixture("embeddinggemma");
    let converted = scene.import().unwrap();
    let tensors = blob_paths(&scene, &converted, media::TENSOR);
    assert!(tensors.contains_key("2_Dense/linear.weight"), "{:?}", tensors.keys());
    assert!(tensors.contains_key("3_Dense/linear.weight"));
    let texts = blob_paths(&scene, &converted, media::JSON);
    assert!(texts.contains_key("1_Pooling/config.json") && texts.contains_key("modules.json"));
    let config: Config = serde_json::from_value(converted.config).unwrap();
    assert_eq!(config.capabilities, ["embedding"]);
}

#[test]
fn quantised_weights_travel_with_their_scales() {
    let mut config = llama();
    config["quantization"] =
        json!({"bits": 4, "group_size": 64, "b": {"bits": 8, "group_size": 32}});
    let scene = Scene::of(
        config,
        &[
            ("a.weight", "U32", &[4, 16]),
            ("a.scales", "BF16", &[4, 2]),
            ("a.biases", "BF16", &[4, 2]),
            ("a.bias", "BF16", &[4]),
            ("b.weight", "U32", &[4, 32]),
            ("b.scales", "F16", &[4, 4]),
            ("b.biases", "F16", &[4, 4]),
            ("norm.weight", "BF16", &[4]),
        ],
    );
    let converted = scene.import().unwrap();
    let blobs = blob_paths(&scene, &converted, media::TENSOR);
    assert_eq!(blobs.keys().collect::<Vec<_>>(), ["a.bias", "a.weight", "b.weight", "norm.weight"]);
    let header = |name: &str| SafetensorsHeader::read(&blobs[name]).unwrap();
    let names = |name: &str| header(name).tensors.into_iter().map(|t| t.name).collect::<Vec<_>>();
    assert_eq!(names("a.weight"), ["a.weight", "a.weight.scale", "a.weight.bias"]);
    assert_eq!(header("a.weight").metadata["quant_type"], "int4");
    assert_eq!(header("a.weight").metadata["group_size"], "64");
    assert_eq!(header("b.weight").metadata["quant_type"], "int8");
    assert_eq!(header("b.weight").metadata["group_size"], "32");
    assert!(header("norm.weight").metadata.is_empty());
    let before = contents([scene.source().join("model.safetensors").as_path()]);
    let after = contents([blobs["a.weight"].as_path()]);
    assert_eq!(after["a.weight.scale"], before["a.scales"]);
    assert_eq!(after["a.weight.bias"], before["a.biases"]);

    let config: Config = serde_json::from_value(converted.config).unwrap();
    assert_eq!(config.file_type, "", "two kinds have no common name");
    assert_eq!(config.model_type, store::parameter_size(4 * 128 + 4 * 128 + 4 + 4));
    let files = convert::source_files(&scene.source()).unwrap();
    let job = Convert { files, store: scene.root(), quantize: Some("int4".into()) };
    let failure = convert::import(&job, &mut |_| {}).unwrap_err();
    assert!(
        failure.message.starts_with(
            "cannot requantize an already-quantized source model (requested \"int4\")"
        )
    );
}

#[test]
fn a_random_quantised_checkpoint_is_counted_exactly() {
    let scene = Scene::empty();
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 256,
        "vocab_size": 512, "tie_word_embeddings": true, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    })
    .to_string();
    let encoding = fixtures::Encoding::Affine { bits: 4, group_size: 64 };
    fixtures::random_checkpoint(&config, 1, &scene.source(), encoding).unwrap();
    convert::bundle(&scene.source(), &scene.root(), "q", &mut |_| {}).unwrap();
    let info = scene.store().model(&Name::parse("q").unwrap()).unwrap().info().unwrap();
    let shapes = fixtures::shapes(&config).unwrap();
    let expected: usize = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    assert_eq!(info.parameter_count, expected as u64);
    assert_eq!(info.quantization, "int4");
    assert_eq!(info.tensors.len(), shapes.len());
}

#[test]
fn progress_counts_to_the_end() {
    let scene = Scene::of_fixture("llama");
    let files = convert::source_files(&scene.source()).unwrap();
    let mut told = Vec::new();
    let job = Convert { files, store: scene.root(), quantize: None };
    let converted = convert::import(&job, &mut |progress| told.push(progress)).unwrap();
    let sizes: u64 = converted.layers.iter().map(|layer| layer.size_bytes).sum();
    let last = told.last().unwrap();
    assert_eq!((last.completed_bytes, last.total_bytes), (sizes, sizes));
    assert_eq!(told[0].completed_bytes, 0);
    assert!(told.windows(2).all(|pair| pair[0].completed_bytes <= pair[1].completed_bytes));
}

#[test]
fn sources_that_lie_or_lack_something() {
    use FailureKind::{BadModel, InvalidRequest, Unsupported};
    let scene = Scene::of_fixture("llama");
    let whole = std::fs::read(scene.source().join("model.safetensors")).unwrap();
    for (length, message) in [
        (0, "too few"),
        (7, "too few"),
        (100, "`model.safetensors` is damaged: its header claims"),
        (whole.len() - 1, "ends at byte"),
    ] {
        scene.put("model.safetensors", &whole[..length]);
        scene.check_refused(BadModel, message);
    }
    scene.put("model.safetensors", &[&whole[..], b"x"].concat());
    scene.check_refused(BadModel, "1 bytes at its end belong to no tensor");
    scene.put("model.safetensors", &whole);
    scene.put("tokenizer.json", b"{\"model\": ");
    scene.check_refused(BadModel, "`tokenizer.json` is damaged");
    scene.put("tokenizer.json", b"{}");
    for (config, message) in [
        ("", "`config.json` is damaged"),
        ("[]", "it is no object"),
        ("{}", "neither `architectures` nor `model_type`"),
        (r#"{"model_type": "llama", "hidden_size": -5}"#, "`hidden_size` is -5"),
        (
            r#"{"model_type": "llama", "num_hidden_layers": 1000000}"#,
            "not a number from 1 to 10000",
        ),
        (r#"{"model_type": "llama", "vocab_size": "many"}"#, "`vocab_size` is \"many\""),
    ] {
        scene.put("config.json", config.as_bytes());
        scene.check_refused(BadModel, message);
    }
    std::fs::remove_file(scene.source().join("config.json")).unwrap();
    scene.check_refused(BadModel, "there is no `config.json`");

    Scene::of(llama(), &[("a.weight", "F8_E4M3", &[4])])
        .check_refused(Unsupported, "`a.weight` is F8_E4M3");
    Scene::of(llama(), &[("a.qweight", "U32", &[4])])
        .check_refused(Unsupported, "another quantiser");
    // A layer that happens to have scales of its own is none that MLX has quantised.
    let scaled = Scene::of(llama(), &[("a.weight", "F32", &[4]), ("a.scales", "F32", &[4])]);
    assert_eq!(scaled.import().unwrap().layers.len(), 3);
    Scene::of(llama(), &[("a", "F99", &[4])]).check_refused(BadModel, "the unknown type `F99`");
    Scene::of(llama(), &[]).check_refused(BadModel, "hold no tensor");
    Scene::empty().check_refused(InvalidRequest, "no safetensors file");
    let gguf = Scene::empty();
    gguf.put("a.gguf", b"GGUF");
    gguf.check_refused(Unsupported, "`a.gguf` is a GGUF file");
    let missing = Scene { directory: tempfile::tempdir().unwrap() };
    missing.check_refused(FailureKind::NotFound, "cannot read the directory");
}

#[test]
fn quantised_sources_that_do_not_agree() {
    let check = |config: Value, scales: &'static str, biases: bool, message: &str| {
        let mut all = llama();
        all["quantization"] = config;
        let mut tensors: Vec<(&str, &str, &[u64])> =
            vec![("a.weight", "U32", &[4, 16]), ("a.scales", scales, &[4, 2])];
        if biases {
            tensors.push(("a.biases", "BF16", &[4, 2]));
        }
        Scene::of(all, &tensors).check_refused(FailureKind::BadModel, message);
    };
    let int4 = || json!({"bits": 4, "group_size": 64});
    check(int4(), "BF16", false, "`a.biases` is missing");
    check(int4(), "U8", true, "`a.scales` is U8");
    check(int4(), "F32", true, "`a.biases` is BF16");
    check(json!({"bits": 4, "group_size": 48}), "BF16", true, "does not say how it is quantised");
    let mut float = llama();
    float["quantization"] = int4();
    Scene::of(
        float,
        &[
            ("a.weight", "F16", &[4, 16]),
            ("a.scales", "F16", &[4, 2]),
            ("a.biases", "F16", &[4, 2]),
        ],
    )
    .check_refused(FailureKind::BadModel, "`a.weight` is F16, and int4 needs U32");
    check(Value::Null, "BF16", true, "does not say how it is quantised");
    check(json!({"bits": 8, "group_size": 128}), "BF16", true, "cannot be int8 in groups of 128");
    check(json!({"bits": 4, "group_size": 64, "mode": "mxfp4"}), "BF16", false, "mxfp4 needs U8");
}

#[test]
fn shards_and_their_index() {
    let index = |map: Value| json!({"metadata": {}, "weight_map": map}).to_string();
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let scene = Scene::empty();
    scene.put("config.json", llama().to_string().as_bytes());
    scene.put(one, &safetensors(&[("a", "F32", &[2])]));
    scene.put("model.safetensors.index.json", index(json!({"a": one, "b": two})).as_bytes());
    scene.check_refused(FailureKind::BadModel, "`model-00002-of-00002.safetensors` is missing");
    scene.put(two, &safetensors(&[("c", "F32", &[2])]));
    scene.check_refused(FailureKind::BadModel, "does not hold `b`");
    scene.put(two, &safetensors(&[("a", "F32", &[2]), ("b", "F32", &[2])]));
    scene.check_refused(FailureKind::BadModel, "tensor `a` is in");
    scene.put("model.safetensors.index.json", b"{}");
    scene.put(two, &safetensors(&[("b", "F32", &[2])]));
    scene.check_refused(FailureKind::BadModel, "no `weight_map`");
    scene.put("model.safetensors.index.json", index(json!({"a": one, "b": two})).as_bytes());
    let converted = scene.import().unwrap();
    assert_eq!(blob_paths(&scene, &converted, media::TENSOR).len(), 2);
}

#[test]
fn only_the_models_own_files_are_taken() {
    let scene = Scene::of(llama(), &[("a", "F32", &[2])]);
    for name in [
        "consolidated.safetensors",
        "adapter_model.safetensors",
        "original/model.safetensors",
        "original/params.json",
        "onnx/config.json",
        "README.md",
        "pytorch_model.bin",
        "1_Pooling/config.json",
        "chat_template.jinja",
        "tokenizer.json",
    ] {
        scene.put(name, b"{}");
    }
    let taken: Vec<String> = convert::source_files(&scene.source()).unwrap().into_keys().collect();
    assert_eq!(
        taken,
        [
            "1_Pooling/config.json",
            "chat_template.jinja",
            "config.json",
            "model.safetensors",
            "tokenizer.json"
        ]
    );
    let converted = scene.import().unwrap();
    let texts = blob_paths(&scene, &converted, media::JSON);
    assert!(texts.contains_key("chat_template.jinja"), "the template is kept");

    let mut files = convert::source_files(&scene.source()).unwrap();
    files.insert("../out.json".to_owned(), scene.source().join("config.json"));
    let job = Convert { files, store: scene.root(), quantize: None };
    let failure = convert::import(&job, &mut |_| {}).unwrap_err();
    assert_eq!(failure.message, "file path must be relative");
}

#[cfg(unix)]
#[test]
fn links_may_not_lead_out() {
    use std::os::unix::fs::symlink;
    let scene = Scene::of(llama(), &[("a", "F32", &[2])]);
    let secret = scene.directory.path().join("secret.json");
    std::fs::write(&secret, b"{}").unwrap();
    symlink(&secret, scene.source().join("tokenizer.json")).unwrap();
    scene.check_refused(FailureKind::InvalidRequest, "insecure path: ");

    // As the Hugging Face cache lays out a download.
    let cache = Scene { directory: tempfile::tempdir().unwrap() };
    let top = cache.directory.path();
    for directory in ["blobs", "snapshots/rev"] {
        std::fs::create_dir_all(top.join(directory)).unwrap();
    }
    std::fs::rename(scene.source().join("model.safetensors"), top.join("blobs/weights")).unwrap();
    std::fs::rename(scene.source().join("config.json"), top.join("blobs/config")).unwrap();
    symlink("../../blobs/weights", top.join("snapshots/rev/model.safetensors")).unwrap();
    symlink("../../blobs/config", top.join("snapshots/rev/config.json")).unwrap();
    symlink(top.join("blobs"), cache.source()).unwrap();
    convert::bundle(&top.join("snapshots/rev"), &cache.root(), "x", &mut |_| {}).unwrap();
}

#[test]
fn a_job_that_fails_in_the_middle_removes_what_it_wrote() {
    let scene = Scene::of_fixture("llama");
    let mut files = convert::source_files(&scene.source()).unwrap();
    // Opens, and then cannot be read: found only when it is copied.
    let path = files["tokenizer.json"].clone();
    let job = |files| Convert { files, store: scene.root(), quantize: None };
    let kept = scene.store().new_layer("x", b"of another model").unwrap();
    let mut is_cut = false;
    let failure = convert::import(&job(std::mem::take(&mut files)), &mut |_| {
        if !is_cut {
            std::fs::write(&path, b"{").unwrap();
            is_cut = true;
        }
    });
    // The file may have been copied before it was cut; then there is nothing to fail.
    if let Err(failure) = failure {
        assert!(failure.message.contains("cannot read"), "{failure:?}");
        assert_eq!(scene.blobs(), [kept.layer.digest.file_name()]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_store_that_cannot_be_written() {
    let scene = Scene::of_fixture("llama");
    let files = convert::source_files(&scene.source()).unwrap();
    let job = Convert { files, store: "/proc/models".into(), quantize: None };
    let failure = convert::import(&job, &mut |_| {}).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Environment);
    assert!(failure.hint.unwrap().contains("OLLAMA_MODELS"));
}
