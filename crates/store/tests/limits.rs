//! Writes that the system really refuses or ends, in a process of their own: the limit on a file's size stands in for a
//! disk that fills up in the middle of a blob.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use store::{Name, Store};

const ROOT: &str = "STORE_TEST_ROOT";
const LIMIT_BYTES: usize = 64 * 512;

/// Runs [`child`] in a shell that has set limits.
fn run(root: &Path, limits: &str) -> Output {
    let this = std::env::current_exe().unwrap();
    Command::new("sh")
        .args(["-c", &format!("{limits} exec \"$0\" --exact child --nocapture --ignored")])
        .arg(this)
        .env(ROOT, root)
        .output()
        .unwrap()
}

fn blobs(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("blobs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What the limited process does: a small blob, which fits, and a large one, which does not.
#[test]
#[ignore = "run by the other tests in a process of its own"]
fn child() {
    let store = Store::open(std::env::var(ROOT).unwrap(), None).unwrap();
    store.new_layer("x", b"small").unwrap();
    let error = store.new_layer("x", &vec![1; 4 * LIMIT_BYTES]).unwrap_err();
    println!("refused: {error}");
}

#[test]
fn a_refused_write_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), "trap '' XFSZ; ulimit -f 64;");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("refused: cannot write"), "{text}");
    assert_eq!(blobs(root.path()).len(), 1, "only the small one: {:?}", blobs(root.path()));
}

#[test]
fn a_process_killed_in_the_middle_leaves_no_blob() {
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), "ulimit -f 64; ulimit -c 0;");
    assert!(!output.status.success(), "the signal ends it");
    let left = blobs(root.path());
    let complete: Vec<_> = left.iter().filter(|name| name.starts_with("sha256-")).collect();
    assert_eq!(complete.len(), 1, "only the small one: {left:?}");
    let store = Store::open(root.path(), None).unwrap();
    assert!(store.models().unwrap().is_empty());
    // The next one is not disturbed by what is left.
    let whole = store.new_layer("x", &vec![1; 4 * LIMIT_BYTES]).unwrap();
    let config = store::Config::default();
    let name = Name::parse("x").unwrap();
    store.write_manifest(&name, &config, vec![whole.layer]).unwrap().verify().unwrap();
}
