//! From tokens to what the reader gets: text without half characters, cut at the first stop string, with the
//! log-probabilities of the tokens it was made of; and split into content, thinking and tool calls. Stop strings are
//! looked for before the split, in the text as the model wrote it.

use std::rc::Rc;

use protocol::{Delta, TokenLogprob};
use text::parsers::{Parsed, Parser};
use text::{StopStrings, Stream, Text};

use crate::executor::Drawn;

pub(crate) struct Output {
    text: Rc<Text>,
    stream: Stream,
    stops: StopStrings,
    parser: Parser,
    /// Of tokens whose text is still held back.
    logprobs: Vec<TokenLogprob>,
    /// The text of the last token that had one, without the space around it, and how often it came again.
    repeated: (String, usize),
}

/// A reply whose tokens say the same so often in a row has lost its thread. Price: a line of so many equal characters,
/// each a token of its own, is not written to its end.
pub(crate) const REPEATS_MAX: usize = 100;

pub(crate) enum Progress {
    Text(Delta),
    /// A stop string was found; `delta` ends before it.
    Stopped {
        delta: Delta,
        stop: String,
    },
}

impl Output {
    pub fn new(text: &Rc<Text>, stops: Vec<String>, parser: Parser) -> Output {
        Output {
            text: Rc::clone(text),
            stream: text.decoder_for(&parser),
            stops: StopStrings::new(stops),
            parser,
            logprobs: Vec::new(),
            repeated: (String::new(), 0),
        }
    }

    /// How often the last piece of text has come again without any other between.
    pub fn repeats(&self) -> usize {
        self.repeated.1
    }

    pub fn push(&mut self, drawn: Drawn) -> Progress {
        self.logprobs.extend(drawn.logprob.map(|logprob| self.with_bytes(logprob)));
        let text = self.stream.push(drawn.token);
        self.count_repeats(&text);
        let found = self.stops.push(&text);
        let mut parsed = self.parser.push(&found.text);
        match found.stop {
            Some(stop) => {
                parsed.append(self.parser.finish());
                Progress::Stopped { delta: self.delta(parsed), stop }
            }
            None if found.text.is_empty() => Progress::Text(Delta::default()),
            None => Progress::Text(self.delta(parsed)),
        }
    }

    /// All that is held back, when the reply ends without a stop string.
    pub fn finish(&mut self) -> Delta {
        let tail = self.stream.finish();
        let found = self.stops.push(&tail);
        let mut parsed = self.parser.push(&found.text);
        if found.stop.is_none() {
            parsed.append(self.parser.push(&self.stops.finish()));
        }
        parsed.append(self.parser.finish());
        self.delta(parsed)
    }

    fn count_repeats(&mut self, text: &str) {
        let (last, count) = &mut self.repeated;
        match text.trim() {
            _ if text.is_empty() => {}
            same if same == last => *count += 1,
            other => self.repeated = (other.to_owned(), 0),
        }
    }

    fn delta(&mut self, parsed: Parsed) -> Delta {
        Delta {
            thinking: parsed.thinking,
            content: parsed.content,
            tool_calls: parsed.calls,
            logprobs: std::mem::take(&mut self.logprobs),
        }
    }

    fn with_bytes(&self, mut logprob: TokenLogprob) -> TokenLogprob {
        for choice in std::iter::once(&mut logprob.chosen).chain(&mut logprob.top) {
            choice.bytes = self.text.token_bytes(choice.id).to_vec();
        }
        logprob
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Input, Message, Think, TokenChoice, Tool, ToolFunction};
    use serde_json::{Value, json};
    use text::Files;

    use super::*;

    /// Every piece is a token of its own; those in `<|…|>` are special ones, which a reader does not see.
    const PIECES: &[&str] = &[
        "<think>",
        "</think>",
        "<|tool_call|>",
        "<|/tool_call|>",
        "{\"name\": \"f\"}",
        "a",
        "b",
        " ",
        "stop",
        "<|other|>",
    ];

    fn output(stops: &[&str]) -> Output {
        let added = PIECES.iter().enumerate().map(|(id, piece)| {
            json!({"id": id, "content": piece, "special": piece.starts_with("<|"), "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        });
        let tokenizer = json!({
            "added_tokens": added.collect::<Value>(),
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": {}, "merges": []},
        });
        let template = "{% if tools %}<|tool_call|>{% endif %}<think></think>";
        let text = Text::from_files(&Files::from_texts([
            ("tokenizer.json", tokenizer.to_string()),
            ("chat_template.jinja", template.to_owned()),
        ]));
        let text = Rc::new(text.unwrap());
        let function =
            ToolFunction { name: "f".into(), description: String::new(), parameters: Value::Null };
        let input = Input::Chat {
            messages: vec![Message::default()],
            tools: vec![Tool { kind: "function".into(), function }],
            template: None,
        };
        let parser = text.parser(&input, &Think::On, "x");
        Output::new(&text, stops.iter().map(|stop| (*stop).to_owned()).collect(), parser)
    }

    fn drawn(piece: &str) -> Drawn {
        let token = PIECES.iter().position(|known| *known == piece).unwrap() as u32;
        let chosen = TokenChoice { id: token, bytes: Vec::new(), logprob: 0.0 };
        Drawn { token, logprob: Some(TokenLogprob { chosen, top: Vec::new() }) }
    }

    /// What a reply of these tokens comes to, and how many log-probabilities each delta brings.
    #[track_caller]
    fn check(pieces: &[&str], stops: &[&str], expected: (&str, &str, usize), counts: &[usize]) {
        let mut output = output(stops);
        let mut deltas = Vec::new();
        let mut stopped = false;
        for piece in pieces {
            match output.push(drawn(piece)) {
                Progress::Text(delta) => deltas.push(delta),
                Progress::Stopped { delta, .. } => {
                    deltas.push(delta);
                    stopped = true;
                    break;
                }
            }
        }
        if !stopped {
            deltas.push(output.finish());
        }
        let join = |part: fn(&Delta) -> &str| deltas.iter().map(part).collect::<String>();
        let calls: usize = deltas.iter().map(|delta| delta.tool_calls.len()).sum();
        let (thinking, content) = (join(|delta| &delta.thinking), join(|delta| &delta.content));
        assert_eq!((thinking.as_str(), content.as_str(), calls), expected);
        assert_eq!(deltas.iter().map(|delta| delta.logprobs.len()).collect::<Vec<_>>(), counts);
    }

    #[test]
    fn replies_are_split() {
        check(&["<think>", "a", "</think>", "b"], &[], ("a", "b", 0), &[1, 1, 1, 1, 0]);
        let call = "{\"name\": \"f\"}";
        check(&["a", "<|tool_call|>", call, "<|/tool_call|>"], &[], ("", "a", 1), &[1, 1, 1, 1, 0]);
        // A call that is cut off is content.
        check(&["a", "<|tool_call|>", "b"], &[], ("", "a<|tool_call|>b", 0), &[1, 1, 1, 0]);
        check(&["a", "<|other|>", "b"], &[], ("", "ab", 0), &[1, 0, 2, 0]);
    }

    #[test]
    fn stop_strings_end_what_is_not_yet_split() {
        check(&["<think>", "a", "stop", "b"], &["stop"], ("a", "", 0), &[1, 1, 1]);
        check(&["a", " ", "stop"], &["stop"], ("", "a ", 0), &[1, 1, 1]);
        check(&["<think>", "a", "</think>", "b"], &["k>"], ("", "<thin", 0), &[1]);
    }

    #[test]
    fn what_comes_again_is_counted() {
        let check = |pieces: &[&str], expected: usize| {
            let mut output = output(&[]);
            for piece in pieces {
                output.push(drawn(piece));
            }
            assert_eq!(output.repeats(), expected, "{pieces:?}");
        };
        check(&["a"], 0);
        check(&["a", "a", "a"], 2);
        check(&["a", "a", "b"], 0);
        check(&["a", " ", "a"], 0);
        // Space counts from the beginning; what is not shown does not count.
        check(&[" ", " "], 2);
        check(&["a", "<|other|>", "a"], 1);
    }
}
