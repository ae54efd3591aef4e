//! `format` in JSON Schema, as patterns. Each matches a part of what its standard allows that every reader accepts, so
//! whatever is written is valid. Names that no draft knows (`int32`, `password`, `binary` …) are annotations.

use serde_json::{Value, json};

use crate::{Error, Result};

const LABEL: &str = "[A-Za-z0-9]{1,20}(-[A-Za-z0-9]{1,20}){0,2}";
const HEX: &str = "[0-9a-fA-F]{1,4}";
const BYTE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
const CLOCK: &str =
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
const PATH: &str = "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*";

/// What the format asks for; none for an annotation.
pub(super) fn schema(name: &str) -> Result<Option<Value>> {
    if name == "regex" {
        return Err(Error::format("`format` of `regex` is not supported"));
    }
    Ok(pattern(name).map(|pattern| json!({"pattern": format!("^({pattern})$")})))
}

fn pattern(name: &str) -> Option<String> {
    let hostname = || format!("{LABEL}(\\.{LABEL}){{0,3}}");
    Some(match name {
        "date" => date(),
        "time" => CLOCK.to_owned(),
        "date-time" => format!("({})T{CLOCK}", date()),
        "duration" => duration(),
        "email" | "idn-email" => {
            let atom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,30}";
            format!("{atom}(\\.{atom})?@{LABEL}(\\.{LABEL}){{1,3}}")
        }
        "hostname" | "idn-hostname" => hostname(),
        "ipv4" => format!("{BYTE}(\\.{BYTE}){{3}}"),
        "ipv6" => ipv6(),
        "uuid" => "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}".to_owned(),
        "uri" | "iri" => uri(&hostname()),
        "uri-reference" | "iri-reference" | "uri-template" => {
            format!("{}|(/{PATH}){{1,9}}", uri(&hostname()))
        }
        "json-pointer" => "(/([^/~]|~[01])*)*".to_owned(),
        "relative-json-pointer" => "(0|[1-9][0-9]{0,5})(#|(/([^/~]|~[01])*)*)".to_owned(),
        _ => return None,
    })
}

/// The 29th of February is there every four years, not every hundred, but every four hundred.
fn date() -> String {
    let days = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])";
    let leap = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29";
    format!("[0-9]{{4}}-({days})|{leap}")
}

fn duration() -> String {
    let number = "(0|[1-9][0-9]{0,5})";
    // A unit may be followed by the next smaller one only: 1Y2D is none.
    let months = format!("{number}M({number}D)?");
    let minutes = format!("{number}M({number}S)?");
    let time = format!("T({number}H({minutes})?|{minutes}|{number}S)");
    let date = format!("({number}Y({months})?|{months}|{number}D)");
    format!("P({date}({time})?|{time}|{number}W)")
}

fn ipv6() -> String {
    let groups = |most: usize| match most {
        0 => String::new(),
        _ => format!("({HEX}(:{HEX}){{0,{}}})?", most - 1),
    };
    let exactly = |count: usize| match count {
        0 => String::new(),
        _ => format!("{HEX}(:{HEX}){{{}}}", count - 1),
    };
    let short = (0..=7).map(|left| format!("{}::{}", exactly(left), groups(7 - left)));
    let whole = std::iter::once(exactly(8));
    whole.chain(short).collect::<Vec<_>>().join("|")
}

fn uri(hostname: &str) -> String {
    let scheme = "[a-z][a-z0-9+.-]{0,15}";
    let query = "([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*";
    format!(
        "{scheme}://{hostname}(:[0-9]{{1,4}})?(/{PATH}){{0,9}}(\\?{query})?(#{query})?|(urn|mailto|tel):[A-Za-z0-9+.@:-]{{1,60}}"
    )
}
