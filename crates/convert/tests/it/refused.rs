//! What an import refuses, and that it leaves nothing behind then.

use protocol::{Convert, FailureKind};
use serde_json::{Value, json};
use store::media;

use crate::scene::{Scene, blob_paths, llama, safetensors};

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

#[cfg(target_os = "linux")]
#[test]
fn a_store_that_cannot_be_written() {
    let scene = Scene::of_fixture("llama");
    let files = convert::source_files(&scene.source()).unwrap();
    let job = Convert { files, store: "/proc/models".into(), quantize: None, is_draft: false };
    let failure = convert::import(&job, &mut |_| {}).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Environment);
    assert!(failure.hint.unwrap().contains("OLLAMA_MODELS"));
}

#[test]
fn a_source_larger_than_the_disk_is_refused_at_once() {
    let scene = Scene::of(llama(), &[("small", "F32", &[2])]);
    let free_bytes = scene.store().free_bytes().unwrap();
    let length = free_bytes + (1 << 30);
    let header = json!({"large": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}})
        .to_string();
    let start = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    scene.put("model-2.safetensors", &start);
    // A file of holes: it takes no room of its own.
    let path = scene.source().join("model-2.safetensors");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(start.len() as u64 + length).unwrap();
    scene.check_refused(FailureKind::NoRoom, "the disk is full");
}

/// Set by the test below for the process it starts.
const SOURCE: &str = "CONVERT_TEST_SOURCE";
const ROOT: &str = "CONVERT_TEST_ROOT";

#[test]
#[ignore = "run by the test below in a process of its own"]
fn child() {
    let var = |name| std::path::PathBuf::from(std::env::var_os(name).unwrap());
    let failure = convert::bundle(&var(SOURCE), &var(ROOT), "x", &mut |_| {}).unwrap_err();
    println!("refused: {}", failure.message);
}

/// A limit on the size of files lets the small tensors through and stops the large one.
#[cfg(unix)]
#[test]
fn a_job_that_fails_in_the_middle_removes_what_it_wrote() {
    let large: &[u64] = &[64 << 10];
    let scene =
        Scene::of(llama(), &[("a", "F32", &[2]), ("b", "F32", &[3]), ("large", "U8", large)]);
    let kept = scene.store().new_layer("x", b"of another model").unwrap();
    let script =
        "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact refused::child --nocapture --ignored";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(SOURCE, scene.source())
        .env(ROOT, scene.root())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("refused: cannot write"), "{told}");
    assert_eq!(scene.blobs(), [kept.layer.digest.file_name()]);
    assert!(scene.store().models().unwrap().is_empty());
}
