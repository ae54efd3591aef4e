//! Where things lie: the user's folder and what ships beside the program.

use std::path::{Path, PathBuf};

use crate::client::host::variable;

/// `~/.ollama`, which is shared with Ollama.
pub fn home() -> Option<PathBuf> {
    Some(PathBuf::from(variable("HOME")?).join(".ollama"))
}

pub fn history() -> Option<PathBuf> {
    Some(home()?.join("history"))
}

pub fn server_log() -> Option<PathBuf> {
    Some(home()?.join("logs").join("server.log"))
}

/// What may be deleted at any time: OLLMLX_CACHE_DIR, else where the system wants such things.
pub fn cache() -> Option<PathBuf> {
    if let Some(folder) = variable("OLLMLX_CACHE_DIR") {
        return Some(folder.into());
    }
    let home = || variable("HOME").map(PathBuf::from);
    let caches = match cfg!(target_os = "macos") {
        true => home()?.join("Library/Caches"),
        false => match variable("XDG_CACHE_HOME") {
            Some(folder) => PathBuf::from(folder),
            None => home()?.join(".cache"),
        },
    };
    Some(caches.join("ollmlx"))
}

/// The models that ship with the program: what OLLMLX_BUILTIN_MODELS says, else `share/ollmlx/models` in the
/// program's folder or one above it, which finds both an installation (`bin/ollmlx`, `share/…`) and a build tree.
pub fn builtin_models() -> Option<PathBuf> {
    if let Some(folder) = variable("OLLMLX_BUILTIN_MODELS") {
        return Some(folder.into());
    }
    let program = std::env::current_exe().ok()?;
    let program = program.canonicalize().unwrap_or(program);
    above(&program, Path::new("share/ollmlx/models"))
}

fn above(file: &Path, wanted: &Path) -> Option<PathBuf> {
    file.ancestors().skip(1).map(|folder| folder.join(wanted)).find(|path| path.is_dir())
}

/// A path as a person reads it: the home folder is `~`.
pub fn shown(path: &Path) -> String {
    let home = variable("HOME").map(PathBuf::from);
    match home.as_deref().and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_models_are_found_above_the_program() {
        let root = tempfile::tempdir().unwrap();
        let wanted = Path::new("share/ollmlx/models");
        let check = |program: &str, expected: Option<&str>| {
            let found = above(&root.path().join(program), wanted);
            assert_eq!(found, expected.map(|path| root.path().join(path)), "{program}");
        };
        check("a/bin/ollmlx", None);
        std::fs::create_dir_all(root.path().join("a/share/ollmlx/models")).unwrap();
        check("a/bin/ollmlx", Some("a/share/ollmlx/models"));
        check("a/release/deps/ollmlx-123", Some("a/share/ollmlx/models"));
        check("b/bin/ollmlx", None);
    }
}
