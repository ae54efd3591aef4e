//! Finds the first stop string in streamed text.

#[derive(Clone, Debug, Default)]
pub struct StopStrings {}

/// What a piece of text came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Text that is certainly before any stop string.
    pub text: String,
    /// The stop string that was found; nothing after it counts.
    pub stop: Option<String>,
}

impl StopStrings {
    /// Empty strings are ignored.
    pub fn new<S: AsRef<str>>(stops: impl IntoIterator<Item = S>) -> StopStrings {
        let _ = stops.into_iter().count();
        StopStrings {}
    }

    pub fn push(&mut self, text: &str) -> Stopped {
        Stopped { text: text.to_owned(), stop: None }
    }

    /// What was held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
