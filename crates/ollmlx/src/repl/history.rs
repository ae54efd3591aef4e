//! The prompt's history on disk: one line per entry, shared with Ollama, whose file it is.

use std::io::{self, Write};
use std::path::Path;

/// Entries kept.
pub const ENTRIES_MAX: usize = 100;
/// A history file longer than this is not ours; it is left alone.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The last entries; a file that cannot be read is an empty history.
pub fn read(file: &Path) -> Vec<String> {
    if std::fs::metadata(file).map_or(true, |facts| facts.len() > FILE_BYTES_MAX) {
        return Vec::new();
    }
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let entries: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let first = entries.len().saturating_sub(ENTRIES_MAX);
    entries[first..].iter().map(|&entry| entry.to_owned()).collect()
}

/// Adds an entry to what is there now (another prompt may write too), at once or not at all. An entry of several
/// lines becomes one line.
pub fn append(file: &Path, entry: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut entries = read(file);
    entries.push(entry.replace(['\n', '\r'], " "));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    for entry in entries.iter().skip(entries.len().saturating_sub(ENTRIES_MAX)) {
        writeln!(new, "{entry}")?;
    }
    new.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hundred_entries_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("below/history");
        assert_eq!(read(&file), Vec::<String>::new());
        for index in 0..150 {
            append(&file, &format!("entry\n{index}")).unwrap();
        }
        let kept = read(&file);
        assert_eq!(
            (kept.len(), kept[0].as_str(), kept[99].as_str()),
            (100, "entry 50", "entry 149")
        );
        std::fs::write(&file, b"one\n\n\xff two\n").unwrap();
        assert_eq!(read(&file), ["one", "\u{fffd} two"]);
    }
}
