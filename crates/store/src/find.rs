//! Which manifests there are, and under which spelling.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{Name, Store};

/// The usual file system finds a file under any case, so that finding it does not tell how it is spelled.
const IGNORES_CASE: bool = cfg!(any(target_os = "macos", windows));

/// A manifest file.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub path: PathBuf,
    pub is_builtin: bool,
}

impl Store {
    /// The spelling under which this name is stored, part by part; parts that no manifest has stay as they are.
    pub fn resolve(&self, name: &Name) -> Name {
        let own = self.root.join("manifests").join(name.path());
        if !IGNORES_CASE && own.is_file() {
            return name.clone();
        }
        let known: Vec<Name> = self.names().into_keys().collect();
        let parts: [&str; 4] = std::array::from_fn(|at| {
            let wanted = name.parts()[at];
            let spelled = || known.iter().map(|name| name.parts()[at]);
            let exact = spelled().find(|part| *part == wanted);
            exact
                .or_else(|| spelled().find(|part| part.eq_ignore_ascii_case(wanted)))
                .unwrap_or(wanted)
        });
        Name::from_parts(parts).unwrap_or_else(|_| name.clone())
    }

    /// Names of the builtin store give way to equal ones of the root.
    pub(crate) fn names(&self) -> BTreeMap<Name, Found> {
        let mut names = BTreeMap::new();
        for (name, path) in walk(&self.root) {
            names.insert(name, Found { path, is_builtin: false });
        }
        for (name, path) in self.builtin.iter().flat_map(|root| walk(root)) {
            if !names.keys().any(|own: &Name| own.is_same(&name)) {
                names.insert(name, Found { path, is_builtin: true });
            }
        }
        names
    }

    /// Of exactly this spelling.
    pub(crate) fn manifest_path(&self, name: &Name) -> Option<Found> {
        let roots = [(Some(&self.root), false), (self.builtin.as_ref(), true)];
        roots.into_iter().find_map(|(root, is_builtin)| {
            let path = root?.join("manifests").join(name.path());
            path.is_file().then_some(Found { path, is_builtin })
        })
    }
}

/// All manifests below a root: exactly four directories deep, with a name that is one.
pub(crate) fn walk(root: &Path) -> BTreeMap<Name, PathBuf> {
    let mut level = vec![(root.join("manifests"), Vec::new())];
    for _ in 0..4 {
        level = level.iter().flat_map(|(path, parts)| entries(path, parts)).collect();
    }
    let named = level.into_iter().filter(|(path, _)| path.is_file());
    named.filter_map(|(path, parts)| name_of(&parts).map(|name| (name, path))).collect()
}

fn entries(directory: &Path, parts: &[String]) -> Vec<(PathBuf, Vec<String>)> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let named = entries.flatten().filter_map(|entry| {
        let part = entry.file_name().into_string().ok()?;
        // What file managers leave everywhere.
        (!part.starts_with('.')).then(|| (entry.path(), [parts, &[part]].concat()))
    });
    named.collect()
}

fn name_of(parts: &[String]) -> Option<Name> {
    let [host, namespace, model, tag] = parts else {
        return None;
    };
    match Name::from_parts([host, namespace, model, tag]) {
        Ok(name) => Some(name),
        Err(error) => {
            tracing::warn!(%error, "a manifest with a bad name is left out");
            None
        }
    }
}
