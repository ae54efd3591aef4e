//! A draft model and prompt lookup: replies stay what they are.

use std::path::Path;

use serde_json::{Value, json};

use crate::http::post;
use crate::support::{Home, Server, until};

fn generate(server: &Server, model: &str, body: &Value) -> Value {
    let mut body = body.clone();
    body["model"] = model.into();
    body["stream"] = false.into();
    let answer = post(server, "/api/generate", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    json!([answer["response"], answer["eval_count"], answer["done_reason"]])
}

/// What the model knows well: in bf16 a row's last bits may depend on the rows beside it, which must not matter here. That
/// texts are equal to the last token whatever is asked is tested in f32, beside the engine.
fn questions() -> Vec<Value> {
    let prompts = ["What can you do?", "What is 48 + 57?", "Who are you?"];
    let mut questions = Vec::new();
    for prompt in prompts {
        for options in
            [json!({"temperature": 0, "num_predict": 90}), json!({"seed": 3, "num_predict": 90})]
        {
            questions.push(json!({"prompt": prompt, "options": options}));
        }
    }
    questions
}

/// All replies, and how many tokens were drafted and accepted for them.
fn replies(home: &mut Home, model: &str) -> (Vec<Value>, u64, u64) {
    home.set("OLLAMA_DEBUG", "1");
    let server = Server::start(home);
    let all: Vec<Value> = questions().iter().map(|body| generate(&server, model, body)).collect();
    until("all are told", || server.log().matches("cached_tokens=").count() == all.len());
    let log = server.log();
    let sum = |word: &str| -> u64 {
        let numbers = log.split(word).skip(1).map(|rest| rest.split_whitespace().next());
        numbers.map(|number| number.unwrap().parse::<u64>().unwrap()).sum()
    };
    (all, sum("drafted="), sum("accepted="))
}

#[test]
fn a_draft_model_changes_no_reply() {
    let mut home = Home::real();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let [large, small] = ["pocket", "pocket-draft"].map(|name| models.join(name));
    let file = format!("FROM {}\nDRAFT {}\n", large.display(), small.display());
    let file = home.write("Modelfile", &file);
    let server = Server::start(&mut home);
    let done = home.run(&["create", "quick", "-f", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{done}");
    let parameters = |model: &str| {
        let show = home.run(&["show", model]).stdout;
        show.lines().find(|line| line.contains("parameters ")).map(str::to_owned)
    };
    assert_eq!(parameters("quick"), parameters("pocket"), "the draft model's are not its own");
    drop(server);
    let (plain, drafted, _) = replies(&mut home, "pocket");
    assert_eq!(drafted, 0);
    let (quick, drafted, accepted) = replies(&mut home, "quick");
    assert_eq!(quick, plain);
    assert!(drafted > 0 && accepted > 0, "{drafted} {accepted}");
    // One request goes without.
    let server = Server::start(&mut home);
    let options = json!({"draft_num_predict": 0, "num_predict": 30});
    generate(&server, "quick", &json!({"prompt": "What can you do?", "options": options}));
    until("it is told", || server.log().contains("cached_tokens="));
    assert!(!server.log().contains("drafted="), "{}", server.log());
}

#[test]
fn prompt_lookup_changes_no_reply() {
    let mut home = Home::real();
    let (plain, ..) = replies(&mut home, "pocket");
    home.set("OLLMLX_PROMPT_LOOKUP", "1");
    assert_eq!(replies(&mut home, "pocket").0, plain);
}
