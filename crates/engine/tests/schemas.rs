//! Replies in the form of more than two hundred schemas, by a model without sense: whatever the weights are, a whole
//! reply fits its schema, and one that was cut off is the beginning of JSON. The judge knows nothing of how they came
//! about.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::{
    Engine, Event, FinishReason, Format, LoadModel, ModelFiles, Options, Outbox, Request,
    RequestId, Work,
};
use serde_json::Value;

#[path = "../../text/src/constraint/tests/made.rs"]
mod made;
#[path = "../../text/src/random.rs"]
mod random;

/// As many as one step takes.
const TOGETHER: usize = 8;

/// A string of a model without sense ends by chance: many replies are cut off by this.
const TOKENS_MAX: i64 = 250;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// The files of the smallest model that talks: random weights.
fn engine() -> Box<dyn Engine> {
    let model = ModelFiles::of_folder("babble", &data().join("babble")).unwrap();
    let job = LoadModel { model, ..LoadModel::default() };
    engine::load(&job, &engine::Surroundings { seed: 1, ..Default::default() }, &mut |_, _| {})
        .unwrap()
        .1
}

/// Those that are written down, and some made from a seed of every supported keyword.
fn schemas() -> Vec<(String, Value)> {
    let written = std::fs::read_to_string(data().join("text/schemas/accepted.json")).unwrap();
    let written: Vec<Value> = serde_json::from_str(&written).unwrap();
    let written =
        written.into_iter().map(|case| (case["name"].to_string(), case["schema"].clone()));
    let made = (0..130).map(|seed| (format!("made {seed}"), made::schema(seed)));
    written.chain(made).collect()
}

#[derive(Default)]
struct Reply {
    text: String,
    reason: Option<FinishReason>,
    failure: Option<String>,
}

#[derive(Default)]
struct Reader {
    replies: BTreeMap<RequestId, Reply>,
}

impl Outbox for Reader {
    fn send(&mut self, id: RequestId, event: Event) {
        let reply = self.replies.entry(id).or_default();
        match event {
            Event::Delta(delta) => reply.text += &delta.content,
            Event::Finished(usage) => reply.reason = Some(usage.reason),
            Event::Failed(failure) => reply.failure = Some(failure.message),
            Event::PromptRead { .. } | Event::Rendered { .. } => {}
        }
    }

    fn ready(&self, _: RequestId) -> bool {
        true
    }
}

fn request(id: usize, schema: &Value) -> Request {
    let options = Options {
        temperature: Some(1.5),
        seed: Some(id as i64),
        num_predict: Some(TOKENS_MAX),
        ..Options::default()
    };
    Request {
        options,
        format: Format::Schema(schema.clone()),
        ..Request::raw(RequestId(id as u64), "The cat says: ")
    }
}

#[track_caller]
fn check_whole(name: &str, schema: &Value, text: &str) {
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error} in {text}"));
    let options = jsonschema::options().should_validate_formats(true);
    let validator = options.build(&made::without_nullable(schema)).unwrap();
    if let Err(error) = validator.validate(&value) {
        panic!("{name}: {error} in {text}");
    }
}

/// More text could make it JSON, or it is JSON already.
#[track_caller]
fn check_beginning(name: &str, text: &str) {
    if let Err(error) = serde_json::from_str::<Value>(text) {
        assert!(error.is_eof(), "{name}: {error} in {text}");
    }
}

#[test]
fn every_whole_reply_fits_its_schema_whatever_the_weights() {
    let schemas = schemas();
    assert!(schemas.len() >= 200, "{}", schemas.len());
    let mut engine = engine();
    let (mut whole, mut cut) = (0, 0);
    for (start, together) in schemas.chunks(TOGETHER).enumerate() {
        let mut reader = Reader::default();
        for (index, (_, schema)) in together.iter().enumerate() {
            engine.submit(request(start * TOGETHER + index, schema), &mut reader);
        }
        while engine.step(&mut reader) == Work::More {}
        assert_eq!(reader.replies.len(), together.len());
        for ((name, schema), reply) in together.iter().zip(reader.replies.into_values()) {
            assert_eq!(reply.failure, None, "{name}: {schema}");
            match reply.reason.unwrap() {
                FinishReason::Stop => {
                    check_whole(name, schema, &reply.text);
                    whole += 1;
                }
                FinishReason::Length => {
                    check_beginning(name, &reply.text);
                    cut += 1;
                }
            }
        }
    }
    println!("{whole} whole replies, {cut} cut off");
    assert!(whole >= 100 && cut >= 10, "{whole} whole replies, {cut} cut off");
}
