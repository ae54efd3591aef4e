//! `pocket --evaluate`: the held-out sets, answered greedily by the release program over HTTP, with the weights as they
//! are and in 8 and 4 bits. Fails where a skill misses its mark, or where fewer bits cost more than they may.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::bail;
use fixtures::skills::{self, MARKS, Set};

use super::server::Server;
use crate::build::{must, program, root};

/// Requests that are under way together: as many as the program batches by itself anyway.
const TOGETHER: usize = 4;
const GROUP_SIZE: usize = 64;

/// A kind of weights: its model's name, its bits, and what it may lose to bf16, in percent of all cases.
const KINDS: [(&str, Option<usize>, f64); 3] =
    [("pocket", None, 0.0), ("pocket-8", Some(8), 1.0), ("pocket-4", Some(4), 5.0)];

/// Right answers, by skill, in percent.
type Scores = BTreeMap<String, f64>;

/// `given` is a program that is there already, in place of building.
pub fn run(wanted: &[String], given: Option<PathBuf>) -> anyhow::Result<()> {
    let program = given.map_or_else(program, Ok)?;
    let source = root().join("models/pocket");
    let mut sets = skills::sets(&source.join("heldout"))?;
    sets.retain(|set| wanted.is_empty() || wanted.contains(&set.skill));
    if sets.is_empty() {
        bail!("no such skill; models/pocket/heldout has one file for each");
    }
    let place = root().join("target/pocket-evaluation");
    let _ = std::fs::remove_dir_all(&place);
    let store = place.join("store");
    for (name, bits, _) in KINDS {
        let folder = match bits {
            None => source.clone(),
            Some(bits) => {
                fixtures::quantised(&source, &place.join(name), bits, GROUP_SIZE)?;
                place.join(name)
            }
        };
        let mut bundle = Command::new(&program);
        must(bundle.arg("bundle").arg(folder).arg(&store).arg(name).stdout(Stdio::null()))?;
    }
    let server = Server::start(&program, &store, &place)?;
    let scores = KINDS
        .iter()
        .map(|(name, ..)| sets.iter().map(|set| score(&server, name, set)).collect())
        .collect::<anyhow::Result<Vec<Scores>>>()?;
    print!("{}", table(&scores));
    judge(&scores)
}

fn score(server: &Server, model: &str, set: &Set) -> anyhow::Result<(String, f64)> {
    let (next, right) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> anyhow::Result<()> {
        while let Some(case) = set.cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = server.post("/api/chat", &case.request(model))?;
            right.fetch_add(usize::from(case.is_right(&answer["message"])), Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..TOGETHER).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(_) => bail!("a thread that asks has failed"),
        })
    })?;
    let share = 100.0 * right.into_inner() as f64 / set.cases.len().max(1) as f64;
    Ok((set.skill.clone(), share))
}

fn mean(scores: &Scores) -> f64 {
    scores.values().sum::<f64>() / scores.len().max(1) as f64
}

/// The table of the model card.
fn table(scores: &[Scores]) -> String {
    let mut out =
        String::from("| skill | mark | bf16 | 8 bits | 4 bits |\n|---|---|---|---|---|\n");
    for skill in scores[0].keys() {
        let mark = MARKS.iter().find(|(name, _)| name == skill);
        let mark = mark.map_or_else(String::new, |(_, mark)| format!("{mark:.0}"));
        let cells: Vec<String> = scores.iter().map(|kind| format!("{:.1}", kind[skill])).collect();
        out += &format!("| {} | {mark} | {} |\n", skill.replace('-', " "), cells.join(" | "));
    }
    let cells: Vec<String> = scores.iter().map(|kind| format!("{:.1}", mean(kind))).collect();
    out + &format!("| mean | | {} |\n", cells.join(" | "))
}

fn judge(scores: &[Scores]) -> anyhow::Result<()> {
    let mut faults = Vec::new();
    for (skill, mark) in MARKS {
        if let Some(share) = scores[0].get(skill).filter(|share| **share < mark) {
            faults.push(format!("{skill}: {share:.1} %, below its mark of {mark:.0} %"));
        }
    }
    for (kind, (name, _, allowed)) in scores.iter().zip(KINDS) {
        let lost = mean(&scores[0]) - mean(kind);
        if lost > allowed {
            faults.push(format!("{name} loses {lost:.1} % to bf16; {allowed:.0} % are allowed"));
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shares: [f64; 3], expected: Option<&str>) {
        let scores = shares.map(|share| Scores::from([("json".to_owned(), share)]));
        let got = judge(&scores).err().map(|error| error.to_string());
        assert_eq!(got.as_deref(), expected);
    }

    #[test]
    fn marks_and_losses() {
        check([100.0, 99.5, 96.0], None);
        check([95.0, 95.0, 95.0], None);
        check([94.0, 94.0, 94.0], Some("json: 94.0 %, below its mark of 95 %"));
        check([100.0, 98.0, 100.0], Some("pocket-8 loses 2.0 % to bf16; 1 % are allowed"));
        check([100.0, 100.0, 94.0], Some("pocket-4 loses 6.0 % to bf16; 5 % are allowed"));
    }

    #[test]
    fn the_table() {
        let scores = [Scores::from([("json".to_owned(), 100.0), ("dates".to_owned(), 98.25)])];
        let expected = "| skill | mark | bf16 | 8 bits | 4 bits |\n|---|---|---|---|---|\n\
            | dates |  | 98.2 |\n| json | 95 | 100.0 |\n| mean | | 99.1 |\n";
        assert_eq!(table(&scores), expected);
    }
}
