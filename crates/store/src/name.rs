//! How a model is called: `[scheme://]host/namespace/model:tag`, read from the right.
//!
//! Parts that are left out have defaults, so `llama3.2` is `registry.ollama.ai/library/llama3.2:latest`. A `Name` is
//! always whole and valid; being valid also makes it a safe path below `manifests/`, on every file system.

use std::fmt;
use std::path::PathBuf;

const HOST_DEFAULT: &str = "registry.ollama.ai";
const NAMESPACE_DEFAULT: &str = "library";
const TAG_DEFAULT: &str = "latest";

/// Longest host. Price: this many bytes of one directory name, which file systems cut at 255 anyway.
const HOST_BYTES_MAX: usize = 350;
/// Longest namespace, model or tag.
const PART_BYTES_MAX: usize = 80;

/// Which model is meant. `==` compares the spelling; [`Name::is_same`] what clients mean.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    host: String,
    namespace: String,
    model: String,
    tag: String,
    insecure: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no model name: {why}")]
pub struct NameError {
    /// As the user wrote it.
    pub given: String,
    pub why: String,
}

impl NameError {
    pub fn hint(&self) -> &'static str {
        "a name looks like `llama3.2`, `llama3.2:3b` or `host/namespace/model:tag`"
    }
}

#[derive(Clone, Copy)]
enum Part {
    Host,
    Namespace,
    Model,
    Tag,
}

impl Name {
    pub fn parse(text: &str) -> Result<Name, NameError> {
        let bad = |why: String| NameError { given: text.to_owned(), why };
        let (rest, tag) = match text.rfind(':') {
            Some(at) if !text[at..].contains('/') => (&text[..at], &text[at + 1..]),
            _ => (text, TAG_DEFAULT),
        };
        let (rest, model) = cut_last(rest);
        let (rest, namespace) = rest.map_or((None, NAMESPACE_DEFAULT), cut_last);
        let (scheme, host) = split_scheme(rest.unwrap_or(HOST_DEFAULT));
        for (part, value) in [
            (Part::Host, host),
            (Part::Namespace, namespace),
            (Part::Model, model),
            (Part::Tag, tag),
        ] {
            part.check(value).map_err(bad)?;
        }
        Ok(Name {
            host: host.to_owned(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
            insecure: scheme == Some("http"),
        })
    }

    pub(crate) fn from_parts(parts: [&str; 4]) -> Result<Name, NameError> {
        let [host, namespace, model, tag] = parts;
        let kinds = [Part::Host, Part::Namespace, Part::Model, Part::Tag];
        for (kind, value) in kinds.into_iter().zip(parts) {
            kind.check(value).map_err(|why| NameError { given: parts.join("/"), why })?;
        }
        Ok(Name {
            host: host.to_owned(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
            insecure: false,
        })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn model(&self) -> &str {
        &self.model
    }

    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Whether the user wrote `http://`, which registries are asked for only on request.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// All four parts: `registry.ollama.ai/library/llama3.2:latest`.
    pub fn full(&self) -> String {
        let Name { host, namespace, model, tag, .. } = self;
        format!("{host}/{namespace}/{model}:{tag}")
    }

    /// Equal but for upper and lower case.
    pub fn is_same(&self, other: &Name) -> bool {
        self.parts().iter().zip(other.parts()).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }

    pub(crate) fn parts(&self) -> [&str; 4] {
        [&self.host, &self.namespace, &self.model, &self.tag]
    }

    /// Below `manifests/`.
    pub(crate) fn path(&self) -> PathBuf {
        self.parts().iter().collect()
    }
}

/// The shortest text that means this name; the tag is always there.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Name { host, namespace, model, tag, .. } = self;
        if !host.eq_ignore_ascii_case(HOST_DEFAULT) {
            write!(f, "{host}/{namespace}/{model}:{tag}")
        } else if !namespace.eq_ignore_ascii_case(NAMESPACE_DEFAULT) {
            write!(f, "{namespace}/{model}:{tag}")
        } else {
            write!(f, "{model}:{tag}")
        }
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        Name::parse(text)
    }
}

/// What lies before and after the last slash.
fn cut_last(text: &str) -> (Option<&str>, &str) {
    match text.rsplit_once('/') {
        Some((before, after)) => (Some(before), after),
        None => (None, text),
    }
}

fn split_scheme(text: &str) -> (Option<&str>, &str) {
    match text.split_once("://") {
        Some((scheme, host)) => (Some(scheme), host),
        None => (None, text),
    }
}

impl Part {
    fn check(self, value: &str) -> Result<(), String> {
        let what = self.name();
        if value.is_empty() {
            return Err(format!("the {what} is empty"));
        }
        if value.len() > self.bytes_max() {
            let (got, limit) = (value.len(), self.bytes_max());
            return Err(format!("the {what} has {got} bytes, the limit is {limit}"));
        }
        let bad = value.char_indices().find(|&(at, c)| !self.allows(at == 0, c));
        match bad {
            Some((_, c)) => Err(format!("the {what} may not contain {c:?} there")),
            None => Ok(()),
        }
    }

    fn allows(self, first: bool, c: char) -> bool {
        let word = c.is_ascii_alphanumeric() || c == '_';
        match (c, self) {
            _ if word => true,
            _ if first => false,
            ('-', _) => true,
            ('.', Part::Namespace) => false,
            ('.', _) => true,
            (':', Part::Host) => true,
            _ => false,
        }
    }

    fn bytes_max(self) -> usize {
        if matches!(self, Part::Host) { HOST_BYTES_MAX } else { PART_BYTES_MAX }
    }

    fn name(self) -> &'static str {
        match self {
            Part::Host => "host",
            Part::Namespace => "namespace",
            Part::Model => "model",
            Part::Tag => "tag",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "registry.ollama.ai/library/";

    /// The shortest and the full text.
    fn check(text: &str, short: &str, full: &str) {
        let name = Name::parse(text).unwrap();
        assert_eq!((name.to_string().as_str(), name.full().as_str()), (short, full), "{text}");
        assert!(name.is_same(&Name::parse(&name.to_string().to_uppercase()).unwrap()));
    }

    fn check_bad(text: &str, why: &str) {
        assert_eq!(Name::parse(text).unwrap_err().why, why, "{text}");
    }

    #[test]
    fn parts_left_out_have_defaults() {
        check("tiny", "tiny:latest", &format!("{FULL}tiny:latest"));
        check("Tiny:3B", "Tiny:3B", &format!("{FULL}Tiny:3B"));
        check("me/tiny", "me/tiny:latest", "registry.ollama.ai/me/tiny:latest");
        check("library/tiny", "tiny:latest", &format!("{FULL}tiny:latest"));
        check("Registry.Ollama.AI/Library/x:1", "x:1", "Registry.Ollama.AI/Library/x:1");
        let (host, hub) = ("127.0.0.1:9/library/tiny:latest", "hf.co/u/R.1-GGUF:Q4_K_M");
        check("127.0.0.1:9/library/tiny", host, host);
        check(hub, hub, hub);
        check("http://h:1/n/m:t", "h:1/n/m:t", "h:1/n/m:t");
        assert!(Name::parse("http://h:1/n/m:t").unwrap().is_insecure());
        assert!(!Name::parse("https://h:1/n/m:t").unwrap().is_insecure());
    }

    #[test]
    fn what_is_no_name() {
        check_bad("", "the model is empty");
        check_bad(":x", "the model is empty");
        check_bad("a:", "the tag is empty");
        check_bad("a//b", "the namespace is empty");
        check_bad("/b", "the namespace is empty");
        check_bad("a/b/c/d", "the host may not contain '/' there");
        check_bad("bad name!", "the model may not contain ' ' there");
        check_bad("a@sha256:00", "the model may not contain '@' there");
        check_bad("n.s/m", "the namespace may not contain '.' there");
        check_bad("-m", "the model may not contain '-' there");
        check_bad("..", "the model may not contain '.' there");
        check_bad("ü", "the model may not contain 'ü' there");
        check_bad(&"m".repeat(81), "the model has 81 bytes, the limit is 80");
        check_bad(&format!("{}/n/m", "h".repeat(351)), "the host has 351 bytes, the limit is 350");
        check(
            &"m".repeat(80),
            &format!("{}:latest", "m".repeat(80)),
            &format!("{FULL}{}:latest", "m".repeat(80)),
        );
    }
}
