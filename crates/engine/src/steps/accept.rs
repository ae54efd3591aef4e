//! What becomes of a request before anything of it is computed: it is understood, measured against the context and the
//! memory, and put in line; or refused.

use std::time::{Duration, Instant};

use protocol::{Event, Failure, FailureKind, Outbox, Request};

use super::Steps;
use crate::executor::Executor;
use crate::forms::{self, Form};
use crate::output::Output;
use crate::prefix;
use crate::sampling::Sampling;
use crate::sequence::{self, Clock, Sequence};

/// Requests that wait for their forms. Price: a request's text each.
const FORMING_MAX: usize = 256;

impl<E: Executor> Steps<E> {
    /// Waits for its form no longer than this.
    pub(super) fn take(&mut self, request: Request, patience: Duration, out: &mut dyn Outbox) {
        let id = request.id;
        match self.accept(request, patience) {
            Ok(None) => {}
            Ok(Some(answer)) => out.send(id, answer),
            Err(failure) => out.send(id, Event::Failed(failure)),
        }
    }

    /// Those whose forms are understood by now; whether there were any.
    pub(super) fn take_up(&mut self, patience: Duration, out: &mut dyn Outbox) -> bool {
        let news = !self.forming.is_empty() && self.forms.has_news(patience);
        if news {
            for request in std::mem::take(&mut self.forming) {
                self.take(request, Duration::ZERO, out);
            }
        }
        news
    }

    /// Puts a request in line, or answers it at once, or keeps it until its form is understood.
    fn accept(&mut self, request: Request, patience: Duration) -> Result<Option<Event>, Failure> {
        let request = forms::without_forbidden_tools(request);
        let prompt = self.text.render(&request.input, &request.think)?;
        if request.render_only {
            return Ok(Some(Event::Rendered { prompt, images: request.input.images() as u32 }));
        }
        refuse_what_is_missing(&request)?;
        let tokens = self.text.encode_prompt(&prompt, self.text.prompt_kind(&request.input))?;
        let context = sequence::context_tokens(&request.options, self.context_tokens_max);
        check_length(tokens.len(), context)?;
        let context = context.min(self.tokens_that_fit(tokens.len())?);
        let parser = self.text.parser(&request.input, &request.think, &prompt);
        let constraint = match self.forms.form(&request, &prompt, &parser, patience)? {
            Form::Any => None,
            Form::Kept(constraint) => Some(constraint),
            Form::Soon if self.forming.len() < FORMING_MAX => {
                self.forming.push(request);
                return Ok(None);
            }
            Form::Soon => return Err(too_many()),
        };
        if !self.batcher.join(request.id) {
            return Err(too_many());
        }
        self.seeds = self.seeds.wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.note_where_others_part(&tokens);
        let sampling = Sampling::new(&request.options, self.seeds, context);
        let sequence = Sequence {
            prompt_tokens: tokens.len(),
            context_tokens: context,
            keep_tokens: sequence::keep_tokens(&request.options, tokens.len()),
            dropped_tokens: 0,
            draws_max: sequence::draws_max(&request.options, tokens.len(), context),
            is_open_ended: request.options.num_predict.is_none_or(|wanted| wanted <= 0),
            window: sampling.window(&tokens),
            tokens,
            cached_tokens: 0,
            place: None,
            draws: 0,
            breaks: Vec::new(),
            failures: 0,
            sampling,
            draft_tokens_max: sequence::draft_tokens_max(&request.options),
            logprobs: request.logprobs,
            output: Output::new(&self.text, request.options.stop.unwrap_or_default(), parser),
            constraint,
            clock: Clock { admitted: Instant::now(), first_token: None },
        };
        self.sequences.insert(request.id, sequence);
        Ok(None)
    }

    /// The longest sequence that memory has room for when it is alone.
    fn tokens_that_fit(&self, prompt_tokens: usize) -> Result<usize, Failure> {
        let (budget, page_bytes) = (self.executor.budget(), self.executor.page_bytes());
        // The state of the sequence, and one to be kept.
        let (budget, page_tokens) =
            (budget.saturating_sub(2 * self.executor.state_bytes()), self.executor.page_tokens());
        let pages = (budget / page_bytes.max(1)).min(PAGES_COUNTED_MAX);
        let taken =
            |pages: usize| pages * page_bytes + self.executor.lane_bytes(pages * page_tokens);
        let pages = most(pages, |pages| taken(pages) <= budget);
        let tokens = pages.saturating_mul(page_tokens);
        if prompt_tokens < tokens {
            return Ok(tokens);
        }
        let message = format!(
            "the prompt's {prompt_tokens} tokens do not fit: there are {} MiB for keys and values, which is room for {tokens} tokens",
            budget >> 20
        );
        Err(Failure::new(FailureKind::NoRoom, message)
            .hint("shorten the prompt, stop other models, or set `OLLAMA_KV_CACHE_TYPE` to `q8_0`"))
    }

    /// Where only a state can be taken up, one is kept where this prompt leaves those that are still to be computed.
    fn note_where_others_part(&mut self, tokens: &[u32]) {
        if self.executor.state_bytes() == 0 {
            return;
        }
        let page_tokens = self.executor.page_tokens();
        for other in self.sequences.values_mut() {
            let shared = prefix::shared(&other.tokens, tokens) / page_tokens * page_tokens;
            other.add_break(shared);
        }
    }
}

/// More than any model's context has.
const PAGES_COUNTED_MAX: usize = 1 << 32;

/// The largest number up to `end` that fits, of which all smaller ones fit.
fn most(end: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut least, mut end) = (0, end);
    while least < end {
        let middle = end - (end - least) / 2;
        if fits(middle) { least = middle } else { end = middle - 1 }
    }
    least
}

fn too_many() -> Failure {
    Failure::new(FailureKind::Busy, "too many requests wait for this model")
        .hint("try again later, or raise the limit with `OLLAMA_MAX_QUEUE`")
}

fn check_length(prompt_tokens: usize, context_tokens: usize) -> Result<(), Failure> {
    if prompt_tokens == 0 {
        return Err(Failure::invalid("empty prompt"));
    }
    if prompt_tokens >= context_tokens {
        return Err(Failure::invalid(format!(
            "input length ({prompt_tokens} tokens) exceeds the model's maximum context length ({context_tokens} tokens)"
        ))
        .hint("shorten the prompt, or raise `num_ctx` if the model allows it"));
    }
    Ok(())
}

/// A wish that would be ignored is refused instead.
fn refuse_what_is_missing(request: &Request) -> Result<(), Failure> {
    let unsupported =
        |what: &str, hint: &str| Err(Failure::new(FailureKind::Unsupported, what).hint(hint));
    if let protocol::Input::Chat { messages, .. } = &request.input
        && messages.iter().any(|message| !message.images.is_empty())
    {
        return unsupported(
            "this model does not support image input",
            "send text only, or use a vision model",
        );
    }
    Ok(())
}
