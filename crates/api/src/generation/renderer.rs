//! Which renderer a model's prompts are written by. One name stands for two: large sizes of Gemma 4 want another end.

use store::{Config, Model};

const GEMMA4: &str = "gemma4";
const SMALL: &str = "gemma4-small";
const LARGE: &str = "gemma4-large";

/// Parameters from which on a model is large.
const LARGE_PARAMETERS_MIN: f64 = 12e9;

/// `None`: the model's template is used.
pub(super) fn of(model: &Model) -> Option<String> {
    resolve(&model.config, &model.name.to_string())
}

fn resolve(config: &Config, name: &str) -> Option<String> {
    match config.renderer.as_str() {
        "" => None,
        GEMMA4 => Some(gemma4(&config.model_type, name).to_owned()),
        other => Some(other.to_owned()),
    }
}

/// By the size in its name, else by the number of its parameters.
fn gemma4(parameters: &str, name: &str) -> &'static str {
    let name = name.to_lowercase();
    let has = |sizes: &[&str]| sizes.iter().any(|size| name.contains(size));
    match () {
        () if has(&["e2b", "e4b"]) => SMALL,
        () if has(&["12b", "26b", "31b"]) => LARGE,
        () if count(parameters).is_some_and(|count| count >= LARGE_PARAMETERS_MIN) => LARGE,
        () => SMALL,
    }
}

/// `25.8B` is 25.8 thousand million.
fn count(parameters: &str) -> Option<f64> {
    let unit = parameters.chars().next_back()?;
    let scale = match unit.to_ascii_uppercase() {
        'B' => 1e9,
        'M' => 1e6,
        'K' => 1e3,
        _ => return None,
    };
    let number: f64 = parameters[..parameters.len() - 1].parse().ok()?;
    Some(number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(renderer: &str, parameters: &str, name: &str, expected: Option<&str>) {
        let config = Config {
            renderer: renderer.to_owned(),
            model_type: parameters.to_owned(),
            ..Config::default()
        };
        assert_eq!(resolve(&config, name).as_deref(), expected);
    }

    #[test]
    fn gemma_4_is_small_or_large() {
        check("", "31B", "gemma4:31b", None);
        check("qwen3.5", "31B", "gemma4:31b", Some("qwen3.5"));
        check("gemma4", "", "gemma4:31B", Some(LARGE));
        check("gemma4", "31B", "gemma4:E4B-it", Some(SMALL));
        check("gemma4", "12.0b", "mine:latest", Some(LARGE));
        check("gemma4", "8000M", "mine:latest", Some(SMALL));
        check("gemma4", "manyé", "mine:latest", Some(SMALL));
        check("gemma4-large", "1B", "gemma4:e2b", Some(LARGE));
    }
}
