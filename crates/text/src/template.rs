//! A model's chat template: a conversation becomes its prompt.

use protocol::{Message, Think, Tool};

use crate::{Files, Result};

#[derive(Debug)]
pub struct ChatTemplate {}

/// What a template may look at.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    pub messages: &'a [Message],
    pub tools: &'a [Tool],
    pub think: &'a Think,
}

impl ChatTemplate {
    /// `None`: the model has no template.
    pub fn load(files: &Files) -> Result<Option<ChatTemplate>> {
        let _ = files;
        Ok(None)
    }

    pub fn render(&self, conversation: Conversation<'_>) -> Result<String> {
        let _ = conversation;
        Ok(String::new())
    }
}
