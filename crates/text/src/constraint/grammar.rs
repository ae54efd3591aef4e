//! From what a request asks for to a grammar, or to the reason why there is none.

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use protocol::{Format, Tool, ToolChoice};
use serde_json::json;

use super::free::Free;
use super::numbers::Numbers;
use super::{CallSyntax, Constraint, Thinking, Vocabulary, gbnf, schema};
use crate::{Error, Result};

/// A regular expression or a grammar in bytes. Its work is bounded by fuel all the same.
const SOURCE_BYTES_MAX: usize = 128 << 10;

/// White space between thinking and JSON.
const GAP: &str = "gap: /[ \\t\\r\\n]{1,4}/\n";

/// What a request asks of the form of its answer, and how its model writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish<'a> {
    pub format: &'a Format,
    pub tools: &'a [Tool],
    pub tool_choice: &'a ToolChoice,
    /// None where the model does not think in this request.
    pub thinking: Option<Thinking>,
    /// None where nobody knows how the model writes calls.
    pub calls: Option<CallSyntax>,
}

/// What an answer must look like. Replies of one grammar share what they find out about it.
#[derive(Clone)]
pub struct Grammar {
    vocabulary: Vocabulary,
    matcher: Matcher,
    free: Option<Free>,
    /// Whether the answer is JSON.
    numbers: Option<Numbers>,
}

impl Grammar {
    /// None when any answer will do.
    pub fn compile(wish: &Wish<'_>, vocabulary: &Vocabulary) -> Result<Option<Grammar>> {
        let Some(source) = source(wish)? else { return Ok(None) };
        let top = match source {
            Source::Lark(text) => TopLevelGrammar::from_lark(text),
            Source::Regex(text) => TopLevelGrammar::from_regex(&text),
        };
        let parser = vocabulary.inner.factory.create_parser(top);
        let mut matcher = Matcher::new(parser);
        check_first(&mut matcher)?;
        Ok(Some(Grammar {
            matcher,
            free: wish.thinking.as_ref().map(|thinking| Free::new(thinking, vocabulary)),
            numbers: is_json(wish).then(Numbers::default),
            vocabulary: vocabulary.clone(),
        }))
    }

    /// The beginning of a reply.
    pub fn start(&self) -> Constraint {
        Constraint::new(
            self.vocabulary.clone(),
            self.matcher.clone(),
            self.free.clone(),
            self.numbers.clone(),
        )
    }
}

/// Refuses a form that no model can give its replies, for whoever has not loaded one. How calls are written is the
/// model's; that those which have to be made can be is not.
pub fn check(format: &Format, tools: &[Tool], tool_choice: &ToolChoice) -> Result<()> {
    let calls = must_call(tool_choice).then(CallSyntax::hermes);
    let wish = Wish { format, tools, tool_choice, thinking: None, calls };
    Grammar::compile(&wish, &Vocabulary::of_bytes()?).map(|_| ())
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grammar over {:?}", self.vocabulary)
    }
}

enum Source {
    Lark(String),
    Regex(String),
}

fn source(wish: &Wish<'_>) -> Result<Option<Source>> {
    let must_call = must_call(wish.tool_choice);
    let calls = if wants_calls(wish) { calls(wish)? } else { None };
    if must_call {
        let lark = |calls| format!("start: {}calls\n{calls}{}", gap(wish), gap_rule(wish));
        return Ok(calls.map(|calls| Source::Lark(lark(calls))));
    }
    let answer = match wish.format {
        Format::Free => return Ok(None),
        Format::Json => schema::lark(&json!({"type": "object"})),
        Format::Schema(given) => schema::lark(&schema::read(given)?),
        Format::Regex(text) => return own(text).map(|text| Some(Source::Regex(text))),
        Format::Lark(text) => return own(text).map(|text| Some(Source::Lark(text))),
        Format::Gbnf(text) => return Ok(Some(Source::Lark(gbnf::to_lark(&own(text)?)?))),
    };
    let calls = match calls {
        Some(calls) => format!(" | {}calls\n{calls}", gap(wish)),
        None => "\n".to_owned(),
    };
    let (gap, rule) = (gap(wish), gap_rule(wish));
    Ok(Some(Source::Lark(format!("start: {gap}answer{calls}answer: {answer}\n{rule}"))))
}

fn own(text: &str) -> Result<String> {
    match text.len() {
        size @ SOURCE_BYTES_MAX.. => {
            Err(Error::TooLarge { what: "a grammar in bytes", size, limit: SOURCE_BYTES_MAX })
        }
        _ => Ok(text.to_owned()),
    }
}

/// Thinking is followed by blank lines in most models.
fn gap(wish: &Wish<'_>) -> &'static str {
    if wish.thinking.is_some() { "gap? " } else { "" }
}

fn gap_rule(wish: &Wish<'_>) -> &'static str {
    if wish.thinking.is_some() { GAP } else { "" }
}

fn must_call(choice: &ToolChoice) -> bool {
    matches!(choice, ToolChoice::Required | ToolChoice::Named(_))
}

fn wants_calls(wish: &Wish<'_>) -> bool {
    let may_call = *wish.tool_choice == ToolChoice::Auto && !wish.tools.is_empty();
    must_call(wish.tool_choice) || (may_call && wish.calls.is_some() && is_json_format(wish.format))
}

fn is_json_format(format: &Format) -> bool {
    matches!(format, Format::Json | Format::Schema(_))
}

fn is_json(wish: &Wish<'_>) -> bool {
    must_call(wish.tool_choice) || is_json_format(wish.format)
}

fn calls(wish: &Wish<'_>) -> Result<Option<String>> {
    let Some(syntax) = &wish.calls else {
        let why = "it is not known how this model writes tool calls, so none can be required";
        return Err(Error::format(why));
    };
    let tools: Vec<&Tool> = match wish.tool_choice {
        ToolChoice::Named(name) => {
            wish.tools.iter().filter(|tool| tool.function.name == *name).take(1).collect()
        }
        _ => wish.tools.iter().collect(),
    };
    if tools.is_empty() {
        return Err(match wish.tool_choice {
            ToolChoice::Named(name) => {
                Error::format(format!("tool `{name}` is required and not among the tools"))
            }
            _ => Error::format("a tool call is required and there are no tools"),
        });
    }
    let many = !matches!(wish.tool_choice, ToolChoice::Named(_));
    syntax.lark(&tools, many).map(Some)
}

/// A grammar that nothing fits is refused before anything is generated.
fn check_first(matcher: &mut Matcher) -> Result<()> {
    let mask = matcher.compute_mask_or_eos();
    match mask {
        Ok(mask) if mask.num_set() > 0 => Ok(()),
        Ok(_) => Err(Error::format("nothing that this model can write fits")),
        Err(error) => Err(Error::format(reason(&error.to_string()))),
    }
}

/// The library's words without its state.
pub(super) fn reason(error: &str) -> String {
    let words = error.split("<non-verbose/>").next().unwrap_or(error);
    let words = words.split("failed to compile JSON schema: ").last().unwrap_or(words);
    let first = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("it cannot be used");
    first.trim().chars().take(300).collect()
}
