//! Checkpoints become models and answer as their reference does. Needs MLX; `cargo xtask mlx` makes it.

use std::path::Path;

use fixtures::{Encoding, Reference};
use serde_json::json;

use crate::http::{ask, post};
use crate::support::{Home, Server, create_in, fixture};

fn tokenizer(folder: &Path) -> text::Text {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = files.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path));
    text::Text::load(&named.collect()).unwrap()
}

/// The reference computes in f32 and the model in bf16: they go the same way until a choice is closer than the
/// difference between the two. At least so many tokens of all prompts must come before such a choice.
fn check_reference(server: &Server, model: &str, folder: &Path, name: &str, tokens_min: usize) {
    let reference = Reference::read(&fixtures::arch(name)).unwrap();
    let tolerance = reference.tolerance.unwrap().bf16;
    let text = tokenizer(folder);
    let mut followed = 0;
    // Those with pictures are not for the text half.
    for prompt in reference.prompts.iter().filter(|prompt| !prompt.text.contains("[img-")) {
        let greedy = prompt.greedy.as_ref().unwrap();
        let body = json!({"model": model, "prompt": prompt.text, "raw": true, "stream": false,
            "logprobs": true, "options": {"temperature": 0, "num_predict": greedy.ids.len()}});
        let answer = post(server, "/api/generate", &body).json();
        let tokens = answer["logprobs"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(tokens.len(), greedy.ids.len(), "{answer}");
        for (at, token) in tokens.iter().enumerate() {
            let bytes: Vec<u8> = serde_json::from_value(token["bytes"].clone()).unwrap();
            if bytes != text.token_bytes(greedy.ids[at]) {
                let gap = greedy.gaps[at];
                assert!(gap <= 2.0 * tolerance, "{}: token {at} differs by {gap}", prompt.text);
                break;
            }
            let logprob = token["logprob"].as_f64().unwrap();
            let off = (logprob - f64::from(greedy.logprobs[at])).abs();
            assert!(off <= f64::from(tolerance), "{}: token {at} is off by {off}", prompt.text);
            followed += 1;
        }
    }
    assert!(followed >= tokens_min, "{name}: only {followed} tokens were compared");
}

#[test]
fn a_folder_on_the_command_line() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let folder = fixture(&home, "qwen3");
    let done = create_in(&home, &folder, "ref");
    assert_eq!(done.code, Some(0), "{done}");
    check_reference(&server, "ref", &folder, "qwen3", 24);
    let show = home.run(&["show", "ref"]).stdout;
    for words in
        ["architecture        qwen3", "quantization        BF16", "context length      2048"]
    {
        assert!(show.contains(words), "{words}: {show}");
    }
}

/// Layers of several kinds, and a configuration within a configuration.
#[test]
fn windows_recurrences_and_halves_that_see_pictures() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    // The one prompt without a picture comes to a close choice at once.
    for (name, tokens_min) in [("gemma3", 24), ("gemma3-vl", 1), ("qwen3-next", 24)] {
        let folder = fixture(&home, name);
        let done = create_in(&home, &folder, name);
        assert_eq!(done.code, Some(0), "{done}");
        check_reference(&server, name, &folder, name, tokens_min);
        let show = home.run(&["show", name]).stdout;
        assert!(show.contains("context length      2048"), "{name}: {show}");
    }
}

#[test]
fn files_over_http() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let folder = fixture(&home, "llama");
    let mut files = serde_json::Map::new();
    let mut weights = String::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let digest = store::Digest::of(&bytes).to_string();
        let upload = ask(&server, "POST", &format!("/api/blobs/{digest}"), &bytes);
        assert_eq!(upload.status, 201, "{name}: {upload:?}");
        if name == "model.safetensors" {
            weights.clone_from(&digest);
        }
        files.insert(name, digest.into());
    }
    let body = json!({"model": "ref", "files": files, "system": "Be kind."});
    let answer = post(&server, "/api/create", &body);
    assert_eq!(answer.lines().last(), Some(&json!({"status": "success"})), "{answer:?}");
    check_reference(&server, "ref", &folder, "llama", 24);
    // Its tensors are blobs of their own now; the file they came in is nobody's.
    let head = ask(&server, "HEAD", &format!("/api/blobs/{weights}"), b"");
    assert_eq!(head.status, 404, "the uploaded file stays");
    assert_eq!(home.run(&["rm", "ref"]).code, Some(0));
    let left = std::fs::read_dir(home.path(".ollama/models/blobs")).unwrap().count();
    assert_eq!(left, 0, "blobs stay behind");
}

#[test]
fn quantised_by_mlx() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let folder = home.path("quantised");
    let config = std::fs::read_to_string(fixtures::arch("qwen3").join("config.json")).unwrap();
    let encoding = Encoding::Affine { bits: 4, group_size: 32 };
    fixtures::random_checkpoint(&config, 1, &folder, encoding).unwrap();
    let source = fixture(&home, "qwen3");
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(source.join(file), folder.join(file)).unwrap();
    }
    let done = create_in(&home, &folder, "small");
    assert_eq!(done.code, Some(0), "{done}");
    let body = json!({"model": "small", "prompt": "x", "raw": true, "stream": false,
        "options": {"temperature": 0, "num_predict": 8}});
    let answers = [post(&server, "/api/generate", &body), post(&server, "/api/generate", &body)];
    assert_eq!(answers[0].status, 200, "{answers:?}");
    assert_eq!(answers[0].json()["response"], answers[1].json()["response"]);
    let show = home.run(&["show", "small"]).stdout;
    assert!(show.contains("quantization        int4"), "{show}");
}
