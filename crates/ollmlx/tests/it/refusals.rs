//! What bad files, bad configurations and a bad machine get: a message, a hint, and nothing left behind. Needs MLX;
//! `cargo xtask mlx` makes it.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::http::{ask, post, receive};
use crate::support::{Home, PATIENCE, Server, create_in, fixture};

/// A safetensors file in its parts.
struct Weights {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Weights {
    fn read(path: &Path) -> Weights {
        let bytes = std::fs::read(path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        Weights { header, data: bytes[8 + length..].to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat()
    }
}

/// One field of one tensor says something else.
fn lie(weights: &Path, tensor: &str, field: &str, value: Value) {
    let mut parts = Weights::read(weights);
    parts.header[tensor][field] = value;
    std::fs::write(weights, parts.bytes()).unwrap();
}

const HEAD: &str = "lm_head.weight";
const AGAIN: &str = "hint: download it again";

/// Each breaks the file, and is refused by `create` with these words.
#[test]
fn weights_that_lie() {
    type Break = fn(&Path);
    let cases: [(&str, Break, &str); 9] = [
        (
            "cut off",
            |path| {
                let bytes = std::fs::read(path).unwrap();
                std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            },
            "tensor `model.layers.0.self_attn.q_proj.weight` ends at byte ",
        ),
        (
            "cut in the length",
            |path| std::fs::write(path, b"12345").unwrap(),
            "it has 5 bytes, too few",
        ),
        (
            "a header of a lie's length",
            |path| {
                let bytes = std::fs::read(path).unwrap();
                std::fs::write(path, [&(1u64 << 60).to_le_bytes()[..], &bytes[8..]].concat())
                    .unwrap();
            },
            "its header claims 1152921504606846976 bytes, ",
        ),
        (
            "a header that is none",
            |path| std::fs::write(path, [&8u64.to_le_bytes()[..], b"nonsense"].concat()).unwrap(),
            "its header is no list of tensors: ",
        ),
        (
            "offsets out of range",
            |path| lie(path, HEAD, "data_offsets", json!([0, 1u64 << 40])),
            "tensor `lm_head.weight` ends at byte 1099511627776 of ",
        ),
        (
            "overlapping tensors",
            |path| {
                let place = Weights::read(path).header[HEAD]["data_offsets"].clone();
                lie(path, "model.embed_tokens.weight", "data_offsets", place);
            },
            "tensor `model.embed_tokens.weight` overlaps another one at byte ",
        ),
        (
            "a type that needs more bytes",
            |path| lie(path, HEAD, "dtype", "F32".into()),
            "tensor `lm_head.weight` (F32 [512, 64]) needs 131072 bytes and has 65536",
        ),
        (
            "an unknown type",
            |path| lie(path, HEAD, "dtype", "Q7".into()),
            "tensor `lm_head.weight` has the unknown type `Q7`",
        ),
        (
            "a shape that needs less",
            |path| lie(path, HEAD, "shape", json!([1, 1])),
            "tensor `lm_head.weight` (BF16 [1, 1]) needs 2 bytes and has 65536",
        ),
    ];
    let mut home = Home::real();
    let _server = Server::start(&mut home);
    let folder = fixture(&home, "qwen3");
    let weights = folder.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    for (case, spoil, words) in cases {
        std::fs::write(&weights, &whole).unwrap();
        spoil(&weights);
        let done = create_in(&home, &folder, "bad");
        assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{case}: {done}");
        let stderr = done.plain_stderr();
        let error = format!("\nError: `model.safetensors` is damaged: {words}");
        assert!(stderr.contains(&error) && stderr.contains(AGAIN), "{case}: {done}");
        assert_eq!(home.stored_files(), 0, "{case}: something stays");
    }
    std::fs::write(&weights, &whole).unwrap();
    assert_eq!(create_in(&home, &folder, "good").code, Some(0));
}

/// `null` takes the field away.
fn configure(folder: &Path, original: &Value, key: &str, value: &Value) {
    let mut config = original.clone();
    match value {
        Value::Null => drop(config.as_object_mut().unwrap().remove(key)),
        other => config[key] = other.clone(),
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Refused by `create` where it is no model's at all, else when the model is to be loaded.
#[test]
fn configurations_that_cannot_be() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let folder = fixture(&home, "qwen3");
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let original: Value = serde_json::from_str(&text).unwrap();
    let published = "compare config.json with the one that was published";
    for (key, value, words) in [
        ("hidden_size", json!(0), "`hidden_size` is 0, not a number from 1 to 1048576"),
        ("num_hidden_layers", json!(-3), "`num_hidden_layers` is -3, not a number from 1 to 10000"),
        ("vocab_size", json!("many"), "`vocab_size` is \"many\", not a number from 1 to 16777216"),
    ] {
        configure(&folder, &original, key, &value);
        let done = create_in(&home, &folder, "bad");
        let told = format!("\nError: config.json: {words}\nhint: {published}\n");
        assert_eq!(done.code, Some(1), "{done}");
        assert!(done.plain_stderr().contains(&told), "{told}{done}");
        assert_eq!(home.stored_files(), 0, "{key}: something stays");
    }
    for (key, value, words, hint) in [
        ("hidden_size", Value::Null, "config.json: `hidden_size` is missing", published),
        (
            "num_attention_heads",
            json!(0),
            "config.json: `num_attention_heads` is 0, not a whole number from 1 to 16777216",
            published,
        ),
        (
            "num_key_value_heads",
            json!(3),
            "config.json: `num_key_value_heads` is 3, which does not divide the 4 of `num_attention_heads`",
            published,
        ),
        (
            "head_dim",
            json!(1u64 << 40),
            "config.json: `head_dim` is 1099511627776, not a whole number from 1 to 16777216",
            published,
        ),
        (
            "rms_norm_eps",
            json!("x"),
            "config.json: `rms_norm_eps` is \"x\", not a finite number above 0",
            published,
        ),
        (
            "vocab_size",
            json!(100),
            "tensor `model.embed_tokens.weight` has shape [512, 64], the configuration asks for [100, 64]",
            "config.json and the weights are not of one model: fetch both again",
        ),
        (
            "num_hidden_layers",
            json!(9),
            "tensor `model.layers.3.input_layernorm.weight` is missing",
            "a file may be missing or unfinished: fetch the model again",
        ),
        (
            "architectures",
            json!(["FooForCausalLM"]),
            "architecture `FooForCausalLM` is not supported",
            "the known architectures are: Gemma3ForCausalLM, Gemma3ForConditionalGeneration, LlamaForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, Qwen3NextForCausalLM",
        ),
    ] {
        configure(&folder, &original, key, &value);
        assert_eq!(create_in(&home, &folder, "bad").code, Some(0), "{key}");
        let message = format!("cannot load `bad:latest`: {words}");
        let done = home.run(&["run", "bad", "hi"]);
        let told = format!("Error: 500 Internal Server Error: {message}\nhint: {hint}\n");
        assert_eq!((done.code, done.plain_stderr()), (Some(1), told), "{key}");
        let answer = post(&server, "/api/generate", &json!({"model": "bad", "prompt": "hi"}));
        let body = json!({"error": message, "hint": hint});
        assert_eq!((answer.status, answer.json()), (500, body), "{key}");
        assert_eq!(home.run(&["rm", "bad"]).code, Some(0));
    }
    assert_eq!(home.stored_files(), 0);
    assert!(server.runners().is_empty(), "a runner stays");
}

#[test]
fn a_stored_file_that_was_cut_off_later() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let folder = fixture(&home, "qwen3");
    assert_eq!(create_in(&home, &folder, "cut").code, Some(0));
    let blobs = std::fs::read_dir(home.path(".ollama/models/blobs")).unwrap();
    let sizes = blobs
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.metadata().unwrap().len(), entry.path()));
    let (size, largest) = sizes.max().unwrap();
    std::fs::File::options().write(true).open(&largest).unwrap().set_len(size - 1).unwrap();
    let done = home.run(&["run", "cut", "hi"]);
    let told = format!(
        "Error: 500 Internal Server Error: `{}` is damaged: it has {} bytes, the manifest says {size}\n\
         hint: create or pull the model again\n",
        largest.display(),
        size - 1
    );
    assert_eq!((done.code, done.plain_stderr()), (Some(1), told));
    assert!(server.runners().is_empty(), "no runner is started for it");
    assert_eq!(create_in(&home, &folder, "cut").code, Some(0), "the hint helps");
    assert_eq!(home.run(&["run", "cut", "hi"]).code, Some(0));
}

#[test]
fn templates_are_followed_or_refused() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let folder = fixture(&home, "qwen3");
    let create = |from: &str, template: &str| {
        // Nonsense in, nonsense out: a reply that lost its thread is given up.
        let rest = "PARAMETER num_predict 8";
        let file = home.write("Modelfile", &format!("FROM {from}\nTEMPLATE {template}\n{rest}\n"));
        home.run(&["create", "m", "-f", file.to_str().unwrap()])
    };
    let error = "template error: template: :1: unclosed action\n";
    let done = create(folder.to_str().unwrap(), "{{ .Nope");
    assert_eq!(done.code, Some(1), "{done}");
    assert!(done.plain_stderr().ends_with(&format!("Error: {error}")), "{done}");
    assert_eq!(home.stored_files(), 0, "refused before anything is copied");
    let done = create("pocket", "{{ .Nope");
    assert_eq!(done.code, Some(1), "{done}");
    assert!(done.plain_stderr().ends_with(&format!("400 Bad Request: {error}")), "{done}");

    let prompt = |mut body: Value| {
        body["model"] = "m".into();
        body["stream"] = false.into();
        body["_debug_render_only"] = true.into();
        let answer = post(&server, "/api/generate", &body).json();
        answer["_debug_info"]["rendered_template"].as_str().map(str::to_owned)
    };
    let own = "{{ .System }}-{{ .Prompt }}{{ if .Suffix }}<{{ .Suffix }}>{{ end }}";
    assert_eq!(create("pocket", own).code, Some(0));
    let body = json!({"prompt": "hi", "system": "S"});
    assert_eq!(prompt(body).as_deref(), Some("S-hi"));
    // Between prompt and suffix nothing else is told, and Go writes so what it was not told.
    let gap = prompt(json!({"prompt": "hi", "suffix": "x"}));
    assert_eq!(gap.as_deref(), Some("<no value>-hi<x>"));
    let body = json!({"prompt": "hi", "template": "Q: {{ .Prompt }} A:"});
    assert_eq!(prompt(body).as_deref(), Some("Q: hi A:"));
    let done = home.run(&["run", "m", "hi"]);
    assert_eq!(done.code, Some(0), "{done}");
    // The plain one says nothing that the repository's own does not say better.
    assert_eq!(create("pocket", "{{ .Prompt }}").code, Some(0));
    let prompt = prompt(json!({"prompt": "hi"})).unwrap();
    assert!(prompt.contains("<|im_start|>user\nhi"), "{prompt}");
}

fn run_pocket(home: &Home) -> String {
    let done = home.run(&["run", "pocket", "hi"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{done}");
    done.plain_stderr()
}

#[test]
fn a_machine_without_mlx() {
    let mut home = Home::real();
    home.move_program();
    let server = Server::start(&mut home);
    let stderr = run_pocket(&home);
    assert!(
        stderr.starts_with("Error: 500 Internal Server Error: no MLX library was found"),
        "{stderr}"
    );
    assert!(stderr.contains("\nhint: ") && stderr.contains("OLLMLX_MLX_PATH"), "{stderr}");
    assert_eq!(home.run(&["list"]).code, Some(0), "the server goes on");
    assert!(server.runners().is_empty());
}

#[test]
fn an_mlx_of_another_version() {
    let mut home = Home::real();
    let tree = home.move_program().join("lib/ollmlx/cpu");
    let built = Path::new(env!("CARGO_BIN_EXE_ollmlx")).ancestors();
    let built =
        built.map(|folder| folder.join("lib/ollmlx/cpu")).find(|tree| tree.is_dir()).unwrap();
    std::fs::create_dir_all(&tree).unwrap();
    std::os::unix::fs::symlink(built.join("lib"), tree.join("lib")).unwrap();
    let manifest = std::fs::read_to_string(built.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let mut other = manifest.clone();
    other["mlx"] = "0.1.2".into();
    assert_ne!(manifest["mlx"], other["mlx"]);
    assert!(manifest["mlx"].is_string(), "{manifest}");
    std::fs::write(tree.join("manifest.json"), other.to_string()).unwrap();
    let _server = Server::start(&mut home);
    let stderr = run_pocket(&home);
    let words =
        format!("is MLX 0.1.2, and this program is made for {}", manifest["mlx"].as_str().unwrap());
    assert!(stderr.contains(&words) && stderr.contains("\nhint: "), "{stderr}");
    std::fs::write(tree.join("manifest.json"), manifest.to_string()).unwrap();
    assert_eq!(home.run(&["run", "pocket", "hi"]).code, Some(0), "the right one is found there");
}

/// The announced size is enough: nothing of it is written.
#[test]
fn an_upload_larger_than_the_disk() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let digest = store::Digest::of(b"x");
    let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /api/blobs/{digest} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        server.address,
        u64::MAX / 2
    );
    stream.write_all(head.as_bytes()).unwrap();
    let _ = stream.write_all(&[0; 1000]);
    let answer = receive(stream);
    assert_eq!(answer.status, 500, "{answer:?}");
    let told = answer.json();
    let error = told["error"].as_str().unwrap();
    assert!(
        error.starts_with("the disk is full: 9223372036854775807 bytes are needed and "),
        "{told}"
    );
    assert_eq!(
        told["hint"],
        "free some space, or set OLLAMA_MODELS to a directory on a larger disk"
    );
    assert_eq!(home.stored_files(), 0);
    let again = ask(&server, "POST", &format!("/api/blobs/{digest}"), b"x");
    assert_eq!(again.status, 201, "{again:?}");
}
