//! What a checkpoint's own template (Jinja) tells of its model's replies. A template writes past thoughts and calls in
//! the model's own notation, so the tags in its source are the ones to look for.

use protocol::ToolCall;
use serde_json::Map;

use super::buffer::Blanks;
use super::calls::{self, arguments_of, objects};
use super::declared::Declared;
use super::glm::pairs;
use super::named::Family;
use super::python::python;
use super::qwen::{functions, one_line_less};
use super::shape::{Calls, Close, Noise, Shape, Start, Thoughts};
use super::{Asked, Parser, cohere, deepseek, function_gemma, gemma, lfm2, ministral, olmo};

/// Tags around thoughts; the first whose closing tag a template has.
const THOUGHTS: &[(&str, &str)] = &[
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>", "<channel|>"),
];

/// Tags inside of calls that may be special tokens.
const INNER: &[&str] = &[
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<｜tool▁sep｜>",
    "[ARGS]",
    "[CALL_ID]",
    "<|tool_call_argument_begin|>",
    "<|plugin|>",
    "<|\"|>",
    "<escape>",
];

/// How replies are written.
#[derive(Clone, Debug)]
pub(super) struct Notation {
    /// With a parser of its own.
    pub family: Option<&'static str>,
    thoughts: Option<(&'static str, &'static str)>,
    /// Marks of notations, of those in `CALLS`.
    calls: Vec<&'static str>,
    /// Whether it speaks of tools at all.
    has_tools: bool,
}

type Make = fn() -> Vec<Calls>;

/// A tag that gives a notation away, and the calls in it.
const CALLS: &[(&str, Make)] = &[
    ("<tool_call>", || vec![Calls::between("<tool_call>", "</tool_call>", any)]),
    ("<|tool_call_start|>", || vec![lfm2::tagged_calls()]),
    ("<function_calls>", || vec![olmo::calls()]),
    ("<start_function_call>", || vec![function_gemma::calls_in_tags()]),
    ("<|tool_call>", || vec![gemma::calls_in_tags()]),
    ("<｜tool▁call▁begin｜>", || vec![deepseek::one_calls()]),
    ("[TOOL_CALLS]", || vec![ministral::named_calls()]),
    ("<|START_ACTION|>", || vec![cohere::actions_calls()]),
    ("<TOOLCALL>", || vec![Calls::between("<TOOLCALL>", "</TOOLCALL>", objects)]),
    ("<|tool_call|>", || vec![json("<|tool_call|>").followed_by(["<|/tool_call|>"])]),
    ("functools[", || vec![json("functools").beginning(&["["])]),
    ("<|tool_call_begin|>", || {
        vec![Calls::between("<|tool_call_begin|>", "<|tool_call_end|>", kimi)]
    }),
    ("<seed:tool_call>", || {
        vec![Calls::between("<seed:tool_call>", "</seed:tool_call>", functions)]
    }),
    ("<minimax:tool_call>", || {
        vec![Calls::between("<minimax:tool_call>", "</minimax:tool_call>", invokes)]
    }),
    ("<|action_start|>", || vec![Calls::between("<|action_start|>", "<|action_end|>", plugin)]),
    ("<|python_tag|>", || vec![python_tag(), bare()]),
    ("<function=", || vec![Calls::between("<function=", "</function>", named_by_tag)]),
];

/// Tags around several calls.
const AROUND: &[&str] = &[
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<tool_calls>",
    "</tool_calls>",
];

impl Notation {
    pub fn of(source: &str) -> Notation {
        let has = |tag: &str| source.contains(tag);
        let harmony = has("<|start|>") && has("<|channel|>") && has("<|message|>");
        let family =
            [(harmony, "harmony"), (has("<atem:"), "glimmer"), (has("<|START_TEXT|>"), "cohere")];
        let found = CALLS.iter().map(|(tag, _)| *tag).filter(|tag| has(tag));
        let mut calls: Vec<&str> = found.collect();
        // The one has the other in it.
        if calls.len() > 1 {
            calls.retain(|tag| *tag != "<function=");
        }
        Notation {
            family: family.into_iter().find(|(is, _)| *is).map(|(_, name)| name),
            thoughts: THOUGHTS.iter().copied().find(|(_, close)| has(close)),
            calls,
            has_tools: has("tools") || has("tool_call"),
        }
    }

    pub fn parser(&self, asked: &Asked<'_>) -> Parser {
        if let Some(family) = self.family.and_then(Family::named) {
            return family.parser(asked);
        }
        let mut shape = Shape::of(if asked.tools.is_empty() { Vec::new() } else { self.calls() });
        if !asked.tools.is_empty() {
            let noise = |tag| Noise { tag, before: Blanks::Drop, after: Blanks::Drop };
            shape.noise = AROUND.iter().copied().map(noise).collect();
        }
        if let Some((open, close)) = self.thoughts {
            let opened = asked.prompt.trim_end().ends_with(open);
            let start = match opened {
                true => Start::Thoughts,
                false if asked.goes_on() => Start::Content,
                false => Start::Either,
            };
            let (label, anywhere) = match open {
                "<|channel>" => ("thought\n", true),
                "[THINK]" => ("", true),
                _ => ("", false),
            };
            shape = shape
                .thinking(Thoughts { label, anywhere, ..Thoughts::between(open, close) }, start);
            shape.trims = opened;
        }
        Parser::shaped(shape, asked.tools, INNER)
    }

    fn calls(&self) -> Vec<Calls> {
        let made = CALLS.iter().filter(|(tag, _)| self.calls.contains(tag));
        let calls: Vec<Calls> = made.flat_map(|(_, make)| make()).collect();
        match calls.is_empty() && self.has_tools {
            true => vec![bare()],
            false => calls,
        }
    }
}

/// An object or a list of them, which ends by itself.
fn json(open: &'static str) -> Calls {
    Calls { close: Close::Json, ..Calls::between(open, "", objects_behind) }
}

/// A reply that is nothing but calls of declared tools.
fn bare() -> Calls {
    let bare = Calls { close: Close::Json, open_is_read: true, first_only: true, ..json("{") };
    Calls { read: calls::declared, ..bare }.followed_by([",", ";"])
}

/// Llama's tag: an object, or a call as Python writes it, to the end of the reply.
fn python_tag() -> Calls {
    Calls { close: Close::End, ..Calls::between("<|python_tag|>", "", objects_or_python) }
}

fn objects_or_python(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    let parts = || inside.split(';').filter(|part| !part.trim().is_empty());
    let several = || parts().map(|part| objects(part, declared)).collect::<Option<Vec<_>>>();
    let json = objects(inside, declared).or_else(|| several().map(|calls| calls.concat()));
    json.filter(|calls| !calls.is_empty()).or_else(|| {
        let calls = python(inside, declared)?;
        let name = |name: &str| name.strip_suffix(".call").unwrap_or(name).to_owned();
        Some(calls.into_iter().map(|call| ToolCall { name: name(&call.name), ..call }).collect())
    })
}

fn objects_behind(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    objects(&inside[inside.find(['{', '['])?..], declared)
}

/// What stands in `<tool_call>`, whose insides differ.
fn any(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    let start = inside.trim_start();
    if start.starts_with(['{', '[']) {
        return objects(inside, declared);
    }
    if start.starts_with("<function=") {
        return functions(inside, declared);
    }
    fenced(inside).or_else(|| pairs(inside, declared))
}

/// A name, then its arguments in a code fence.
fn fenced(inside: &str) -> Option<Vec<ToolCall>> {
    let (name, behind) = inside.split_once("```json")?;
    let arguments = arguments_of(behind.trim_end().strip_suffix("```")?.trim())?;
    let name = Some(name.trim()).filter(|name| !name.is_empty())?;
    Some(vec![calls::call(name, arguments)])
}

/// `functions.name:0<|tool_call_argument_begin|>{…}`; what stands before the second tag is the call's id, too.
fn kimi(inside: &str, _: &Declared) -> Option<Vec<ToolCall>> {
    let (id, arguments) = inside.split_once("<|tool_call_argument_begin|>")?;
    let id = id.trim();
    let name = id.strip_prefix("functions.").unwrap_or(id);
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    let call = calls::call(name, arguments_of(arguments.trim())?);
    (!name.is_empty()).then(|| vec![ToolCall { id: Some(id.to_owned()), ..call }])
}

/// `<invoke name="f">` with `<parameter name="a">` inside.
fn invokes(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    for text in inside.split("<invoke name=\"").skip(1) {
        let (name, mut rest) = text.split_once("\">").filter(|(name, _)| !name.is_empty())?;
        let mut arguments = Map::new();
        while let Some(parameter) = rest.trim_start().strip_prefix("<parameter name=\"") {
            let (key, behind) = parameter.split_once("\">")?;
            let (value, behind) = behind.split_once("</parameter>")?;
            arguments.insert(key.to_owned(), declared.typed(name, key, one_line_less(value)));
            rest = behind;
        }
        rest.trim_start().strip_prefix("</invoke>")?;
        calls.push(calls::call(name, arguments));
    }
    (!calls.is_empty()).then_some(calls)
}

fn plugin(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    objects(inside.trim_start().strip_prefix("<|plugin|>").unwrap_or(inside), declared)
}

/// What stands between `<function=` and its closing tag: `name>{…}`.
fn named_by_tag(inside: &str, _: &Declared) -> Option<Vec<ToolCall>> {
    let (name, arguments) = inside.split_once('>').filter(|(name, _)| !name.is_empty())?;
    Some(vec![calls::call(name, arguments_of(arguments.trim())?)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{told, tools};
    use super::super::{Parsed, Parsers};
    use super::*;
    use protocol::Think;

    /// Thinking, content and calls of a reply, by a template that holds these tags.
    #[track_caller]
    fn check(template: &str, prompt: &str, reply: &str, expected: (&str, &str, &str)) {
        let template = format!("{{% if tools %}}{template}{{% endif %}}");
        let parsers = Parsers::of_templates([template.as_str()]);
        for pieces in [vec![reply], reply.split("").collect()] {
            let tools = tools();
            let mut parser = parsers.parser(&Asked {
                messages: &[],
                tools: &tools,
                think: &Think::Unset,
                prompt,
                template: None,
            });
            let mut whole = Parsed::default();
            pieces.iter().for_each(|piece| whole.append(parser.push(piece)));
            whole.append(parser.finish());
            let calls = told(&whole.calls);
            assert_eq!((whole.thinking.as_str(), whole.content.as_str(), calls.as_str()), expected);
        }
    }

    const OSLO: &str = r#"get_weather{"city":"Oslo"}"#;

    #[test]
    fn thoughts_are_told_by_their_tags() {
        let think = "<think> </think>";
        check(think, "", "<think>\na\n</think>\n\nb", ("a", "b", ""));
        check(think, "x<think>\n", "a\n</think>\nb", ("a", "b", ""));
        check(think, "x<think>\n\n</think>\n\n", "b", ("", "b", ""));
        check(think, "", "b <think>", ("", "b <think>", ""));
        check(think, "", "<think>a", ("a", "", ""));
        check("[THINK][/THINK]", "", "[THINK]a[/THINK]b", ("a", "b", ""));
        check("", "", "<think>a</think>b", ("", "<think>a</think>b", ""));
    }

    #[test]
    fn calls_are_told_by_their_tags() {
        let object = r#"{"name": "get_weather", "arguments": {"city": "Oslo"}}"#;
        let inside = [
            object,
            "<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>",
            "get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>",
            "get_weather\n```json\n{\"city\": \"Oslo\"}\n```",
        ];
        for inside in inside {
            let reply = format!("<think>\na\n</think>\n\nb\n<tool_call>\n{inside}\n</tool_call>");
            check("<think></think><tool_call>", "", &reply, ("a", "b", OSLO));
            let reply = format!("<think>\na\n<tool_call>\n{inside}\n</tool_call>");
            check("<think></think><tool_call>", "", &reply, ("a", "", OSLO));
        }
        for (template, reply) in [
            ("[TOOL_CALLS]", format!("[TOOL_CALLS] [{object}]")),
            ("[TOOL_CALLS] [ARGS]", "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Oslo\"}".to_owned()),
            ("<|python_tag|>", format!("<|python_tag|>{object}")),
            ("<|python_tag|>", "<|python_tag|>get_weather.call(city=\"Oslo\")".to_owned()),
            ("<|python_tag|>", r#"{"name": "get_weather", "parameters": {"city": "Oslo"}}"#.to_owned()),
            ("<function=", "<function=get_weather>{\"city\": \"Oslo\"}</function>".to_owned()),
            ("no tag", object.to_owned()),
            ("<|tool_call|>", format!("<|tool_call|>[{object}]<|/tool_call|>")),
            ("<TOOLCALL>", format!("<TOOLCALL>[{object}]</TOOLCALL>")),
            ("functools[", format!("functools[{object}]")),
            ("<|action_start|>", format!("<|action_start|><|plugin|>\n{object}<|action_end|>")),
            ("<|tool_call_start|>", "<|tool_call_start|>[get_weather(city='Oslo')]<|tool_call_end|>".to_owned()),
            ("<function_calls>", "<function_calls>get_weather(city=\"Oslo\")</function_calls>".to_owned()),
            ("<|tool_call>", "<|tool_call>call:get_weather{city:<|\"|>Oslo<|\"|>}<tool_call|>".to_owned()),
            ("<start_function_call>", "<start_function_call>call:get_weather{city:<escape>Oslo<escape>}<end_function_call>".to_owned()),
            ("<｜tool▁call▁begin｜>", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Oslo\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>".to_owned()),
            ("<|tool_call_begin|>", "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"city\": \"Oslo\"}<|tool_call_end|><|tool_calls_section_end|>".to_owned()),
            ("<seed:tool_call>", "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Oslo</parameter>\n</function>\n</seed:tool_call>".to_owned()),
            ("<minimax:tool_call>", "<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Oslo</parameter>\n</invoke>\n</minimax:tool_call>".to_owned()),
            ("<|START_ACTION|>", "<|START_ACTION|>[{\"tool_name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}}]<|END_ACTION|>".to_owned()),
            ("<|start|><|channel|><|message|>", " to=functions.get_weather<|channel|>commentary json<|message|>{\"city\": \"Oslo\"}".to_owned()),
        ] {
            check(template, "", &reply, ("", "", OSLO));
        }
    }

    #[test]
    fn what_is_no_call_is_content() {
        for reply in [
            "{\"city\": \"Oslo\"}",
            "{\"name\": \"elsewhere\", \"arguments\": {}}",
            "{",
            "fn main() {}",
        ] {
            check("no tag", "", reply, ("", reply, ""));
        }
        for reply in [
            "a <tool_call> b",
            "<tool_call>{\"name\": }</tool_call>",
            "<tool_call>{\"name\": \"now\"",
        ] {
            check("<tool_call>", "", reply, ("", reply, ""));
        }
    }
}
