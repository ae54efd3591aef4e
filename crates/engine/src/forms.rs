//! The forms that replies are asked to have: from a request to its constraint. What a request asks for is understood, or
//! refused, before anything of it is computed.
//!
//! Understanding goes on beside the steps, in a thread of its own that is there once a form was asked for: it makes the
//! vocabulary, which takes half a second and 78 MiB for 150,000 tokens, and one grammar after the other. What is ready
//! within a moment is waited for. Grammars are kept for a while: clients ask for the same form again and again.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use protocol::{Failure, Format, Input, Request, Think, Tool, ToolChoice};
use text::Text;
use text::constraint::{
    CallSyntax, Constraint, Grammar, Thinking, Vocabulary, VocabularyParts, Wish,
};
use text::parsers::{Parser, Tags};

/// Grammars kept for the next request. Price: up to a few megabytes each.
const GRAMMARS_MAX: usize = 8;

/// Most grammars are made in this time, and waiting for them costs the other sequences less than a step.
pub(crate) const PATIENCE: Duration = Duration::from_millis(5);

pub(crate) struct Forms {
    /// How the model writes calls, if its template tells.
    calls: Option<CallSyntax>,
    worker: Worker,
    /// The latest first; those that cannot be had say why.
    grammars: VecDeque<(Key, text::Result<Grammar>)>,
    /// Being understood.
    pending: Vec<Key>,
    /// Something was understood since somebody asked for news.
    is_fresh: bool,
}

/// What a request's form is.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // There is one at a time, and it is taken apart at once.
pub(crate) enum Form {
    /// Any reply will do.
    Any,
    Kept(Constraint),
    /// It is still being understood: ask again when there is news.
    Soon,
}

enum Worker {
    /// Nobody asked for a form yet.
    Absent(Option<VocabularyParts>),
    Busy {
        jobs: Sender<Job>,
        done: Receiver<Done>,
    },
}

struct Job {
    key: Key,
    calls: Option<CallSyntax>,
}

struct Done {
    key: Key,
    grammar: text::Result<Grammar>,
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
        let worker = Worker::Absent(Some(VocabularyParts::new(text, &tags)));
        Forms { calls, worker, grammars: VecDeque::new(), pending: Vec::new(), is_fresh: false }
    }

    #[cfg(test)]
    pub fn none() -> Forms {
        let worker = Worker::Absent(None);
        Forms {
            calls: None,
            worker,
            grammars: VecDeque::new(),
            pending: Vec::new(),
            is_fresh: false,
        }
    }

    /// Waits for it no longer than this.
    pub fn form(
        &mut self,
        request: &Request,
        prompt: &str,
        parser: &Parser,
        patience: Duration,
    ) -> Result<Form, Failure> {
        if !asks(request) {
            return Ok(Form::Any);
        }
        let key = Key {
            format: request.format.clone(),
            tools: request.input.tools().to_vec(),
            tool_choice: request.tool_choice.clone(),
            thinking: Thinking::of(parser, prompt, &request.think),
        };
        if let Some(grammar) = self.found(&key) {
            return Ok(Form::Kept(grammar?.start()));
        }
        if !self.pending.contains(&key) {
            self.begin(key.clone())?;
        }
        let until = Instant::now() + patience;
        while self.pending.contains(&key) && self.wait(until - Instant::now().min(until)) {}
        match self.found(&key) {
            Some(grammar) => Ok(Form::Kept(grammar?.start())),
            None => Ok(Form::Soon),
        }
    }

    /// Whether something was understood since the last time; waits for it no longer than this.
    pub fn has_news(&mut self, patience: Duration) -> bool {
        if !self.is_fresh {
            self.wait(patience);
        }
        std::mem::take(&mut self.is_fresh)
    }

    /// Whether something came of what is being understood.
    fn wait(&mut self, patience: Duration) -> bool {
        let Worker::Busy { done, .. } = &self.worker else { return false };
        match done.recv_timeout(patience) {
            Ok(Done { key, grammar }) => {
                self.pending.retain(|other| *other != key);
                self.grammars.push_front((key, grammar));
                self.grammars.truncate(GRAMMARS_MAX.max(self.pending.len()));
            }
            Err(RecvTimeoutError::Timeout) => return false,
            // It never ends before its work does.
            Err(RecvTimeoutError::Disconnected) => self.pending.clear(),
        }
        self.is_fresh = true;
        true
    }

    /// The latest used come first.
    fn found(&mut self, key: &Key) -> Option<Result<Grammar, Failure>> {
        let at = self.grammars.iter().position(|(known, _)| known == key)?;
        let found = self.grammars.remove(at);
        self.grammars.extend(found);
        self.grammars.rotate_right(1);
        let (_, grammar) = self.grammars.front()?;
        Some(grammar.clone().map_err(Failure::from))
    }

    fn begin(&mut self, key: Key) -> Result<(), Failure> {
        if let Worker::Absent(parts) = &mut self.worker
            && let Some(parts) = parts.take()
        {
            let ((jobs, todo), (ready, done)) = (channel(), channel());
            let thread = std::thread::Builder::new().name("forms".to_owned());
            let spawned = thread.spawn(move || work(parts, &todo, &ready));
            spawned.map_err(|why| Failure::internal(format!("no thread for forms: {why}")))?;
            self.worker = Worker::Busy { jobs, done };
        }
        let lost = || Failure::internal("forms cannot be understood any more");
        let Worker::Busy { jobs, .. } = &self.worker else { return Err(lost()) };
        let job = Job { key: key.clone(), calls: self.calls.clone() };
        jobs.send(job).map_err(|_| lost())?;
        self.pending.push(key);
        Ok(())
    }
}

/// Until nobody asks any more.
fn work(parts: VocabularyParts, jobs: &Receiver<Job>, done: &Sender<Done>) {
    let vocabulary = parts.build();
    for Job { key, calls } in jobs {
        let made = || compile(&key, calls, vocabulary.as_ref().map_err(Clone::clone)?);
        let gave_up = || text::Error::Format { why: "its grammar cannot be made".to_owned() };
        let grammar = catch_unwind(AssertUnwindSafe(made)).unwrap_or_else(|_| Err(gave_up()));
        if done.send(Done { key, grammar }).is_err() {
            return;
        }
    }
}

fn compile(key: &Key, calls: Option<CallSyntax>, vocabulary: &Vocabulary) -> text::Result<Grammar> {
    let wish = Wish {
        format: &key.format,
        tools: &key.tools,
        tool_choice: &key.tool_choice,
        thinking: key.thinking.clone(),
        calls,
    };
    let nothing = || text::Error::Format { why: "it asks for nothing".to_owned() };
    Grammar::compile(&wish, vocabulary)?.ok_or_else(nothing)
}

/// The tags around a model's thoughts.
fn thoughts_of(text: &Text) -> Option<Tags> {
    let input = Input::chat(Vec::new());
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

    use protocol::{Message, RequestId};

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
        let request = request(think, Format::Regex("[0-9]{3}".to_owned()));
        let parser = text.parser(&request.input, &request.think, "x");
        let mut constraint = made(&mut forms, &request, &parser).unwrap();
        let count = constraint.mask().unwrap().count();
        assert_eq!(count > text.vocab_size() / 2, is_free, "{count}");
    }

    fn made(forms: &mut Forms, request: &Request, parser: &Parser) -> Result<Constraint, Failure> {
        loop {
            match forms.form(request, "x", parser, Duration::ZERO)? {
                Form::Kept(constraint) => return Ok(constraint),
                Form::Soon => drop(forms.has_news(Duration::from_secs(1))),
                Form::Any => panic!("a form was asked for"),
            }
        }
    }

    fn request(think: Think, format: Format) -> Request {
        let message = Message::default();
        Request { format, think, ..Request::new(RequestId(1), Input::chat(vec![message])) }
    }

    /// Nothing is there before somebody asks, and what was refused is refused again.
    #[test]
    fn forms_are_understood_once_somebody_asks() {
        let text = text();
        let mut forms = Forms::new(&text);
        let asked = |format| {
            let request = request(Think::Off, format);
            let parser = text.parser(&request.input, &request.think, "x");
            (request, parser)
        };
        let (free, parser) = asked(Format::Free);
        let form = forms.form(&free, "x", &parser, PATIENCE).unwrap();
        assert!(matches!(form, Form::Any) && matches!(forms.worker, Worker::Absent(Some(_))));
        for _ in 0..2 {
            let (good, parser) = asked(Format::Json);
            assert!(made(&mut forms, &good, &parser).is_ok());
            let (bad, parser) = asked(Format::Regex("a(b".to_owned()));
            let failure = made(&mut forms, &bad, &parser).unwrap_err();
            assert!(failure.message.contains("the format cannot be used"), "{failure:?}");
        }
        assert_eq!((forms.grammars.len(), forms.pending.len()), (2, 0));
    }

    /// Who waits for one form learns of others that came before it.
    #[test]
    fn no_news_is_lost() {
        let text = text();
        let mut forms = Forms::new(&text);
        let ask = |forms: &mut Forms, format: Format, patience: Duration| {
            let request = request(Think::Off, format);
            let parser = text.parser(&request.input, &request.think, "x");
            forms.form(&request, "x", &parser, patience).unwrap()
        };
        let first = || Format::Regex("(ab|cd){1,50}".to_owned());
        let long = Duration::from_secs(60);
        assert!(matches!(ask(&mut forms, first(), Duration::ZERO), Form::Soon));
        assert!(matches!(ask(&mut forms, Format::Json, long), Form::Kept(_)));
        assert!(forms.has_news(Duration::ZERO) && !forms.has_news(Duration::ZERO));
        assert!(matches!(ask(&mut forms, first(), Duration::ZERO), Form::Kept(_)));
    }

    #[test]
    fn thoughts_that_a_reply_begins_in_have_no_form() {
        check(Think::On, true);
        check(Think::Off, false);
    }
}
