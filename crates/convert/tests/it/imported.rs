//! What an import makes of sources that are as they should be.

use std::path::PathBuf;

use protocol::{Convert, Converted};
use serde_json::json;
use store::{Capability, Config, Name, SafetensorsHeader, media};

use crate::scene::{Scene, blob_paths, contents, llama};

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
    assert_eq!((info.quantization.as_str(), model.config.file_type.as_str()), ("bfloat16", "BF16"));
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
    let job =
        Convert { files, store: scene.root(), quantize: Some("int4".into()), is_draft: false };
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
fn a_draft_models_layers_say_so() {
    let scene = Scene::of_fixture("llama");
    let files = convert::source_files(&scene.source()).unwrap();
    let job = Convert { files, store: scene.root(), quantize: None, is_draft: true };
    let draft = convert::import(&job, &mut |_| {}).unwrap();
    let own = scene.import().unwrap();
    let names = |converted: &Converted, kind: &str, prefix: &str| -> Vec<String> {
        let layers = converted.layers.iter().filter(|layer| layer.media_type == kind);
        layers.map(|layer| format!("{prefix}{}", layer.name.as_deref().unwrap())).collect()
    };
    assert_eq!(names(&draft, media::TENSOR, ""), names(&own, media::TENSOR, "draft."));
    assert_eq!(names(&draft, media::JSON, ""), names(&own, media::JSON, "draft/"));
    let blobs = blob_paths(&scene, &draft, media::TENSOR);
    for (name, path) in blobs {
        let header = SafetensorsHeader::read(&path).unwrap();
        assert!(header.tensors.iter().all(|tensor| tensor.name.starts_with(&name)), "{name}");
    }
}

#[test]
fn progress_counts_to_the_end() {
    let scene = Scene::of_fixture("llama");
    let files = convert::source_files(&scene.source()).unwrap();
    let mut told = Vec::new();
    let job = Convert { files, store: scene.root(), quantize: None, is_draft: false };
    let converted = convert::import(&job, &mut |progress| told.push(progress)).unwrap();
    let counts = |media_type: &str| [media::TENSOR, media::JSON].contains(&media_type);
    let layers = converted.layers.iter().filter(|layer| counts(&layer.media_type));
    let sizes: u64 = layers.map(|layer| layer.size_bytes).sum();
    let last = told.last().unwrap();
    assert_eq!((last.completed_bytes, last.total_bytes), (sizes, sizes));
    assert_eq!(told[0].completed_bytes, 0);
    assert!(told.windows(2).all(|pair| pair[0].completed_bytes <= pair[1].completed_bytes));
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
    let job = Convert { files, store: scene.root(), quantize: None, is_draft: false };
    let failure = convert::import(&job, &mut |_| {}).unwrap_err();
    assert_eq!(failure.message, "file path must be relative");
}

/// The name of a Jinja template's TEMPLATE, and what is told while it is looked for.
#[track_caller]
fn check_named(chat_template: &str, is_draft: bool, expected: Option<&str>) {
    let scene = Scene::of(llama(), &[("a.weight", "BF16", &[4])]);
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": chat_template});
    scene.put("tokenizer_config.json", config.to_string().as_bytes());
    let files = convert::source_files(&scene.source()).unwrap();
    let job = Convert { files, store: scene.root(), quantize: None, is_draft };
    let mut told = Vec::new();
    let converted = convert::import(&job, &mut |step| told.push(step.status)).unwrap();
    let text = |media_type: &str| {
        let layer = converted.layers.iter().find(|layer| layer.media_type == media_type)?;
        let digest = layer.digest.parse().unwrap();
        Some(std::fs::read_to_string(scene.store().blob_path(&digest)).unwrap())
    };
    let line = expected.map(|name| format!("using autodetected template {name}"));
    assert_eq!(told.iter().find(|status| status.starts_with("using")), line.as_ref());
    assert_eq!(text(media::TEMPLATE).is_some(), expected.is_some());
    assert_eq!(text(media::PARAMS).is_some(), expected.is_some());
    if let (Some(template), Some(params)) = (text(media::TEMPLATE), text(media::PARAMS)) {
        assert!(template.contains("range .Messages"), "{template}");
        assert_eq!(params, "{\"stop\":[\"<|system|>\",\"</s>\",\"<|user|>\",\"<|assistant|>\"]}");
    }
}

#[test]
fn a_template_with_a_name_brings_its_go_form_and_its_stops() {
    let zephyr = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}<|assistant|>\n\n";
    check_named(zephyr, false, Some("zephyr"));
    check_named(zephyr, true, None);
    check_named(&zephyr.replace("|>\n", "|>"), false, None);
    check_named("{% broken", false, None);
}
