//! What Ollama makes of a conversation when a model has no template: that of `{{ .Prompt }}`, under its legacy rules.
//!
//! Neighbouring messages of one role are one. Users' and assistant's texts follow each other with nothing between
//! them; a user's text that only tool results separate from the next one is lost; system texts are lost.

use protocol::{Message, Role};

pub(crate) fn join(messages: &[Message]) -> String {
    let mut text = String::new();
    let mut turn = Turn::default();
    for (role, content) in collate(messages) {
        match role {
            Role::System => turn.end(&mut text),
            Role::User => {
                if !turn.response.is_empty() {
                    turn.end(&mut text);
                }
                turn.prompt = content;
            }
            Role::Assistant => turn.response = content,
            Role::Tool | Role::Other(_) => {}
        }
    }
    turn.end(&mut text);
    text
}

#[derive(Default)]
struct Turn {
    prompt: String,
    response: String,
}

impl Turn {
    fn end(&mut self, text: &mut String) {
        text.push_str(&std::mem::take(&mut self.prompt));
        text.push_str(&std::mem::take(&mut self.response));
    }
}

fn collate(messages: &[Message]) -> Vec<(&Role, String)> {
    let mut collated: Vec<(&Role, String)> = Vec::new();
    for message in messages {
        match collated.last_mut() {
            Some((role, content)) if **role == message.role && message.role != Role::Tool => {
                content.push_str("\n\n");
                content.push_str(&message.content);
            }
            _ => collated.push((&message.role, message.content.clone())),
        }
    }
    collated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(messages: &[(&str, &str)], expected: &str) {
        let message = |(role, content): &(&str, &str)| Message {
            role: Role::parse(role),
            content: (*content).to_owned(),
            ..Message::default()
        };
        let messages: Vec<Message> = messages.iter().map(message).collect();
        assert_eq!(join(&messages), expected);
    }

    #[test]
    fn contents_follow_each_other() {
        check(&[], "");
        check(&[("user", "Why?")], "Why?");
        check(&[("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")], "abc");
        check(&[("user", "a"), ("user", "b"), ("assistant", "c")], "a\n\nbc");
        check(&[("user", "a"), ("system", "s"), ("user", "b")], "ab");
        check(&[("user", "a"), ("tool", "t"), ("user", "b")], "b");
    }
}
