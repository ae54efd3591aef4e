//! A model's RENDERER on its whole way: Modelfile, store, runner, prompt.

use serde_json::{Value, json};

use crate::http::{Answer, post};
use crate::support::{Home, Server};

fn debug_render(server: &Server, path: &str, mut body: Value) -> Answer {
    body["model"] = "m".into();
    body["_debug_render_only"] = true.into();
    // A model that can think is told to, if nobody says otherwise.
    body["think"] = false.into();
    post(server, path, &body)
}

#[track_caller]
fn check(answer: &Answer, prompt: &str) {
    assert_eq!(answer.json()["_debug_info"]["rendered_template"], prompt);
}

#[test]
fn prompts_of_a_renderer() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let create = |renderer: &str| {
        let text = format!("FROM pocket\nRENDERER {renderer}\nSYSTEM Be brief.\n");
        let file = home.write("Modelfile", &text);
        let done = home.run(&["create", "m", "-f", file.to_str().unwrap()]);
        assert_eq!(done.code, Some(0), "{done}");
    };
    create("qwen3-vl-instruct");
    let tool = json!({"type": "function", "function": {"name": "f", "parameters":
        {"properties": {"b": {"type": "string", "minLength": 1}, "a": {"type": ["integer"]}}, "type": "object"}}});
    let messages =
        json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well"}]);
    let chat = debug_render(&server, "/api/chat", json!({"messages": messages, "tools": [tool]}));
    let prompt = chat.json()["_debug_info"]["rendered_template"].as_str().unwrap().to_owned();
    assert!(prompt.starts_with("<|im_start|>system\nBe brief.\n\n# Tools\n"), "{prompt}");
    let declared = r#"{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}}}"#;
    assert!(prompt.contains(&format!("<tools>\n{declared}\n</tools>")), "{prompt}");
    assert!(prompt.ends_with("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWell"));
    let generate = json!({"prompt": "hi"});
    check(
        &debug_render(&server, "/api/generate", generate.clone()),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    );
    assert_eq!(home.run(&["run", "m", "hi"]).code, Some(0), "it answers, too");
    create("deepseek3");
    let answer = debug_render(&server, "/api/generate", generate);
    let error = "unknown renderer \"deepseek3\"";
    assert_eq!((answer.status, answer.json()["error"].as_str()), (500, Some(error)));
}
