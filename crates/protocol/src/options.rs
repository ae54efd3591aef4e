//! Every option a user can set, once: name, kind, default. The API's `options`, a Modelfile's PARAMETER and the
//! prompt's `/set parameter` all go through [`Options::set`] / [`OptionKind`], so they cannot disagree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `None` everywhere means: not set, the next layer decides; [`Options::or`] merges layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    pub num_ctx: Option<i64>,
    pub num_batch: Option<i64>,
    pub num_gpu: Option<i64>,
    pub main_gpu: Option<i64>,
    pub use_mmap: Option<bool>,
    pub num_thread: Option<i64>,
    pub draft_num_predict: Option<i64>,
    pub num_keep: Option<i64>,
    /// Whether a full context gives up its oldest part; unset, the reply ends there.
    pub shift: Option<bool>,
    pub seed: Option<i64>,
    pub num_predict: Option<i64>,
    pub top_k: Option<i64>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub typical_p: Option<f32>,
    pub repeat_last_n: Option<i64>,
    pub temperature: Option<f32>,
    pub repeat_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub stop: Option<Vec<String>>,
    /// By token id: what is added to its logit.
    pub logit_bias: Option<BTreeMap<u32, f32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    Integer,
    Float,
    Boolean,
    Strings,
    /// Numbers by token id.
    Biases,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("unknown parameter '{0}'")]
    Unknown(String),
    /// Ollama's words, which clients show.
    #[error("option \"{name}\" must be of type {expected}")]
    WrongType { name: String, expected: &'static str },
    /// A textual value (Modelfile, prompt) that does not parse.
    #[error("invalid {kind} value [{value}]")]
    BadText { kind: &'static str, value: String },
}

/// How the randomness of a request is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    Random,
    Fixed(u64),
}

macro_rules! options {
    ($($field:ident: $kind:ident),* $(,)?) => {
        /// All names with their kinds, in the order of the documentation.
        pub const OPTIONS: &[(&str, OptionKind)] = &[$((stringify!($field), OptionKind::$kind)),*];

        impl Options {
            /// `self` where it says something, `fallback` elsewhere.
            #[must_use]
            pub fn or(self, fallback: Options) -> Options {
                Options { $($field: self.$field.or(fallback.$field)),* }
            }

            /// Sets one option from JSON. `null` leaves it alone.
            pub fn set(&mut self, name: &str, value: &Value) -> Result<(), OptionError> {
                if value.is_null() {
                    return Ok(());
                }
                match name {
                    $(stringify!($field) => self.$field = Some(FromJson::from_json(name, value)?),)*
                    _ => return Err(OptionError::Unknown(name.to_owned())),
                }
                Ok(())
            }
        }
    };
}

options! {
    num_ctx: Integer, num_batch: Integer, num_gpu: Integer, main_gpu: Integer, use_mmap: Boolean,
    num_thread: Integer, draft_num_predict: Integer, num_keep: Integer, shift: Boolean, seed: Integer, num_predict: Integer,
    top_k: Integer, top_p: Float, min_p: Float, typical_p: Float, repeat_last_n: Integer, temperature: Float,
    repeat_penalty: Float, presence_penalty: Float, frequency_penalty: Float, stop: Strings,
    logit_bias: Biases,
}

impl Options {
    pub fn kind(name: &str) -> Option<OptionKind> {
        OPTIONS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// The JSON value of a textual option (Modelfile, prompt); for `stop` a list with this one text.
    pub fn parse_text(name: &str, text: &str) -> Result<Value, OptionError> {
        let bad = |kind| OptionError::BadText { kind, value: text.to_owned() };
        match Options::kind(name).ok_or_else(|| OptionError::Unknown(name.to_owned()))? {
            OptionKind::Integer => text.parse::<i64>().map(Value::from).map_err(|_| bad("int")),
            OptionKind::Float => {
                let value = text.parse::<f32>().ok().filter(|value| value.is_finite());
                value.map(short_float).ok_or_else(|| bad("float"))
            }
            OptionKind::Boolean => match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
                _ => Err(bad("bool")),
            },
            OptionKind::Strings => Ok(Value::from(vec![text])),
            OptionKind::Biases => {
                let value = serde_json::from_str::<Value>(text).ok();
                value.filter(|v| biases(v).is_some()).ok_or_else(|| bad("object"))
            }
        }
    }

    pub fn seed(&self) -> Seed {
        match self.seed {
            Some(seed) if seed >= 0 => Seed::Fixed(seed as u64),
            _ => Seed::Random,
        }
    }
}

/// 0.7f32 as the JSON number 0.7, not 0.699999988079071.
fn short_float(value: f32) -> Value {
    value.to_string().parse::<f64>().map(Value::from).unwrap_or(Value::Null)
}

trait FromJson: Sized {
    fn from_json(name: &str, value: &Value) -> Result<Self, OptionError>;
}

fn wrong(name: &str, expected: &'static str) -> OptionError {
    OptionError::WrongType { name: name.to_owned(), expected }
}

impl FromJson for i64 {
    fn from_json(name: &str, value: &Value) -> Result<i64, OptionError> {
        // JSON floats are truncated, as clients rely on.
        value
            .as_i64()
            .or_else(|| value.as_f64().map(|v| v as i64))
            .ok_or_else(|| wrong(name, "integer"))
    }
}

impl FromJson for f32 {
    fn from_json(name: &str, value: &Value) -> Result<f32, OptionError> {
        value.as_f64().map(|v| v as f32).ok_or_else(|| wrong(name, "float32"))
    }
}

impl FromJson for bool {
    fn from_json(name: &str, value: &Value) -> Result<bool, OptionError> {
        value.as_bool().ok_or_else(|| wrong(name, "boolean"))
    }
}

impl FromJson for Vec<String> {
    fn from_json(name: &str, value: &Value) -> Result<Vec<String>, OptionError> {
        let list = value.as_array().ok_or_else(|| wrong(name, "array"))?;
        list.iter()
            .map(|item| {
                item.as_str().map(str::to_owned).ok_or_else(|| wrong(name, "an array of strings"))
            })
            .collect()
    }
}

impl FromJson for BTreeMap<u32, f32> {
    fn from_json(name: &str, value: &Value) -> Result<BTreeMap<u32, f32>, OptionError> {
        biases(value).ok_or_else(|| wrong(name, "an object of numbers by token id"))
    }
}

fn biases(value: &Value) -> Option<BTreeMap<u32, f32>> {
    let number = |value: &Value| value.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
    let entry = |(id, value): (&String, &Value)| Some((id.parse().ok()?, number(value)?));
    value.as_object()?.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(name: &str, value: Value, expected: Result<Value, &str>) {
        let mut options = Options::default();
        let got = options.set(name, &value);
        match expected {
            Ok(expected) => {
                got.unwrap();
                assert_eq!(serde_json::to_value(&options).unwrap()[name], expected);
            }
            Err(text) => assert_eq!(got.unwrap_err().to_string(), text),
        }
    }

    #[test]
    fn json_values() {
        check("top_k", json!(40.7), Ok(json!(40)));
        check("top_k", Value::Null, Ok(Value::Null));
        check("stop", json!(["a", "b"]), Ok(json!(["a", "b"])));
        check("top_k", json!("x"), Err("option \"top_k\" must be of type integer"));
        check("temperature", json!("x"), Err("option \"temperature\" must be of type float32"));
        check("stop", json!([1]), Err("option \"stop\" must be of type an array of strings"));
        check("nonsense", json!(1), Err("unknown parameter 'nonsense'"));
        check("logit_bias", json!({"7": -100, "15": 0.5}), Ok(json!({"7": -100.0, "15": 0.5})));
        let bad = "option \"logit_bias\" must be of type an object of numbers by token id";
        for value in
            [json!([1]), json!({"a": 1}), json!({"-1": 1}), json!({"1": "x"}), json!({"1": 1e99})]
        {
            check("logit_bias", value, Err(bad));
        }
    }

    #[test]
    fn text_values() {
        assert_eq!(Options::parse_text("temperature", "0.7").unwrap(), json!(0.7));
        assert_eq!(Options::parse_text("stop", "<|end|>").unwrap(), json!(["<|end|>"]));
        assert_eq!(Options::parse_text("use_mmap", "1").unwrap(), json!(true));
        assert_eq!(Options::parse_text("use_mmap", "F").unwrap(), json!(false));
        let bias = Options::parse_text("logit_bias", r#"{"7": -1.5}"#).unwrap();
        assert_eq!(bias, json!({"7": -1.5}));
        for (name, text, expected) in [
            ("num_ctx", "many", "invalid int value [many]"),
            ("use_mmap", "yes", "invalid bool value [yes]"),
            // JSON has no such numbers.
            ("logit_bias", "7", "invalid object value [7]"),
            ("temperature", "nan", "invalid float value [nan]"),
            ("temperature", "1e50", "invalid float value [1e50]"),
        ] {
            assert_eq!(Options::parse_text(name, text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_request_wins_over_its_model() {
        let request = Options { top_k: Some(1), ..Options::default() };
        let model = Options { top_k: Some(2), seed: Some(3), ..Options::default() };
        let merged = request.or(model);
        assert_eq!((merged.top_k, merged.seed), (Some(1), Some(3)));
    }
}
