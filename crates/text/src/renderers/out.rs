//! A prompt while it is written: text of limited size.

use protocol::ToolCall;
use serde_json::Value;

use crate::tokenizer::TEXT_BYTES_MAX;
use crate::{Error, Result};

#[derive(Default)]
pub(super) struct Out {
    text: String,
    /// The size that was too much; from then on nothing is added.
    refused: Option<usize>,
}

impl Out {
    pub fn put<const PARTS: usize>(&mut self, parts: [&str; PARTS]) {
        for part in parts {
            let size = self.text.len() + part.len();
            if self.refused.is_none() && size > TEXT_BYTES_MAX {
                self.refused = Some(size);
            }
            if self.refused.is_none() {
                self.text.push_str(part);
            }
        }
    }

    /// Each of `items`, with `between` between them.
    pub fn join<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        between: &str,
        mut each: impl FnMut(&mut Out, T),
    ) {
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.put([between]);
            }
            each(self, item);
        }
    }

    /// A call's arguments, each with the texts before its name, between name and value, and behind.
    pub fn arguments(
        &mut self,
        call: &ToolCall,
        [before, middle, after]: [&str; 3],
        write: impl Fn(&Value) -> String,
    ) {
        for (name, value) in &call.arguments {
            self.put([before, name, middle, &write(value), after]);
        }
    }

    pub fn finish(self) -> Result<String> {
        match self.refused {
            None => Ok(self.text),
            Some(size) => Err(Error::TooLarge {
                what: "a rendered prompt in bytes",
                size,
                limit: TEXT_BYTES_MAX,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_refused() {
        let mut out = Out::default();
        let half = "x".repeat(TEXT_BYTES_MAX / 2);
        out.put([&half, &half]);
        assert_eq!(out.text.len(), TEXT_BYTES_MAX);
        out.put(["", "y", &half]);
        assert_eq!(out.text.len(), TEXT_BYTES_MAX);
        let size = TEXT_BYTES_MAX + 1;
        assert!(matches!(out.finish(), Err(Error::TooLarge { size: told, .. }) if told == size));
    }
}
