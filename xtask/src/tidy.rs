//! Rules that no compiler checks: the arrows between crates as ARCHITECTURE.md draws them, `unsafe` only where it is
//! allowed, no machine's paths or registries in the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::build::{cargo, root};

/// Crates that only tests and `xtask` may use; any crate may have them as dev-dependency.
const TEST_CRATES: &[&str] = &["fixtures"];

/// Crates where `unsafe` may stand.
const UNSAFE_CRATES: &[&str] = &["mlx", "kernels"];

pub fn run(_args: &[String]) -> anyhow::Result<()> {
    let faults: Vec<String> = [arrows()?, unsafe_code()?, places()?].concat();
    if faults.is_empty() {
        return Ok(());
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    bail!("{} fault(s)", faults.len())
}

fn arrows() -> anyhow::Result<Vec<String>> {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let allowed = parse_map(&map)?;
    let output =
        cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).output()?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    Ok(check_arrows(&allowed, &metadata))
}

/// What each room may depend on; `None` is everything.
type Allowed = BTreeMap<String, Option<BTreeSet<String>>>;

/// Reads the table between the `arrows` marks.
fn parse_map(text: &str) -> anyhow::Result<Allowed> {
    let table =
        text.split("<!-- arrows -->").nth(1).and_then(|rest| rest.split("<!-- /arrows -->").next());
    let table = table.context("ARCHITECTURE.md has no table between the arrows marks")?;
    let mut allowed = Allowed::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [room, _, to] = cells[..] else {
            bail!("ARCHITECTURE.md: `{line}` has not three cells")
        };
        let to = (to != "everything").then(|| {
            to.split(',').map(str::trim).filter(|name| *name != "–").map(str::to_owned).collect()
        });
        allowed.insert(room.trim_matches('`').to_owned(), to);
    }
    Ok(allowed)
}

fn check_arrows(allowed: &Allowed, metadata: &serde_json::Value) -> Vec<String> {
    let mut faults = Vec::new();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name =
        |package: &serde_json::Value| package["name"].as_str().unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    for package in packages {
        let from = name(package);
        let Some(room) = allowed.get(&from) else {
            faults.push(format!(
                "crate `{from}` is not on ARCHITECTURE.md's map: draw it there first"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default()
        {
            let to = name(dependency);
            let for_tests = dependency["kind"] == "dev" && TEST_CRATES.contains(&to.as_str());
            let drawn = room.as_ref().is_none_or(|room| room.contains(&to));
            if ours.contains(&to) && !drawn && !for_tests {
                faults.push(format!(
                    "`{from}` depends on `{to}`: an arrow that ARCHITECTURE.md does not draw"
                ));
            }
        }
    }
    faults
}

/// The compiler denies `unsafe` by a lint; this notices a crate that switches the lint off.
fn unsafe_code() -> anyhow::Result<Vec<String>> {
    let hits =
        git_grep(&["-nE", r"allow\(unsafe_code\)|unsafe_code *= *.allow"], &["*.rs", "*.toml"])?;
    let may =
        |line: &str| UNSAFE_CRATES.iter().any(|name| line.starts_with(&format!("crates/{name}/")));
    let own = |line: &str| line.starts_with("xtask/src/tidy.rs");
    Ok(hits
        .lines()
        .filter(|line| !may(line) && !own(line))
        .map(|line| format!("unsafe allowed at {line}"))
        .collect())
}

/// Packages are named, hosts and this machine's folders are not.
fn places() -> anyhow::Result<Vec<String>> {
    let hosts = [
        "py".to_owned() + "pi.org",
        "pythonhos".to_owned() + "ted",
        "registry.npm".to_owned() + "js",
    ];
    let pattern = hosts.join("|").replace('.', r"\.");
    let hits = git_grep(&["-nIE", &pattern], &[":!Cargo.lock"])?;
    Ok(hits.lines().map(|line| format!("a registry's host at {line}")).collect())
}

fn git_grep(options: &[&str], paths: &[&str]) -> anyhow::Result<String> {
    if !Path::new(&root()).join(".git").exists() {
        return Ok(String::new());
    }
    let output = Command::new("git")
        .current_dir(root())
        .arg("grep")
        .args(options)
        .arg("--")
        .args(paths)
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MAP: &str = "<!-- arrows -->\n| `top` | x | everything |\n| `api` | x | store, text |\n| `store` | x | – |\n| `text` | x | – |\n<!-- /arrows -->";

    fn check(from: &str, to: &str, kind: serde_json::Value, faults: usize) {
        let metadata = json!({"packages": [
            {"name": from, "dependencies": [{"name": to, "kind": kind}, {"name": "serde", "kind": null}]},
            {"name": to, "dependencies": []},
        ]});
        let allowed = parse_map(MAP).unwrap();
        let found: Vec<String> = check_arrows(&allowed, &metadata)
            .into_iter()
            .filter(|fault| fault.contains("arrow"))
            .collect();
        assert_eq!(found.len(), faults, "{found:?}");
    }

    #[test]
    fn an_arrow_off_the_map_is_refused() {
        check("api", "store", json!(null), 0);
        check("top", "store", json!(null), 0);
        check("store", "api", json!(null), 1);
        check("store", "api", json!("dev"), 1);
        check("store", "fixtures", json!("dev"), 0);
        check("store", "fixtures", json!(null), 1);
    }

    #[test]
    fn a_crate_off_the_map_is_refused() {
        let metadata = json!({"packages": [{"name": "stranger", "dependencies": []}]});
        assert_eq!(check_arrows(&parse_map(MAP).unwrap(), &metadata).len(), 1);
    }

    #[test]
    fn the_tree_is_tidy() {
        run(&[]).unwrap();
    }
}
