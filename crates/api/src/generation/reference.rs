//! How a request names a model: a [`Name`], perhaps with `:local` or `:cloud` behind it.

use store::Name;

/// A model of this machine. Ours are all local, so `:local` says nothing new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub name: Name,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReferenceError {
    Empty,
    Invalid,
    /// The cloud, where we send nothing.
    Cloud,
    BothSources {
        given: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Local,
    Cloud,
}

impl Reference {
    pub(crate) fn parse(given: &str) -> Result<Reference, ReferenceError> {
        let text = given.trim();
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (base, source) = cut_source(text);
        if source.is_some() && cut_source(base).1.is_some() {
            return Err(ReferenceError::BothSources { given: given.to_owned() });
        }
        let name = Name::parse(base).map_err(|_| ReferenceError::Invalid)?;
        match source {
            Some(Source::Cloud) => Err(ReferenceError::Cloud),
            _ => Ok(Reference { name }),
        }
    }
}

fn cut_source(text: &str) -> (&str, Option<Source>) {
    for (suffix, source) in [(":cloud", Source::Cloud), (":local", Source::Local)] {
        if let Some(base) = cut_suffix(text, suffix) {
            return (base, Some(source));
        }
    }
    let has_tag = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
    match cut_suffix(text, "-cloud").filter(|_| has_tag) {
        Some(base) => (base, Some(Source::Cloud)),
        None => (text, None),
    }
}

/// Whatever its case.
fn cut_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let at = text.len().checked_sub(suffix.len())?;
    let is_suffix = text.is_char_boundary(at) && text[at..].eq_ignore_ascii_case(suffix);
    is_suffix.then(|| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, ReferenceError>) {
        let got = Reference::parse(text).map(|reference| reference.name.to_string());
        assert_eq!(got, expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn names_and_sources() {
        check("tiny", Ok("tiny:latest"));
        check(" tiny:LOCAL ", Ok("tiny:latest"));
        check("gpt-oss:20b:local", Ok("gpt-oss:20b"));
        check("", Err(ReferenceError::Empty));
        check("bad name!", Err(ReferenceError::Invalid));
        check("gpt-oss:20b-cloud", Err(ReferenceError::Cloud));
        check("gpt-oss:cloud", Err(ReferenceError::Cloud));
        check("my-cloud", Ok("my-cloud:latest"));
        check("a:local:cloud", Err(ReferenceError::BothSources { given: "a:local:cloud".into() }));
    }
}
