//! What a Modelfile's template (Go's `text/template`) tells of its model's replies: the tags around thinking, and the
//! tag in front of a tool call, as [`ModelfileTemplate`] reads them.

use super::buffer::Blanks;
use super::shape::{Calls, Close, Shape, Start, Thoughts};
use super::{Asked, Family, Parser, calls};
use crate::ModelfileTemplate;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tags {
    /// Both are texts, or there are none.
    thinking: Option<(String, String)>,
    call: String,
    /// Whether it is gpt-oss's template.
    pub is_harmony: bool,
}

impl Tags {
    /// A template that is none tells nothing.
    pub fn of(source: &str) -> Tags {
        let template = ModelfileTemplate::parse(source).ok();
        let thinking = template.as_ref().and_then(ModelfileTemplate::thinking_tags);
        let has = |tag: &str| source.contains(tag);
        Tags {
            thinking: thinking.filter(|(open, close)| !open.is_empty() && !close.is_empty()),
            call: template.map_or_else(|| "{".to_owned(), |template| template.tool_tag()),
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
