//! Qwen3.5 with its relatives Ornith, which shows its thoughts in every turn, and Qwen3.8, which also has levels of
//! reasoning, one system turn only, and wants a question of the user.

use std::borrow::Cow;

use protocol::{Message, Role, Think};

use super::images::Images;
use super::qwen3_coder::{CALL_FORMAT, TOOLS};
use super::values::{argument, spaced};
use super::{Asked, Out, thinking};
use crate::{Error, Result};

const EFFORT_XHIGH: &str = "Reasoning effort is set to xhigh. Please think carefully through the task, validate key \
assumptions, consider plausible alternatives, and prioritize correctness, consistency, and clarity in the final answer.";
const EFFORT_LOW: &str = "Reasoning effort is set to low. Keep your thinking brief and focused, moving directly to the \
conclusion without unnecessary elaboration.";

/// What tells the relatives apart.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Qwen3_5,
    Ornith,
    Qwen3_8,
}

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_system(asked.messages, "", Kind::Qwen3_5, asked, out);
    write_messages(asked.messages, Kind::Qwen3_5, asked, out);
    Ok(())
}

pub(super) fn write_ornith(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_system(asked.messages, "", Kind::Ornith, asked, out);
    write_messages(asked.messages, Kind::Ornith, asked, out);
    Ok(())
}

pub(super) fn write_3_8(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let messages = one_system(asked.messages)?;
    check(&messages)?;
    write_system(&messages, effort(asked.think)?, Kind::Qwen3_8, asked, out);
    write_messages(&messages, Kind::Qwen3_8, asked, out);
    Ok(())
}

/// All that instructs is put into one system message at the front.
fn one_system(messages: &[Message]) -> Result<Cow<'_, [Message]>> {
    let instructs = |message: &Message| matches!(message.role.as_str(), "system" | "developer");
    let (instructions, others): (Vec<&Message>, Vec<&Message>) =
        messages.iter().partition(|message| instructs(message));
    if let Some(message) = instructions.iter().find(|message| !message.images.is_empty()) {
        return Err(refused(format!("{} message cannot contain images", message.role.as_str())));
    }
    let is_in_order = instructions.len() == 1 && messages[0].role == Role::System;
    if instructions.is_empty() || is_in_order {
        return Ok(Cow::Borrowed(messages));
    }
    let texts = instructions.iter().map(|message| message.content.trim());
    let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
    let system = Message { role: Role::System, content: texts.join("\n\n"), ..Message::default() };
    Ok(std::iter::once(system).chain(others.into_iter().cloned()).collect())
}

fn check(messages: &[Message]) -> Result<()> {
    match () {
        () if messages.is_empty() => Err(refused("no messages provided".to_owned())),
        () if !messages.iter().any(is_query) => {
            Err(refused("no user query found in messages".to_owned()))
        }
        () => Ok(()),
    }
}

fn refused(why: String) -> Error {
    Error::Conversation { why }
}

fn effort(think: &Think) -> Result<&'static str> {
    match think {
        Think::Unset => Ok(EFFORT_XHIGH),
        Think::Off | Think::On => Ok(""),
        Think::Level(level) => match level.as_str() {
            "low" => Ok(EFFORT_LOW),
            "medium" => Ok(""),
            "high" | "max" => Ok(EFFORT_XHIGH),
            other => Err(refused(format!("invalid thinking value {other}"))),
        },
    }
}

fn write_system(messages: &[Message], effort: &str, kind: Kind, asked: &Asked<'_>, out: &mut Out) {
    let system = messages.first().filter(|first| first.role == Role::System);
    let text = system.map(|system| Images::default().tag(&system.content, system));
    let text = text.as_deref().unwrap_or_default().trim();
    let tools = &asked.tools;
    let is_shown = system.is_some() && (kind != Kind::Qwen3_8 || !text.is_empty());
    if tools.is_empty() && effort.is_empty() && !is_shown {
        return;
    }
    out.put(["<|im_start|>system\n", effort]);
    let follows = !tools.is_empty() || !text.is_empty();
    if !effort.is_empty() && follows {
        out.put(["\n\n"]);
    }
    if !tools.is_empty() {
        out.put([TOOLS]);
        for tool in tools {
            out.put(["\n", &spaced(&tool.tool())]);
        }
        out.put([CALL_FORMAT, if text.is_empty() { "" } else { "\n\n" }]);
    }
    out.put([text, "<|im_end|>\n"]);
}

fn write_messages(messages: &[Message], kind: Kind, asked: &Asked<'_>, out: &mut Out) {
    let thinks = asked.thinks().unwrap_or(true);
    let query = messages.iter().rposition(is_query).unwrap_or(messages.len().saturating_sub(1));
    let mut images = Images::default();
    for (index, message) in messages.iter().enumerate() {
        let content = images.tag(&message.content, message);
        let content = content.trim();
        let is_last = index + 1 == messages.len();
        match &message.role {
            Role::System if index == 0 => {}
            Role::Other(_) if kind != Kind::Qwen3_8 => {}
            Role::Assistant => {
                let shown = kind != Kind::Qwen3_5 || (thinks && index > query);
                write_assistant(message, &Turn::of(content, message, shown, kind), out);
                out.put([if is_last { "" } else { "<|im_end|>\n" }]);
            }
            Role::Tool => super::qwen3_vl::write_result(messages, index, content, out),
            role => out.put(["<|im_start|>", role.as_str(), "\n", content, "<|im_end|>\n"]),
        }
        if is_last && message.role != Role::Assistant {
            let begin = if thinks { "<think>\n" } else { "<think>\n\n</think>\n\n" };
            out.put(["<|im_start|>assistant\n", begin]);
        }
    }
}

/// The user's, and no tool's result in disguise.
fn is_query(message: &Message) -> bool {
    let content = Images::default().tag(&message.content, message);
    let content = content.trim();
    let is_result = content.starts_with("<tool_response>") && content.ends_with("</tool_response>");
    message.role == Role::User && !is_result
}

struct Turn<'a> {
    content: &'a str,
    /// `None`: no thoughts are shown, not even none.
    reasoning: Option<&'a str>,
}

impl<'a> Turn<'a> {
    /// Thoughts come from the message, or stand at the front of its content.
    fn of(content: &'a str, message: &'a Message, shown: bool, kind: Kind) -> Turn<'a> {
        let own = thinking(message);
        let (reasoning, content) = match content.split_once("</think>") {
            _ if shown && !own.is_empty() => (own, content),
            Some((before, after)) if kind != Kind::Qwen3_8 => {
                let reasoning = before.rsplit_once("<think>").map_or(before, |(_, inner)| inner);
                (reasoning, after.trim_start_matches('\n'))
            }
            _ => ("", content),
        };
        Turn { content, reasoning: shown.then_some(reasoning.trim()) }
    }
}

fn write_assistant(message: &Message, turn: &Turn<'_>, out: &mut Out) {
    out.put(["<|im_start|>assistant\n"]);
    if let Some(reasoning) = turn.reasoning {
        out.put(["<think>\n", reasoning, "\n</think>\n\n"]);
    }
    out.put([turn.content]);
    if !message.tool_calls.is_empty() && !turn.content.trim().is_empty() {
        out.put(["\n\n"]);
    }
    out.join(&message.tool_calls, "\n", |out, call| {
        out.put(["<tool_call>\n<function=", &call.name, ">\n"]);
        out.arguments(call, ["<parameter=", ">\n", "\n</parameter>\n"], argument);
        out.put(["</function>\n</tool_call>"]);
    });
}
