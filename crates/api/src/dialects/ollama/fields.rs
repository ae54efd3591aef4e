//! Fields that several bodies have and that are more than a text or a number.

use protocol::Think;
use scheduler::KeepAlive;
use serde::de::{Deserialize, Deserializer, Error};
use serde_json::Value;

use crate::json::{Listed, quote};

/// `think`: a bool or a level.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ThinkField(pub Think);

impl<'de> Deserialize<'de> for ThinkField {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ThinkField, D::Error> {
        const LEVELS: &str = r#""high", "medium", "low", "max", true, or false"#;
        match Value::deserialize(from)? {
            Value::Null => Ok(ThinkField(Think::Unset)),
            Value::Bool(true) => Ok(ThinkField(Think::On)),
            Value::Bool(false) => Ok(ThinkField(Think::Off)),
            Value::String(level) => match level.as_str() {
                "high" | "medium" | "low" | "max" => Ok(ThinkField(Think::Level(level))),
                _ => Err(D::Error::custom(format!(
                    "invalid think value: {} (must be {LEVELS})",
                    quote(&level)
                ))),
            },
            _ => Err(D::Error::custom(format!("think must be a boolean or string ({LEVELS})"))),
        }
    }
}

/// `keep_alive`: seconds or a duration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct KeepAliveField(pub Option<KeepAlive>);

impl<'de> Deserialize<'de> for KeepAliveField {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<KeepAliveField, D::Error> {
        let value = Value::deserialize(from)?;
        KeepAlive::from_json(&value).map(KeepAliveField).map_err(D::Error::custom)
    }
}

/// A picture, still base64 but known to be that; without line breaks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ImageField(pub String);

impl Listed for ImageField {
    const LIST: &'static str = "[]api.ImageData";
}

impl<'de> Deserialize<'de> for ImageField {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ImageField, D::Error> {
        let named = Named::deserialize(from)?;
        match corrupt_at(named.0.as_bytes()) {
            None => Ok(ImageField(named.0.replace(['\r', '\n'], ""))),
            Some(at) => Err(D::Error::custom(format!("illegal base64 data at input byte {at}"))),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename = "api.ImageData")]
struct Named(String);

/// Where Go's decoder finds base64 corrupt, if it does.
pub(crate) fn corrupt_at(text: &[u8]) -> Option<usize> {
    let mut bytes = text.iter().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n'));
    loop {
        for place in 0..4 {
            match bytes.next() {
                None if place == 0 => return None,
                None => return Some(text.len() - place),
                Some((_, byte)) if is_digit(*byte) => {}
                Some((at, b'=')) if place >= 2 => {
                    return corrupt_padding(place, at, bytes, text.len());
                }
                Some((at, _)) => return Some(at),
            }
        }
    }
}

fn corrupt_padding<'a>(
    place: usize,
    first_at: usize,
    mut rest: impl Iterator<Item = (usize, &'a u8)>,
    length: usize,
) -> Option<usize> {
    if place == 2 {
        match rest.next() {
            None => return Some(length),
            Some((_, b'=')) => {}
            Some(_) => return Some(first_at),
        }
    }
    rest.next().map(|(at, _)| at)
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::decode;

    fn check(text: &str, expected: Option<usize>) {
        assert_eq!(corrupt_at(text.as_bytes()), expected, "{text}");
    }

    #[test]
    fn base64_is_corrupt_where_go_says() {
        check("", None);
        check("QUJD", None);
        check("QUI=", None);
        check("QQ==", None);
        check("QU\r\nJD", None);
        check("@@", Some(0));
        check("QU@D", Some(2));
        check("QQ=", Some(3));
        check("QQ=x", Some(2));
        check("QUI=x", Some(4));
        check("QUJDQ", Some(4));
        check("Q===", Some(1));
    }

    #[derive(serde::Deserialize)]
    #[serde(rename = "api.Body")]
    struct Body {
        think: Option<ThinkField>,
    }

    fn check_think(text: &str, expected: Result<Option<Think>, &str>) {
        let got = decode::<Body>(text.as_bytes()).map(|body| body.think.map(|field| field.0));
        assert_eq!(got.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn think_is_a_bool_or_a_level() {
        check_think("{}", Ok(None));
        check_think(r#"{"think":null}"#, Ok(None));
        check_think(r#"{"think":true}"#, Ok(Some(Think::On)));
        check_think(r#"{"think":"max"}"#, Ok(Some(Think::Level("max".into()))));
        check_think(
            r#"{"think":"lots"}"#,
            Err(
                r#"invalid think value: "lots" (must be "high", "medium", "low", "max", true, or false)"#,
            ),
        );
        check_think(
            r#"{"think":1}"#,
            Err(
                r#"think must be a boolean or string ("high", "medium", "low", "max", true, or false)"#,
            ),
        );
    }
}
