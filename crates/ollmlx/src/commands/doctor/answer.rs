//! The whole way from a question to its answer: `pocket`, which comes with the program, is asked for a sum in a child
//! process. Greedy, so the answer is known.

use std::path::Path;
use std::time::Instant;

use protocol::{
    Event, Input, LoadModel, Message, ModelFiles, Options, Outbox, Request, RequestId, Role, Think,
    Work,
};
use serde::{Deserialize, Serialize};
use store::{Name, Store};

use super::Finding;
use super::child::{self, ANOTHER_VARIANT};
use crate::fault::{Told, told};
use crate::paths;
use crate::terminal::out_line;

const MODEL: &str = "pocket";
const QUESTION: &str = "What is 12 + 30?";
const ANSWER: &str = "12 + 30 = 42.";
/// More than the answer has.
const ANSWER_TOKENS_MAX: i64 = 40;

/// The child's answer.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Said {
    text: String,
    failure: Option<String>,
    took_micros: u64,
}

impl Outbox for Said {
    fn send(&mut self, _: RequestId, event: Event) {
        match event {
            Event::Delta(delta) => self.text += &delta.content,
            Event::Failed(failure) => self.failure = Some(failure.message),
            _ => {}
        }
    }

    fn ready(&self, _: RequestId) -> bool {
        true
    }
}

/// Nothing where the model is not installed: that has a line of its own.
pub fn finding(builtin: Option<&Path>) -> Option<Finding> {
    files(builtin?)?;
    Some(read(child::ask("--answer")))
}

fn read(said: Result<Said, Told>) -> Finding {
    let wrong = |message: String| {
        Finding::problem(MODEL, told(message).hint(format!("a fault here; {ANOTHER_VARIANT}")))
    };
    match said {
        Err(told) => Finding::problem(MODEL, told),
        Ok(Said { failure: Some(message), .. }) => wrong(message),
        Ok(said) if said.text != ANSWER => {
            wrong(format!("asked \"{QUESTION}\" it says {:?} instead of \"{ANSWER}\"", said.text))
        }
        Ok(said) => Finding::ok(
            MODEL,
            format!("a known answer is right: {ANSWER} ({} ms)", said.took_micros / 1000),
        ),
    }
}

/// The child's part.
pub fn tell() -> anyhow::Result<()> {
    let files = paths::builtin_models().and_then(|root| files(&root));
    let Some(model) = files else { return Err(told(format!("`{MODEL}` is not installed")).into()) };
    let began = Instant::now();
    let mut said = ask(model);
    said.took_micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(out_line(&serde_json::to_string(&said)?)?)
}

fn ask(model: ModelFiles) -> Said {
    let mut said = Said::default();
    let job = LoadModel { model, ..LoadModel::default() };
    match engine::load(&job, &engine::Surroundings::default(), &mut |_, _| {}) {
        Err(failure) => said.failure = Some(failure.message),
        Ok((_, mut engine)) => {
            engine.submit(request(), &mut said);
            while engine.step(&mut said) == Work::More {}
        }
    }
    said
}

fn request() -> Request {
    let message = Message { role: Role::User, content: QUESTION.to_owned(), ..Message::default() };
    Request {
        options: Options {
            temperature: Some(0.0),
            num_predict: Some(ANSWER_TOKENS_MAX),
            ..Options::default()
        },
        think: Think::Off,
        ..Request::new(RequestId(1), Input::chat(vec![message]))
    }
}

fn files(root: &Path) -> Option<ModelFiles> {
    let store = Store::open(root, None).ok()?;
    let model = store.model(&Name::parse(MODEL).ok()?).ok()?;
    Some(ModelFiles {
        name: model.name.to_string(),
        files: model.files.clone(),
        tensors: model.tensors.iter().map(|(_, path)| path.clone()).collect(),
        ..ModelFiles::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn check(said: Result<Said, Told>, state: State, text: &str) {
        let finding = read(said);
        assert_eq!((finding.state, finding.text.as_str()), (state, text));
        assert_eq!(finding.hint.is_some(), state != State::Ok);
    }

    #[test]
    fn answers() {
        let said = |text: &str| Said { text: text.to_owned(), took_micros: 4200, failure: None };
        check(Ok(said(ANSWER)), State::Ok, "a known answer is right: 12 + 30 = 42. (4 ms)");
        check(
            Ok(said("12 + 30 = 41.")),
            State::Problem,
            "asked \"What is 12 + 30?\" it says \"12 + 30 = 41.\" instead of \"12 + 30 = 42.\"",
        );
        let failed = Said { failure: Some("no MLX".to_owned()), ..said("") };
        check(Ok(failed), State::Problem, "no MLX");
        check(Err(told("it died").hint("so")), State::Problem, "it died");
    }
}
