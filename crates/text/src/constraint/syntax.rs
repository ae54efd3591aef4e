//! What a model's template tells of how it thinks and how it calls tools: a template writes past thoughts and calls in
//! the model's own notation, so the tags in its source are the ones to use.

use protocol::Think;

use super::{CallSyntax, Thinking};

/// Tags around thoughts; the first whose closing tag a template has.
const THOUGHTS: [(&str, &str); 6] = [
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
];

/// How a model writes what is not its answer's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Syntax {
    pub thoughts: Option<(String, String)>,
    pub calls: Option<CallSyntax>,
}

impl Syntax {
    pub fn of_template(source: &str) -> Syntax {
        let has = |tag: &str| source.contains(tag);
        let thoughts = THOUGHTS.iter().find(|(_, close)| has(close));
        Syntax {
            thoughts: thoughts.map(|(open, close)| ((*open).to_owned(), (*close).to_owned())),
            calls: calls(&has),
        }
    }

    /// Special tokens among these are text.
    pub fn tags(&self) -> Vec<&str> {
        let thoughts = self.thoughts.iter().flat_map(|(open, close)| [open, close]);
        let calls = self.calls.iter().flat_map(|calls| [&calls.open, &calls.begin, &calls.end]);
        thoughts.chain(calls).map(|tag| tag.trim()).filter(|tag| !tag.is_empty()).collect()
    }

    /// How the model thinks in a request whose prompt is this one.
    pub fn thinking(&self, prompt: &str, think: &Think) -> Option<Thinking> {
        let (open, close) = self.thoughts.clone()?;
        let prompt = prompt.trim_end();
        if prompt.ends_with(&open) {
            return Some(Thinking { open: String::new(), close });
        }
        let may_think = matches!(think, Think::On | Think::Level(_));
        (may_think && !prompt.ends_with(&close)).then_some(Thinking { open, close })
    }
}

fn calls(has: &impl Fn(&str) -> bool) -> Option<CallSyntax> {
    let named = |arguments: &str| CallSyntax {
        name_key: "name".to_owned(),
        arguments_key: arguments.to_owned(),
        ..CallSyntax::default()
    };
    if has("<tool_call>") && !has("<function=") && !has("<arg_key>") && has("arguments") {
        return Some(CallSyntax::hermes());
    }
    if has("[TOOL_CALLS]") && !has("[ARGS]") && !has("[CALL_ID]") {
        return Some(CallSyntax {
            open: "[TOOL_CALLS] [".to_owned(),
            between: ", ".to_owned(),
            close: "]".to_owned(),
            ..named("arguments")
        });
    }
    // Llama 3's: a reply that is nothing but one object.
    let is_bare = has("\"parameters\": ") && !has("<function=") && !has("_call");
    is_bare.then(|| named("parameters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prompt: &str, think: Think, expected: Option<(&str, &str)>) {
        let syntax = Syntax::of_template("{% if … %}<think>{{ … }}</think>{% endif %}");
        let thinking = syntax.thinking(prompt, &think);
        let thinking = thinking.as_ref().map(|t| (t.open.as_str(), t.close.as_str()));
        assert_eq!(thinking, expected, "{prompt:?} {think:?}");
    }

    #[test]
    fn the_prompt_tells_where_thoughts_begin() {
        let both = Some(("<think>", "</think>"));
        check("<|assistant|>\n", Think::On, both);
        check("<|assistant|>\n", Think::Level("high".to_owned()), both);
        check("<|assistant|>\n", Think::Off, None);
        check("<|assistant|>\n", Think::Unset, None);
        check("<|assistant|>\n<think>\n", Think::On, Some(("", "</think>")));
        check("<|assistant|>\n<think>\n", Think::Unset, Some(("", "</think>")));
        check("<|assistant|>\n<think>\n\n</think>\n\n", Think::On, None);
    }

    #[test]
    fn calls_are_read_off_the_template() {
        let of = |source: &str| Syntax::of_template(source).calls;
        assert_eq!(of("<tool_call>\n{\"name\": …, \"arguments\": …}"), Some(CallSyntax::hermes()));
        assert_eq!(of("<tool_call>\n<function=…>arguments"), None);
        let mistral = of("[TOOL_CALLS] [{\"name\"").unwrap();
        assert_eq!((mistral.close.as_str(), mistral.between.as_str()), ("]", ", "));
        assert_eq!(of("[TOOL_CALLS]name[ARGS]{}"), None);
        let llama = of("{'{\"name\": \"' … '\", ' '\"parameters\": '}").unwrap();
        assert_eq!((llama.begin.as_str(), llama.arguments_key.as_str()), ("", "parameters"));
        assert_eq!(of("{{ messages }}"), None);
    }
}
