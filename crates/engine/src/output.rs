//! From tokens to what the reader gets: text without half characters, cut at the first stop string, with the
//! log-probabilities of the tokens it was made of. Thinking and tool calls will be split here too.

use std::rc::Rc;

use protocol::{Delta, TokenLogprob};
use text::{StopStrings, Stream, Text};

use crate::executor::Drawn;

pub(crate) struct Output {
    text: Rc<Text>,
    stream: Stream,
    stops: StopStrings,
    /// Of tokens whose text is still held back.
    logprobs: Vec<TokenLogprob>,
}

pub(crate) enum Progress {
    Text(Delta),
    /// A stop string was found; `delta` ends before it.
    Stopped {
        delta: Delta,
        stop: String,
    },
}

impl Output {
    pub fn new(text: &Rc<Text>, stops: Vec<String>) -> Output {
        Output {
            text: Rc::clone(text),
            stream: text.decoder(),
            stops: StopStrings::new(stops),
            logprobs: Vec::new(),
        }
    }

    pub fn push(&mut self, drawn: Drawn) -> Progress {
        self.logprobs.extend(drawn.logprob.map(|logprob| self.with_bytes(logprob)));
        let text = self.stream.push(drawn.token);
        let found = self.stops.push(&text);
        match found.stop {
            Some(stop) => Progress::Stopped { delta: self.delta(found.text), stop },
            None if found.text.is_empty() => Progress::Text(Delta::default()),
            None => Progress::Text(self.delta(found.text)),
        }
    }

    /// All that is held back, when the reply ends without a stop string.
    pub fn finish(&mut self) -> Delta {
        let tail = self.stream.finish();
        let found = self.stops.push(&tail);
        let mut text = found.text;
        if found.stop.is_none() {
            text.push_str(&self.stops.finish());
        }
        self.delta(text)
    }

    fn delta(&mut self, content: String) -> Delta {
        Delta { content, logprobs: std::mem::take(&mut self.logprobs), ..Delta::default() }
    }

    fn with_bytes(&self, mut logprob: TokenLogprob) -> TokenLogprob {
        for choice in std::iter::once(&mut logprob.chosen).chain(&mut logprob.top) {
            choice.bytes = self.text.token_bytes(choice.id).to_vec();
        }
        logprob
    }
}
