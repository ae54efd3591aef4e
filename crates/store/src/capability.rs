//! What a model can do, in the words of the API.

use std::fmt;

use crate::Model;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    Completion,
    Tools,
    Insert,
    Vision,
    Embedding,
    Thinking,
    Image,
    Audio,
}

impl Model {
    /// The config's list, else derived from the model's files. Order as the API shows it.
    pub fn capabilities(&self) -> Vec<Capability> {
        unimplemented!()
    }

    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities().contains(&capability)
    }
}

impl Capability {
    pub const ALL: [Capability; 8] = [
        Capability::Completion,
        Capability::Tools,
        Capability::Insert,
        Capability::Vision,
        Capability::Embedding,
        Capability::Thinking,
        Capability::Image,
        Capability::Audio,
    ];

    pub fn parse(text: &str) -> Option<Capability> {
        Capability::ALL.into_iter().find(|capability| capability.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Completion => "completion",
            Capability::Tools => "tools",
            Capability::Insert => "insert",
            Capability::Vision => "vision",
            Capability::Embedding => "embedding",
            Capability::Thinking => "thinking",
            Capability::Image => "image",
            Capability::Audio => "audio",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
