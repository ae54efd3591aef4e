//! What the environment says about serving, read once at start.

use std::env;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `OLLAMA_ORIGINS`: web pages that may talk to us besides those of this machine.
    pub origins: Vec<String>,
    /// `OLLAMA_NO_CLOUD`: told to clients. There is no cloud here either way.
    pub no_cloud: bool,
}

impl Config {
    pub fn from_env() -> Config {
        let text = |name| env::var(name).unwrap_or_default();
        Config::from_texts(&text("OLLAMA_ORIGINS"), &text("OLLAMA_NO_CLOUD"))
    }

    fn from_texts(origins: &str, no_cloud: &str) -> Config {
        let origins = trimmed(origins).split(',').map(str::trim).filter(|text| !text.is_empty());
        Config {
            origins: origins.map(str::to_owned).collect(),
            no_cloud: is_true(trimmed(no_cloud)),
        }
    }
}

/// Without the spaces and quotes that shells and service files leave around.
fn trimmed(text: &str) -> &str {
    text.trim().trim_matches(['"', '\'']).trim()
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(origins: &str, no_cloud: &str, expected: (&[&str], bool)) {
        let config = Config::from_texts(origins, no_cloud);
        assert_eq!(
            (config.origins.as_slice(), config.no_cloud),
            (
                expected.0.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>().as_slice(),
                expected.1
            )
        );
    }

    #[test]
    fn values_as_people_write_them() {
        check("", "", (&[], false));
        check(" \"http://a.example, app://x\" ", "1", (&["http://a.example", "app://x"], true));
        check("*", "false", (&["*"], false));
    }
}
