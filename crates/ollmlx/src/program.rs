//! The name this program answers to.
//!
//! Installed under the name `ollama` (a link is enough) it speaks of itself by that name, so that scripts which read
//! Ollama's messages go on working; otherwise it is `ollmlx`.

use std::ffi::OsStr;
use std::path::Path;

pub const NAME: &str = "ollmlx";
pub const STAND_IN: &str = "ollama";

/// `ollmlx`, or `ollama` when called so.
pub fn name() -> &'static str {
    name_of(std::env::args_os().next().as_deref())
}

fn name_of(zeroth: Option<&OsStr>) -> &'static str {
    let stem = zeroth.and_then(|path| Path::new(path).file_stem());
    if stem.is_some_and(|stem| stem == STAND_IN) { STAND_IN } else { NAME }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(zeroth: &str, expected: &str) {
        assert_eq!(name_of(Some(OsStr::new(zeroth))), expected, "{zeroth}");
    }

    #[test]
    fn a_link_named_ollama_is_ollama() {
        check("ollama", "ollama");
        check("/usr/local/bin/ollama", "ollama");
        check("ollmlx", "ollmlx");
        check("target/release/ollmlx", "ollmlx");
        check("ollama-old", "ollmlx");
        assert_eq!(name_of(None), "ollmlx");
    }
}
