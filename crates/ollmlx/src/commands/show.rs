//! `show`: what a model is. One part of it as it stands, or tables about all.

use serde_json::{Map, Value, json};
use unicode_width::UnicodeWidthStr;

use crate::cli;
use crate::client::words::Shown;
use crate::fault::told;
use crate::terminal::table::{CELL_WIDTH, TEXT_WIDTH};
use crate::terminal::{humane, out, table};

/// Show information for a model
#[derive(clap::Args)]
#[command(after_help = cli::ENVIRONMENT)]
pub struct Args {
    /// The model's name
    #[arg(value_name = "MODEL")]
    pub model: Vec<String>,
    /// Show license of a model
    #[arg(long)]
    license: bool,
    /// Show Modelfile of a model
    #[arg(long)]
    modelfile: bool,
    /// Show parameters of a model
    #[arg(long)]
    parameters: bool,
    /// Show system message of a model
    #[arg(long)]
    system: bool,
    /// Show template of a model
    #[arg(long)]
    template: bool,
    /// Show detailed model information
    #[arg(short, long)]
    verbose: bool,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = super::server().await?;
    let parts = [args.license, args.modelfile, args.parameters, args.system, args.template];
    if parts.iter().filter(|wanted| **wanted).count() > 1 {
        let message = "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified";
        return Err(told(message).into());
    }
    let body = json!({"model": args.model[0], "verbose": args.verbose});
    let shown: Shown = client.post("/api/show", &body).await?;
    let text = match parts {
        [true, ..] => shown.license + "\n",
        [_, true, ..] => shown.modelfile + "\n",
        [_, _, true, ..] => shown.parameters + "\n",
        [_, _, _, true, _] => shown.system,
        [.., true] => shown.template,
        _ => tables(&shown, args.verbose),
    };
    Ok(out(&text)?)
}

/// Also the prompt's `/show info`.
pub fn tables(shown: &Shown, verbose: bool) -> String {
    let mut out = section("Model", &model_rows(shown), CELL_WIDTH);
    if !shown.capabilities.is_empty() {
        let rows: Vec<_> = shown.capabilities.iter().map(|name| row(&[name])).collect();
        out += &section("Capabilities", &rows, CELL_WIDTH);
    }
    if let Some(projector) = &shown.projector_info {
        out += &section("Projector", &projector_rows(projector), CELL_WIDTH);
    }
    if !shown.parameters.is_empty() {
        let fields = |line: &str| row(&line.split_whitespace().collect::<Vec<_>>());
        let lines = shown.parameters.lines().filter(|line| !line.is_empty());
        out += &section("Parameters", &lines.map(fields).collect::<Vec<_>>(), CELL_WIDTH);
    }
    if verbose {
        out += &details(shown);
    }
    for (title, text) in [("System", &shown.system), ("License", &shown.license)] {
        if !text.is_empty() {
            out += &section(title, &head(text), TEXT_WIDTH);
        }
    }
    out
}

fn details(shown: &Shown) -> String {
    let mut out = String::new();
    if let Some(info) = &shown.model_info {
        let mut entries: Vec<_> = info.iter().collect();
        entries.sort_by_key(|(key, _)| key.as_str());
        let rows: Vec<_> = entries.iter().map(|(key, value)| row(&[key, &fact(value)])).collect();
        out += &section("Metadata", &rows, CELL_WIDTH);
    }
    if !shown.tensors.is_empty() {
        let shape = |shape: &[u64]| {
            let sizes: Vec<_> = shape.iter().map(u64::to_string).collect();
            format!("[{}]", sizes.join(" "))
        };
        let rows: Vec<_> = shown
            .tensors
            .iter()
            .map(|tensor| row(&[&tensor.name, &tensor.kind, &shape(&tensor.shape)]))
            .collect();
        out += &section("Tensors", &rows, CELL_WIDTH);
    }
    out
}

fn section(title: &str, rows: &[Vec<String>], cell_width: usize) -> String {
    format!("  {title}\n{}\n", table::plain(rows, cell_width))
}

/// An empty first cell indents.
fn row(cells: &[&str]) -> Vec<String> {
    std::iter::once("").chain(cells.iter().copied()).map(str::to_owned).collect()
}

fn model_rows(shown: &Shown) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    if !shown.remote_host.is_empty() {
        rows.push(row(&["Remote model", &shown.remote_model]));
        rows.push(row(&["Remote URL", &shown.remote_host]));
    }
    match &shown.model_info {
        Some(info) => rows.extend(info_rows(info, &shown.details.parameter_size)),
        None => {
            rows.push(row(&["architecture", &shown.details.family]));
            rows.push(row(&["parameters", &shown.details.parameter_size]));
        }
    }
    rows.push(row(&["quantization", &shown.details.quantization_level]));
    if !shown.requires.is_empty() {
        rows.push(row(&["requires", &shown.requires]));
    }
    rows
}

fn info_rows(info: &Map<String, Value>, parameter_size: &str) -> Vec<Vec<String>> {
    let architecture = info.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let count = info.get("general.parameter_count").and_then(Value::as_f64);
    let parameters = match (parameter_size, count) {
        ("", Some(count)) => humane::number(count as u64),
        (size, _) => size.to_owned(),
    };
    let number = |name: &str| {
        info.get(&format!("{architecture}.{name}")).and_then(Value::as_f64).map(|n| n.to_string())
    };
    [
        ("architecture", Some(architecture.to_owned())),
        ("parameters", Some(parameters)),
        ("context length", number("context_length")),
        ("embedding length", number("embedding_length")),
    ]
    .into_iter()
    .filter_map(|(label, value)| Some(row(&[label, &value.filter(|text| !text.is_empty())?])))
    .collect()
}

fn projector_rows(info: &Map<String, Value>) -> Vec<Vec<String>> {
    let architecture = info.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| {
        ["vision", "audio"]
            .iter()
            .find_map(|kind| info.get(&format!("{architecture}.{kind}.{name}"))?.as_f64())
            .map(|number| number.to_string())
    };
    let count = info.get("general.parameter_count").and_then(Value::as_f64);
    [
        ("architecture", (!architecture.is_empty()).then(|| architecture.to_owned())),
        ("parameters", count.map(|count| humane::number(count as u64))),
        ("embedding length", number("embedding_length")),
        ("dimensions", number("projection_dim")),
    ]
    .into_iter()
    .filter_map(|(label, value)| Some(row(&[label, &value?])))
    .collect()
}

/// Lines shown of a text.
const HEAD_LINES: usize = 2;

fn head(text: &str) -> Vec<Vec<String>> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut rows: Vec<_> = lines.by_ref().take(HEAD_LINES).map(|line| row(&[line])).collect();
    if lines.next().is_some() {
        rows.push(row(&["..."]));
    }
    rows
}

/// A value of the metadata, in Go's notation.
fn fact(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(yes) => yes.to_string(),
        Value::Number(number) => go_float(number.as_f64().unwrap_or(f64::NAN), 6),
        Value::Array(items) => short_list(items),
        Value::Null => "<nil>".to_owned(),
        Value::Object(_) => "map[string]interface {}".to_owned(),
    }
}

/// Columns a list may take before the rest is only counted.
const LIST_WIDTH: usize = 10;

fn short_list(items: &[Value]) -> String {
    let mut width = 1;
    let fits = |(index, item): &(usize, &Value)| {
        let added = go_value(item).width() + if *index > 0 { 2 } else { 0 };
        width += added;
        *index == 0 || width <= LIST_WIDTH
    };
    let shown: Vec<_> =
        items.iter().enumerate().take_while(fits).map(|(_, item)| go_value(item)).collect();
    let rest = match items.len() - shown.len() {
        0 => String::new(),
        count => format!(" ...+{count} more"),
    };
    format!("[{}{rest}]", shown.join(" "))
}

/// As Go's `%v` prints a decoded JSON value.
fn go_value(value: &Value) -> String {
    match value {
        Value::Number(number) => go_float(number.as_f64().unwrap_or(f64::NAN), 21),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" "))
        }
        Value::Object(entries) => {
            let mut pairs: Vec<_> =
                entries.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        other => fact(other),
    }
}

/// The shortest digits that give the number back; with an exponent from `exponent_min` (or below -4) on.
fn go_float(number: f64, exponent_min: i32) -> String {
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number == 0.0 || (-4..exponent_min).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a real server answered, and what the real program printed of it.
    #[test]
    fn the_recorded_answer_makes_the_recorded_tables() {
        let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/goldens/cli/show.json");
        let golden: Value =
            serde_json::from_str(&std::fs::read_to_string(goldens).unwrap()).unwrap();
        let shown: Shown = serde_json::from_value(json!({
            "license": "MIT",
            "system": "You are terse.",
            "parameters": "seed                           1\nstop                           \"<|im_start|>\"\nstop                           \"<|im_end|>\"\ntemperature                    0\nnum_predict                    8",
            "details": {"family": "llama", "parameter_size": "140K", "quantization_level": "F16"},
            "model_info": {"general.architecture": "llama", "llama.context_length": 512, "llama.embedding_length": 64},
            "capabilities": ["completion"],
        }))
        .unwrap();
        assert_eq!(tables(&shown, false), golden["stdout"].as_str().unwrap());
    }

    #[test]
    fn the_recorded_metadata() {
        let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/goldens");
        let read = |path: &str| -> Value {
            serde_json::from_str(&std::fs::read_to_string(format!("{goldens}/{path}")).unwrap())
                .unwrap()
        };
        let body =
            read("ollama/show-verbose.json")["response"]["body"].as_str().unwrap().to_owned();
        let printed = read("cli/show-verbose.json")["stdout"].as_str().unwrap().to_owned();
        let shown: Shown = serde_json::from_str(&body).unwrap();
        let details = details(&shown);
        assert!(printed.contains(&details), "{details}\nis not in\n{printed}");
    }

    #[test]
    fn numbers_in_go_notation() {
        for (number, g, v) in [
            (0.0, "0", "0"),
            (1e-5, "1e-05", "1e-05"),
            (139_584.0, "139584", "139584"),
            (1_235_814_400.0, "1.2358144e+09", "1235814400"),
            (0.0001, "0.0001", "0.0001"),
            (500_000.0, "500000", "500000"),
            (1e21, "1e+21", "1e+21"),
        ] {
            assert_eq!((go_float(number, 6).as_str(), go_float(number, 21).as_str()), (g, v));
        }
    }

    #[test]
    fn lists_are_shortened() {
        for (list, expected) in [
            (json!([]), "[]"),
            (json!([1, 2]), "[1 2]"),
            (json!(["a long first entry", "b"]), "[a long first entry ...+1 more]"),
            (json!([1, 1, 1, 1]), "[1 1 1 ...+1 more]"),
            (json!([true, null, 2.5]), "[true ...+2 more]"),
        ] {
            assert_eq!(fact(&list), expected, "{list}");
        }
    }

    #[test]
    fn long_texts_show_their_head() {
        let shown = Shown { system: "one\n\n  two\nthree\n".to_owned(), ..Shown::default() };
        let text = tables(&shown, false);
        assert!(text.ends_with("  System\n    one    \n    two    \n    ...    \n\n"), "{text:?}");
    }
}
