//! The forms that replies are asked to have: from a request to its constraint. What a request asks for is understood, or
//! refused, before anything of it is computed.
//!
//! Vocabularies are made in the background while the model loads, and grammars are kept for a while: clients ask for the
//! same form again and again.

use std::collections::VecDeque;
use std::rc::Rc;
use std::thread::JoinHandle;

use protocol::{Failure, Format, Input, Request, Think, Tool, ToolChoice};
use text::Text;
use text::constraint::{
    CallSyntax, Constraint, Grammar, Thinking, Vocabulary, VocabularyParts, Wish,
};
use text::parsers::{Parser, Tags};

/// Grammars kept for the next request. Price: up to a few megabytes each.
const GRAMMARS_MAX: usize = 8;

pub(crate) struct Forms {
    /// How the model writes calls, if its template tells.
    calls: Option<CallSyntax>,
    vocabulary: Made,
    /// The latest first.
    grammars: VecDeque<(Key, Grammar)>,
}

enum Made {
    Soon(Option<JoinHandle<text::Result<Vocabulary>>>),
    Done(text::Result<Vocabulary>),
}

/// All that a grammar depends on.
#[derive(Clone, Debug, PartialEq)]
struct Key {
    format: Format,
    tools: Vec<Tool>,
    tool_choice: ToolChoice,
    thinking: Option<Thinking>,
}

impl Forms {
    pub fn new(text: &Rc<Text>) -> Forms {
        let calls =
            text.template().and_then(|template| CallSyntax::of_template(&template.source()));
        let thoughts = thoughts_of(text);
        let of_parser = thoughts.iter().flat_map(|tags| [tags.open.as_str(), tags.close.as_str()]);
        let of_calls = calls.iter().flat_map(CallSyntax::tags);
        let tags: Vec<&str> = of_calls.chain(of_parser).filter(|tag| !tag.is_empty()).collect();
        let parts = VocabularyParts::new(text, &tags);
        let thread = std::thread::Builder::new().name("vocabulary".to_owned());
        let vocabulary = Made::Soon(thread.spawn(move || parts.build()).ok());
        Forms { calls, vocabulary, grammars: VecDeque::new() }
    }

    #[cfg(test)]
    pub fn none() -> Forms {
        let vocabulary = Made::Soon(None);
        Forms { calls: None, vocabulary, grammars: VecDeque::new() }
    }

    /// None when any reply will do.
    pub fn constraint(
        &mut self,
        request: &Request,
        prompt: &str,
        parser: &Parser,
    ) -> Result<Option<Constraint>, Failure> {
        if !asks(request) {
            return Ok(None);
        }
        let key = Key {
            format: request.format.clone(),
            tools: request.input.tools().to_vec(),
            tool_choice: request.tool_choice.clone(),
            thinking: Thinking::of(parser, prompt, &request.think),
        };
        if let Some(at) = self.grammars.iter().position(|(known, _)| *known == key) {
            let found = self.grammars.remove(at);
            self.grammars.extend(found);
            self.grammars.rotate_right(1);
            return Ok(self.grammars.front().map(|(_, grammar)| grammar.start()));
        }
        let Some(grammar) = self.compile(&key)? else { return Ok(None) };
        let constraint = grammar.start();
        self.grammars.push_front((key, grammar));
        self.grammars.truncate(GRAMMARS_MAX);
        Ok(Some(constraint))
    }

    fn compile(&mut self, key: &Key) -> Result<Option<Grammar>, Failure> {
        let wish = Wish {
            format: &key.format,
            tools: &key.tools,
            tool_choice: &key.tool_choice,
            thinking: key.thinking.clone(),
            calls: self.calls.clone(),
        };
        let vocabulary = self.vocabulary()?;
        Ok(Grammar::compile(&wish, &vocabulary)?)
    }

    fn vocabulary(&mut self) -> Result<Vocabulary, Failure> {
        if let Made::Soon(thread) = &mut self.vocabulary {
            let made = thread.take().and_then(|thread| thread.join().ok());
            let lost = || Failure::internal("the vocabulary for grammars could not be made");
            self.vocabulary = Made::Done(made.ok_or_else(lost)?);
        }
        match &self.vocabulary {
            Made::Done(Ok(vocabulary)) => Ok(vocabulary.clone()),
            Made::Done(Err(error)) => Err(error.clone().into()),
            Made::Soon(_) => Err(Failure::internal("the vocabulary for grammars is not there")),
        }
    }
}

/// The tags around a model's thoughts.
fn thoughts_of(text: &Text) -> Option<Tags> {
    let input = Input::Chat { messages: Vec::new(), tools: Vec::new(), template: None };
    text.parser(&input, &Think::On, "").thoughts().cloned()
}

/// A request that calls for nothing must not be shown any tools.
pub(crate) fn without_forbidden_tools(mut request: Request) -> Request {
    if let (ToolChoice::None, Input::Chat { tools, .. }) =
        (&request.tool_choice, &mut request.input)
    {
        tools.clear();
    }
    request
}

fn asks(request: &Request) -> bool {
    request.format != Format::Free
        || matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Named(_))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use protocol::{Message, Options, RequestId};

    use super::*;

    fn text() -> Rc<Text> {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/arch");
        let tokenizer: PathBuf = data.join("_tokenizers/125f2499ce34/tokenizer.json");
        let files = [("tokenizer.json".to_owned(), tokenizer)].into();
        Rc::new(Text::load(&files).unwrap().with_parser(Some("qwen3.5"), None))
    }

    /// How many tokens a reply of digits may begin with.
    #[track_caller]
    fn check(think: Think, is_free: bool) {
        let text = text();
        let mut forms = Forms::new(&text);
        let request = Request {
            id: RequestId(1),
            input: Input::Chat {
                messages: vec![Message::default()],
                tools: Vec::new(),
                template: None,
            },
            options: Options::default(),
            format: Format::Regex("[0-9]{3}".to_owned()),
            think,
            tool_choice: ToolChoice::default(),
            logprobs: None,
            render_only: false,
        };
        let parser = text.parser(&request.input, &request.think, "x");
        let mut constraint = forms.constraint(&request, "x", &parser).unwrap().unwrap();
        let count = constraint.mask().unwrap().count();
        assert_eq!(count > text.vocab_size() / 2, is_free, "{count}");
    }

    #[test]
    fn thoughts_that_a_reply_begins_in_have_no_form() {
        check(Think::On, true);
        check(Think::Off, false);
    }
}
