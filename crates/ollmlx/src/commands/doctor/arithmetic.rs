//! MLX: where it was found, and whether it computes. Both are asked of a child process, which answers in JSON.

use serde::{Deserialize, Serialize};

use super::Finding;
use super::child::{self, ANOTHER_VARIANT};
use crate::client::host::variable;
use crate::fault::{Told, told};
use crate::terminal::out_line;

/// What came of the place that was taken.
const OPENED: &str = "opened";

/// The child's answer.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Answer {
    opened: Option<Opened>,
    /// Why it could not be opened: message and hint.
    refused: Option<(String, Option<String>)>,
    /// Each place looked at, with what came of it.
    attempts: Vec<(String, String)>,
    checks: Vec<Check>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Opened {
    variant: String,
    version: String,
    device: String,
    files: Vec<(String, String)>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Check {
    name: String,
    took_micros: u64,
    fault: Option<String>,
}

/// The child's part.
pub fn tell() -> anyhow::Result<()> {
    let report = mlx::report();
    let mut answer = Answer {
        attempts: report
            .attempts
            .iter()
            .map(|attempt| (attempt.place.display().to_string(), attempt.outcome.to_string()))
            .collect(),
        ..Answer::default()
    };
    match report.opened {
        Err(error) => answer.refused = Some(split_hint(&error.to_string())),
        Ok(opened) => {
            let device = mlx::device_info(opened.device);
            let name = device.into_iter().find(|(key, _)| *key == "device_name");
            answer.checks = mlx::selftest().into_iter().map(check).collect();
            answer.opened = Some(Opened {
                device: name.map_or_else(|| opened.device.to_string(), |(_, name)| name),
                variant: opened.variant,
                version: opened.version,
                files: opened
                    .files
                    .iter()
                    .map(|(name, file)| ((*name).to_owned(), file.display().to_string()))
                    .collect(),
            });
        }
    }
    Ok(out_line(&serde_json::to_string(&answer)?)?)
}

fn check(check: mlx::Check) -> Check {
    let took_micros = u64::try_from(check.took.as_micros()).unwrap_or(u64::MAX);
    Check { name: check.name.to_owned(), took_micros, fault: check.fault }
}

fn split_hint(text: &str) -> (String, Option<String>) {
    let (message, hint) = mlx::split_hint(text);
    (message.to_owned(), hint.map(str::to_owned))
}

pub fn findings() -> Vec<Finding> {
    match child::ask("--mlx") {
        Ok(answer) => read(&answer, variable("OLLMLX_MLX_PATH").is_some()),
        Err(told) => vec![Finding::problem("MLX", told)],
    }
}

/// `is_named`: the first place looked at is the user's own choice.
fn read(answer: &Answer, is_named: bool) -> Vec<Finding> {
    let Some(opened) = &answer.opened else {
        let (message, hint) = answer.refused.clone().unwrap_or_default();
        let mut text = message;
        for (place, outcome) in &answer.attempts {
            text += &format!("\n{place}: {outcome}");
        }
        return vec![Finding::problem("MLX", Told { message: text, hint })];
    };
    let first = answer.attempts.first();
    let passed_over = first.filter(|(_, outcome)| is_named && outcome != OPENED);
    let Opened { variant, version, device, files } = opened;
    let mut text = format!("{version}, variant {variant}, on {device}");
    for (name, file) in files {
        text += &format!("\n{name}: {file}");
    }
    let mlx = match passed_over {
        None => Finding::ok("MLX", text),
        Some((place, outcome)) => Finding::warning(
            "MLX",
            format!("{text}\n{place}: {outcome}"),
            "OLLMLX_MLX_PATH names a place that cannot be used; correct or unset it",
        ),
    };
    vec![mlx, arithmetic(&answer.checks)]
}

fn arithmetic(checks: &[Check]) -> Finding {
    let faults: Vec<String> = checks
        .iter()
        .filter_map(|check| Some(format!("{}: {}", check.name, check.fault.as_ref()?)))
        .collect();
    if !faults.is_empty() {
        let told = told(faults.join("\n"));
        return Finding::problem(
            "arithmetic",
            told.hint(format!("this device gives wrong answers; {ANOTHER_VARIANT}")),
        );
    }
    let millis = checks.iter().map(|check| check.took_micros).sum::<u64>() / 1000;
    Finding::ok(
        "arithmetic",
        format!("{} kinds of known answers are right ({millis} ms)", checks.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn check(answer: &Answer, expected: &[(State, &str)]) {
        let findings = read(answer, true);
        let got: Vec<_> = findings.iter().map(|f| (f.state, f.text.as_str())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn answers() {
        let refused = Answer {
            refused: Some(split_hint("no MLX\nhint: get it")),
            attempts: vec![("/a/lib".to_owned(), "not there".to_owned())],
            ..Answer::default()
        };
        check(&refused, &[(State::Problem, "no MLX\n/a/lib: not there")]);
        assert_eq!(read(&refused, true)[0].hint.as_deref(), Some("get it"));

        let opened = Opened {
            variant: "cpu".to_owned(),
            version: "1.2".to_owned(),
            device: "cpu".to_owned(),
            files: vec![("libmlx".to_owned(), "/lib/x".to_owned())],
        };
        let fine = |name: &str, fault: Option<&str>| Check {
            name: name.to_owned(),
            took_micros: 1500,
            fault: fault.map(str::to_owned),
        };
        let mut answer = Answer {
            opened: Some(opened),
            checks: vec![fine("sum", None), fine("product", None)],
            ..Answer::default()
        };
        let mlx = (State::Ok, "1.2, variant cpu, on cpu\nlibmlx: /lib/x");
        check(&answer, &[mlx, (State::Ok, "2 kinds of known answers are right (3 ms)")]);
        answer.checks.push(fine("norm", Some("value 3 is 2 instead of 1")));
        check(&answer, &[mlx, (State::Problem, "norm: value 3 is 2 instead of 1")]);
        answer.checks.clear();
        answer.attempts = vec![("/mine".to_owned(), "no".to_owned())];
        assert_eq!(read(&answer, false)[0].state, State::Ok);
        assert_eq!(read(&answer, true)[0].state, State::Warning);
        answer.attempts[0].1 = mlx::Outcome::Opened.to_string();
        assert_eq!(read(&answer, true)[0].state, State::Ok);
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&json).unwrap(), answer);
    }
}
