//! What a Modelfile's template (Go's `text/template`) tells of its model's replies: the tags around thinking, and the
//! tag in front of a tool call.
//!
//! The rules are Ollama's, which templates are written for. Thinking: where `.Thinking` stands in a loop over
//! `.Messages`, the first and the last text of the innermost block around it. Calls: the first text inside of the first
//! `if` that asks for `.ToolCalls`, up to a brace.

use super::buffer::Blanks;
use super::shape::{Calls, Close, Shape, Start, Thoughts};
use super::{Asked, Family, Parser, calls};

/// Deeper templates tell nothing. Price: a stack frame each.
const DEPTH_MAX: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tags {
    /// Both are texts, or there are none.
    thinking: Option<(String, String)>,
    call: String,
    /// Whether it is gpt-oss's template.
    pub is_harmony: bool,
}

#[derive(Debug)]
enum Node<'a> {
    Text(&'a str),
    Action(&'a str),
    Block(Block<'a>),
}

#[derive(Debug)]
struct Block<'a> {
    word: &'a str,
    code: &'a str,
    inside: Vec<Node<'a>>,
    otherwise: Vec<Node<'a>>,
}

impl Tags {
    pub fn of(source: &str) -> Tags {
        let nodes = Reader { rest: source, pending: None }.list(0);
        let mut found = (String::new(), String::new());
        thinking(&nodes, false, &mut found);
        let both = !found.0.is_empty() && !found.1.is_empty();
        let has = |tag: &str| source.contains(tag);
        Tags {
            thinking: both.then_some(found),
            call: call(&nodes).unwrap_or_else(|| "{".to_owned()),
            is_harmony: has("<|start|>") && has("<|end|>") && has("<|channel|>"),
        }
    }

    pub fn parser(&self, asked: &Asked<'_>) -> Parser {
        if let Some(family) = Family::named("harmony").filter(|_| self.is_harmony) {
            return family.parser(asked);
        }
        let calls = if asked.tools.is_empty() { Vec::new() } else { self.calls() };
        let mut shape = Shape { blanks: (Blanks::Keep, Blanks::Drop), ..Shape::of(calls) };
        if let Some((open, close)) = self.thinking.clone().filter(|_| asked.thinks_if_asked()) {
            let opened = asked.prompt.trim_end().ends_with(&open);
            let thoughts = Thoughts { blanks: Blanks::Keep, ..Thoughts::between(open, close) };
            shape = shape.thinking(thoughts, if opened { Start::Thoughts } else { Start::Either });
            shape.trims = opened;
        }
        Parser::shaped(shape, asked.tools, &[])
    }

    /// Around thoughts, and before a call.
    #[cfg(test)]
    pub fn as_told(&self) -> Vec<String> {
        let (open, close) = self.thinking.clone().unwrap_or_default();
        vec![open, close, self.call.clone()]
    }

    fn calls(&self) -> Vec<Calls> {
        let bare = |open: &'static str| Calls {
            close: Close::Json,
            open_is_read: true,
            first_only: true,
            ..Calls::between(open, "", calls::declared).followed_by([",", ";"])
        };
        match self.call.as_str() {
            "{" => vec![bare("{")],
            "[" => vec![bare("[")],
            tag => {
                let tagged = Calls {
                    close: Close::Json,
                    ..Calls::between(tag.to_owned(), "", calls::declared)
                };
                vec![tagged.followed_by(closing(tag)), bare("{").followed_by(closing(tag))]
            }
        }
    }
}

/// What may stand behind a call: the tag that closes this one, and what parts calls.
fn closing(tag: &str) -> Vec<String> {
    let name = tag.strip_prefix('<').and_then(|tag| tag.strip_suffix('>'));
    let mut after = vec![",".to_owned(), ";".to_owned()];
    after.extend(name.map(|name| format!("</{name}>")));
    // The list that the tag has opened.
    after.extend(tag.ends_with('[').then(|| "]".to_owned()));
    after
}

/// Texts and actions of a template, as a tree.
struct Reader<'a> {
    rest: &'a str,
    /// An action that was read but not used.
    pending: Option<&'a str>,
}

enum Token<'a> {
    Text(&'a str),
    Action(&'a str),
}

impl<'a> Reader<'a> {
    fn list(&mut self, depth: usize) -> Vec<Node<'a>> {
        let mut nodes = Vec::new();
        while let Some(token) = self.next() {
            let code = match token {
                Token::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Token::Action(code) => code,
            };
            match word(code) {
                "end" | "else" => {
                    self.pending = Some(code);
                    break;
                }
                "if" | "range" | "with" if depth < DEPTH_MAX => {
                    nodes.push(Node::Block(self.block(code, depth)))
                }
                // Templates of their own, which the search does not enter.
                "define" | "block" if depth < DEPTH_MAX => {
                    self.block(code, depth);
                }
                _ => nodes.push(Node::Action(code)),
            }
        }
        nodes
    }

    fn block(&mut self, code: &'a str, depth: usize) -> Block<'a> {
        let inside = self.list(depth + 1);
        let mut otherwise = Vec::new();
        if let Some(code) = self.pending.take()
            && word(code) == "else"
        {
            let more = code["else".len()..].trim_start();
            match word(more) {
                // Another block, which has the same end.
                "if" | "with" => otherwise.push(Node::Block(self.block(more, depth + 1))),
                _ => {
                    otherwise = self.list(depth + 1);
                    self.pending = None;
                }
            }
        }
        Block { word: word(code), code, inside, otherwise }
    }

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            if let Some(text) = self.text() {
                return Some(Token::Text(text));
            }
            let code = self.action()?;
            if !code.starts_with("/*") {
                return Some(Token::Action(code));
            }
        }
    }

    /// Up to the next action, without what that action cuts off.
    fn text(&mut self) -> Option<&'a str> {
        let end = self.rest.find("{{").unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let cuts =
            rest.strip_prefix("{{-").is_some_and(|code| code.starts_with(char::is_whitespace));
        let text = if cuts { text.trim_end() } else { text };
        Some(text).filter(|text| !text.is_empty())
    }

    fn action(&mut self) -> Option<&'a str> {
        let code = self.rest.strip_prefix("{{")?;
        let end = end_of_action(code)?;
        let (code, mut rest) = (&code[..end], &code[end + 2..]);
        if let Some(before) = code.strip_suffix('-')
            && before.ends_with(char::is_whitespace)
        {
            rest = rest.trim_start();
        }
        self.rest = rest;
        let code = code.strip_prefix('-').unwrap_or(code).trim();
        Some(code.strip_suffix('-').unwrap_or(code).trim_end())
    }
}

/// Where `}}` stands that is in no quotes and no comment.
fn end_of_action(code: &str) -> Option<usize> {
    let trimmed = code.strip_prefix('-').unwrap_or(code).trim_start();
    if trimmed.starts_with("/*") {
        let comment = code.find("*/")?;
        return Some(comment + code[comment..].find("}}")?);
    }
    let (mut quote, mut escaped) = (None, false);
    for (at, byte) in code.bytes().enumerate() {
        match (quote, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(b'"' | b'\''), b'\\') => escaped = true,
            (Some(open), _) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'' | b'`') => quote = Some(byte),
            (None, b'}') if code[at..].starts_with("}}") => return Some(at),
            _ => {}
        }
    }
    None
}

fn word(code: &str) -> &str {
    code.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default()
}

/// The paths that begin with a dot, each with how deep in parentheses it stands.
fn fields(code: &str) -> Vec<(usize, &str)> {
    let mut fields = Vec::new();
    let (mut depth, mut start, mut quote, mut escaped) = (0_usize, None, None, false);
    for (at, byte) in code.bytes().chain(std::iter::once(b' ')).enumerate() {
        if let Some(open) = quote {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if open != b'`' => escaped = true,
                _ if byte == open => quote = None,
                _ => {}
            }
            continue;
        }
        let ends = matches!(
            byte,
            b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')' | b'|' | b',' | b'"' | b'`' | b'\''
        );
        if ends && let Some((depth, start)) = start.take() {
            let path: &str = &code[start..at];
            fields.extend(
                path.strip_prefix('.').filter(|path| !path.is_empty()).map(|path| (depth, path)),
            );
        }
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'"' | b'`' | b'\'' => quote = Some(byte),
            _ if !ends && start.is_none() => start = Some((depth, at)),
            _ => {}
        }
    }
    fields
}

fn begins(code: &str, field: &str) -> bool {
    fields(code).iter().any(|(_, path)| path.split('.').next() == Some(field))
}

/// Looks at every `.Thinking`; the last one counts. `messages`: whether the innermost loop is over the messages.
fn thinking(nodes: &[Node<'_>], messages: bool, found: &mut (String, String)) {
    for node in nodes {
        let (code, messages) = match node {
            Node::Text(_) => continue,
            Node::Action(code) => (*code, messages),
            Node::Block(block) if block.word == "range" => {
                (block.code, begins(block.code, "Messages"))
            }
            Node::Block(block) => (block.code, messages),
        };
        if messages && begins(code, "Thinking") {
            if let Some(Node::Text(text)) = nodes.first() {
                found.0 = text.trim().to_owned();
            }
            if let Some(Node::Text(text)) = nodes.last() {
                found.1 = text.trim().to_owned();
            }
        }
        if let Node::Block(block) = node {
            thinking(&block.inside, messages, found);
            thinking(&block.otherwise, messages, found);
        }
    }
}

fn call(nodes: &[Node<'_>]) -> Option<String> {
    let text = first_text(&find_calls(nodes)?.inside)?;
    let tag = text.split('{').next().unwrap_or_default().trim();
    (!tag.is_empty()).then(|| tag.replace("\r\n", "\n"))
}

fn find_calls<'a, 'b>(nodes: &'b [Node<'a>]) -> Option<&'b Block<'a>> {
    nodes.iter().find_map(|node| {
        let Node::Block(block) = node else { return None };
        let asks = |(depth, path): &(usize, &str)| {
            *depth == 0 && path.split('.').any(|part| part == "ToolCalls")
        };
        if block.word == "if" && fields(block.code).iter().any(asks) {
            return Some(block);
        }
        find_calls(&block.inside).or_else(|| find_calls(&block.otherwise))
    })
}

/// The first text that is not only white space, unless something is printed before it.
fn first_text<'a>(nodes: &[Node<'a>]) -> Option<&'a str> {
    for node in nodes {
        match node {
            Node::Text(text) if text.trim().is_empty() => {}
            Node::Text(text) => return Some(text),
            Node::Action(_) => return None,
            Node::Block(block) => {
                return first_text(&block.inside).or_else(|| first_text(&block.otherwise));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, thinking: Option<(&str, &str)>, call: &str) {
        let tags = Tags::of(source);
        let found = tags.thinking.as_ref().map(|(open, close)| (open.as_str(), close.as_str()));
        assert_eq!((found, tags.call.as_str()), (thinking, call), "{source}");
    }

    #[test]
    fn tags_are_read_off_templates() {
        let think = Some(("<think>", "</think>"));
        check("{{ .Prompt }}", None, "{");
        check(
            "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}",
            think,
            "{",
        );
        check(
            "{{- range $i, $m := .Messages }}{{ if and .Thinking (eq $i 1) -}}\n<think>\n{{ .Thinking }}\n</think>\n{{- end }}{{ .Content }}{{ end }}",
            think,
            "{",
        );
        check("{{ range .Tools }}<a>{{ .Thinking }}</a>{{ end }}{{ .Thinking }}", None, "{");
        check(
            "{{ range .Messages }}{{ if .ToolCalls }}<tool_call>\n{\"name\": \"{{ .Name }}\"}</tool_call>{{ end }}{{ end }}",
            None,
            "<tool_call>",
        );
        check(
            "{{ if .ToolCalls }}{{ range .ToolCalls }}[TOOL_CALLS] [{{ . }}{{ end }}{{ end }}",
            None,
            "[TOOL_CALLS] [",
        );
        check("{{ if .ToolCalls }}{{ range .ToolCalls }}{\"name\"{{ end }}{{ end }}", None, "{");
        check("{{ if .ToolCalls }}{{ .ToolCalls }}x{{ end }}", None, "{");
        check("{{ if (and .ToolCalls .X) }}x{{ end }}", None, "{");
        check("{{ if .A }}{{ else if .ToolCalls }}<c>{{ end }}", None, "<c>");
        check(
            "{{/* {{ if .ToolCalls }}x{{ end }} */}}{{ if \"}}\" }}{{ else }}{{ if .ToolCalls }}y{{ end }}{{ end }}",
            None,
            "y",
        );
    }

    #[test]
    fn damaged_templates_tell_nothing() {
        for source in
            ["{{", "{{ if", "{{ if .ToolCalls }}", "{{ end }}x", "{{ else }}", "{{/* ", "{{ \"}}"]
        {
            check(source, None, "{");
        }
        check(&"{{ if .ToolCalls }}".repeat(100_000), None, "{");
    }
}
