//! What must be on the machine besides Rust, and which package brings it. All that is missing is named in one message.

use anyhow::{Result, bail};
use std::process::{Command, Stdio};

/// One tool: how to see that it is there, and what to install where.
struct Prerequisite {
    name: &'static str,
    probes: &'static [&'static [&'static str]],
    debian: &'static str,
    fedora: &'static str,
    macos: &'static str,
}

const PREREQUISITES: &[Prerequisite] = &[
    Prerequisite {
        name: "a C++ compiler (`c++`)",
        probes: &[&["c++", "--version"]],
        debian: "g++",
        fedora: "gcc-c++",
        macos: "xcode-select --install",
    },
    Prerequisite {
        name: "`make` or `ninja`",
        probes: &[&["make", "--version"], &["ninja", "--version"]],
        debian: "make",
        fedora: "make",
        macos: "xcode-select --install",
    },
    Prerequisite {
        name: "`cmake`",
        probes: &[&["cmake", "--version"]],
        debian: "cmake",
        fedora: "cmake",
        macos: "brew install cmake",
    },
    Prerequisite {
        name: "`python3`",
        probes: &[&["python3", "--version"]],
        debian: "python3",
        fedora: "python3",
        macos: "xcode-select --install",
    },
    Prerequisite {
        name: "pip for `python3`",
        probes: &[&["python3", "-m", "pip", "--version"]],
        debian: "python3-pip",
        fedora: "python3-pip",
        macos: "python3 -m ensurepip --user",
    },
];

/// Refuses with the list of what is missing and the commands that install it.
pub fn check() -> Result<()> {
    check_with(answers)
}

fn check_with(there: impl Fn(&[&str]) -> bool) -> Result<()> {
    let missing: Vec<_> =
        PREREQUISITES.iter().filter(|p| !p.probes.iter().any(|probe| there(probe))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("{}", message(&missing))
}

fn message(missing: &[&Prerequisite]) -> String {
    let names: Vec<_> = missing.iter().map(|p| p.name).collect();
    let list = |of: fn(&Prerequisite) -> &'static str, joint: &str| {
        let mut parts = Vec::new();
        for part in missing.iter().map(|p| of(p)) {
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts.join(joint)
    };
    format!(
        "missing: {}\nhint: Debian, Ubuntu: sudo apt-get install {}\n      Fedora:         sudo dnf install {}\n      macOS:          {}",
        names.join(", "),
        list(|p| p.debian, " "),
        list(|p| p.fedora, " "),
        list(|p| p.macos, " && "),
    )
}

fn answers(probe: &[&str]) -> bool {
    Command::new(probe[0])
        .args(&probe[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(absent: &[&str], expected: &[&str]) {
        let outcome = check_with(|probe| !absent.contains(&probe.join(" ").as_str()));
        match (outcome, expected) {
            (Ok(()), []) => {}
            (Ok(()), _) => panic!("{absent:?} went unnoticed"),
            (Err(error), _) => {
                assert!(!expected.is_empty(), "{error}");
                expected.iter().for_each(|e| assert!(error.to_string().contains(e), "{error}"));
            }
        }
    }

    #[test]
    fn names_what_is_missing_with_its_package() {
        check(&[], &[]);
        check(&["make --version"], &[]);
        check(
            &["cmake --version"],
            &["`cmake`", "apt-get install cmake", "dnf install cmake", "brew install cmake"],
        );
        check(
            &["c++ --version", "python3 --version", "python3 -m pip --version"],
            &[
                "C++ compiler",
                "`python3`",
                "apt-get install g++ python3 python3-pip",
                "dnf install gcc-c++ python3 python3-pip",
            ],
        );
        check(
            &["c++ --version", "cmake --version", "python3 --version"],
            &["xcode-select --install && brew install cmake"],
        );
        check(&["make --version", "ninja --version"], &["`make` or `ninja`"]);
    }
}
