//! How long a model stays loaded after its last request.

use std::time::Duration;

use serde_json::Value;

use crate::{DurationError, duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    Forever,
    For(Duration),
}

impl KeepAlive {
    pub const NONE: KeepAlive = KeepAlive::For(Duration::ZERO);
    pub const DEFAULT: KeepAlive = KeepAlive::For(Duration::from_secs(300));

    /// A request's `keep_alive`: a number is seconds, a text a Go duration, negative is forever, `null` says nothing.
    pub fn from_json(value: &Value) -> Result<Option<KeepAlive>, DurationError> {
        let unsupported = |kind| Err(DurationError::UnsupportedType(kind));
        match value {
            Value::Null => Ok(None),
            Value::Number(seconds) => Ok(Some(from_seconds(seconds.as_f64().unwrap_or(-1.0)))),
            Value::String(text) => duration::parse(text).map(|nanos| Some(from_nanos(nanos))),
            Value::Bool(_) => unsupported("bool"),
            Value::Array(_) => unsupported("[]interface {}"),
            Value::Object(_) => unsupported("map[string]interface {}"),
        }
    }

    /// The environment's way: a Go duration, or whole seconds.
    pub fn from_text(text: &str) -> Result<KeepAlive, DurationError> {
        match (duration::parse(text), text.parse::<i64>()) {
            (Ok(nanos), _) => Ok(from_nanos(nanos)),
            (Err(_), Ok(seconds)) => Ok(from_seconds(seconds as f64)),
            (Err(error), Err(_)) => Err(error),
        }
    }
}

/// Longer than anyone waits is for ever too, and keeps clear of the limits of clocks.
const FOREVER_SECS: f64 = 100.0 * 365.0 * 86_400.0;

fn from_seconds(seconds: f64) -> KeepAlive {
    match seconds {
        seconds if (0.0..FOREVER_SECS).contains(&seconds) => {
            KeepAlive::For(Duration::from_secs_f64(seconds))
        }
        _ => KeepAlive::Forever,
    }
}

fn from_nanos(nanos: i64) -> KeepAlive {
    match u64::try_from(nanos).map(Duration::from_nanos) {
        Ok(duration) if duration.as_secs_f64() < FOREVER_SECS => KeepAlive::For(duration),
        _ => KeepAlive::Forever,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: Value, expected: Result<Option<KeepAlive>, &str>) {
        let got = KeepAlive::from_json(&value).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{value}");
    }

    fn millis(millis: u64) -> Result<Option<KeepAlive>, &'static str> {
        Ok(Some(KeepAlive::For(Duration::from_millis(millis))))
    }

    #[test]
    fn of_requests() {
        check(json!(null), Ok(None));
        check(json!(0), Ok(Some(KeepAlive::NONE)));
        check(json!(10), millis(10_000));
        check(json!(1.5), millis(1_500));
        check(json!(-1), Ok(Some(KeepAlive::Forever)));
        check(json!(1e300), Ok(Some(KeepAlive::Forever)));
        check(json!("5m"), Ok(Some(KeepAlive::DEFAULT)));
        check(json!("0"), Ok(Some(KeepAlive::NONE)));
        check(json!("-1s"), Ok(Some(KeepAlive::Forever)));
        check(json!("2000000h"), Ok(Some(KeepAlive::Forever)));
        check(json!("soon"), Err("time: invalid duration \"soon\""));
        check(json!("10"), Err("time: missing unit in duration \"10\""));
        check(json!(true), Err("Unsupported type: 'bool'"));
        check(json!([1]), Err("Unsupported type: '[]interface {}'"));
        check(json!({}), Err("Unsupported type: 'map[string]interface {}'"));
    }

    #[test]
    fn of_the_environment() {
        assert_eq!(KeepAlive::from_text("300"), Ok(KeepAlive::DEFAULT));
        assert_eq!(KeepAlive::from_text("5m"), Ok(KeepAlive::DEFAULT));
        assert_eq!(KeepAlive::from_text("-1"), Ok(KeepAlive::Forever));
        assert!(KeepAlive::from_text("never").is_err());
    }
}
