//! Real Ollama's command line transcripts, replayed in their order against one server.
//!
//! The binary is called by the name `ollama`. What a transcript has by chance (times, sizes, digests, a model's words,
//! frames of a spinner) is compared as a placeholder. Every transcript is either replayed or listed with the reason
//! why not; a listed one that would pass fails the test.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Home, Server, checkpoint, finish, plain};

const MANUAL: &str = "the manual is our own";
const GGUF: &str = "it reads a GGUF file";
const REGISTRY: &str = "registries are not there yet";
const OTHER_MODEL: &str =
    "it tells facts of the recorded model's GGUF file; the tables are tested where they are made";

/// Transcripts that are not compared, and why. Those of whole groups are in [`group`].
const NOT_REPLAYED: [(&str, &str); 13] = [
    ("no-arguments", "without arguments the manual is shown, not a menu"),
    (
        "bad-host",
        "it needs the default port to be free; the address rules have a test of their own",
    ),
    ("create", GGUF),
    ("create-again", GGUF),
    ("create-quantize", GGUF),
    ("create-quantize-bad", GGUF),
    ("show", OTHER_MODEL),
    ("show-verbose", OTHER_MODEL),
    ("show-modelfile", OTHER_MODEL),
    ("show-parameters", "stop words come from a known template there"),
    ("run-unknown", REGISTRY),
    ("server-off-pull", REGISTRY),
    ("server-off-push", REGISTRY),
];

fn group(name: &str) -> Option<&'static str> {
    if name == "help" || name.starts_with("help-") {
        return Some(MANUAL);
    }
    (name.starts_with("pull-") || name.starts_with("push-")).then_some(REGISTRY)
}

struct Golden {
    name: String,
    seq: u64,
    transcript: Value,
}

fn goldens() -> Vec<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/goldens/cli");
    let read = |path: PathBuf| {
        let transcript: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let name = transcript["name"].as_str().unwrap().to_owned();
        Golden { name, seq: transcript["seq"].as_u64().unwrap(), transcript }
    };
    let mut goldens: Vec<Golden> =
        std::fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap().path())).collect();
    goldens.sort_by_key(|golden| golden.seq);
    goldens
}

#[test]
fn transcripts() {
    let listed: BTreeMap<&str, &str> = NOT_REPLAYED.into_iter().collect();
    let mut home = Home::new();
    // Recorded without a server means without one.
    home.set("OLLMLX_AUTOSTART", "0");
    let server = Server::start(&mut home);
    let checkpoint = checkpoint(&home.path(""));
    std::fs::create_dir(home.path("work")).unwrap();
    let mut wrong = Vec::new();
    let mut replayed = 0;
    for golden in goldens() {
        let outcome = replay(&golden, &home, &server.address, &checkpoint);
        let excuse = listed.get(golden.name.as_str()).copied().or_else(|| group(&golden.name));
        match (outcome, excuse) {
            (Ok(()), None) => replayed += 1,
            (Err(_), Some(_)) => {}
            (Err(difference), None) => wrong.push(format!("{}: {difference}", golden.name)),
            (Ok(()), Some(reason)) => {
                wrong.push(format!("{} would pass, but is listed: {reason}", golden.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(replayed >= 45, "only {replayed} were replayed");
}

fn replay(golden: &Golden, home: &Home, address: &str, checkpoint: &Path) -> Result<(), String> {
    let work = home.path("work");
    let fill = |text: &str| {
        let stand_in = checkpoint.display().to_string();
        text.replace("$FIX/tiny-llama-f16.gguf", &stand_in)
            .replace("$TMP", &work.display().to_string())
            .replace("$HOST", address)
    };
    let transcript = &golden.transcript;
    for (file, text) in transcript["files"].as_object().unwrap() {
        std::fs::write(work.join(file), fill(text.as_str().unwrap())).unwrap();
    }
    let mut arguments: Vec<String> = transcript["argv"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| fill(word.as_str().unwrap()))
        .collect();
    let mut command = home.command(&arguments.split_off(1));
    command.arg0(&arguments[0]).current_dir(&work);
    for (name, value) in transcript["env"].as_object().unwrap() {
        command.env(name, fill(value.as_str().unwrap()));
    }
    let done = finish(command, transcript["stdin"].as_str().unwrap());
    let text = |key: &str| transcript[key].as_str().unwrap();
    let expected = normal(&golden.name, text("stdout"), text("stderr"));
    let got = normal(
        &golden.name,
        &done.stdout.replace(address, "$HOST"),
        &done.stderr.replace(address, "$HOST"),
    );
    let code = transcript["exit_code"].as_i64().unwrap() as i32;
    make_good(&golden.name, home);
    match done.code == Some(code) && got == expected {
        true => Ok(()),
        false => Err(format!("expected {code} {expected:#?}, got {:?} {got:#?}", done.code)),
    }
}

/// What later transcripts expect of those that cannot be replayed.
fn make_good(name: &str, home: &Home) {
    let done = match name {
        "create-quantize" => home.run(&["cp", "tiny", "tinyq4"]),
        "create" => return create_with_template(home),
        _ => return,
    };
    assert_eq!(done.code, Some(0), "{name}: {done}");
}

/// A template is refused for what stands in for the GGUF file, so it is put beside it by hand.
fn create_with_template(home: &Home) {
    let text = std::fs::read_to_string(home.path("work/Modelfile")).unwrap();
    let (head, rest) = text.split_once("TEMPLATE \"\"\"").unwrap();
    let (template, tail) = rest.split_once("\"\"\"\n").unwrap();
    let file = home.write("work/Plain", &format!("{head}{tail}"));
    let done = home.run(&["create", "tiny", "-f", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{done}");
    let store = store::Store::open(home.path(".ollama/models"), None).unwrap();
    let name = store::Name::parse("tiny").unwrap();
    let base = store::Recipe::from_model(&store.model(&name).unwrap());
    let recipe = store::Recipe { template: Some(template.to_owned()), ..base };
    store.create(&name, recipe, &mut |_| {}).unwrap();
}

/// Both outputs, with what is so by chance replaced.
fn normal(name: &str, stdout: &str, stderr: &str) -> (String, Vec<String>) {
    let mut lines: Vec<String> = stdout.lines().map(words).collect();
    if name.starts_with("list") || name.starts_with("ls") {
        // Of models made within a second, the order is chance.
        lines[1..].sort();
    }
    let is_reply = name.starts_with("run-") && !stdout.is_empty();
    let stdout = match is_reply {
        true => format!("<reply>{}", &stdout[stdout.trim_end().len()..]),
        false => lines.join("\n") + if stdout.ends_with('\n') { "\n" } else { "" },
    };
    (stdout, steps(stderr))
}

/// What is left on the screen, without hints (which are ours alone) and log lines.
fn steps(stderr: &str) -> Vec<String> {
    let frame_start = "\x1b[?2026h";
    let last_frame = stderr.rfind(frame_start).map_or(stderr, |at| &stderr[at..]);
    let mut steps: Vec<String> = plain(last_frame)
        .lines()
        .map(words)
        .filter(|line| !line.is_empty() && !line.starts_with("hint: ") && !line.contains(" INFO "))
        .collect();
    // How many layers a model has depends on where it came from.
    steps.dedup();
    steps
}

/// A line's words, with placeholders; the blanks between columns depend on what is in them.
fn words(line: &str) -> String {
    const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace().filter(|word| !FRAMES.contains(word)) {
        let follows_number = words.last().is_some_and(|before| before == "<n>");
        if follows_number && ["B", "KB", "MB", "GB"].contains(&word) {
            words.pop();
            words.push("<size>".to_owned());
        } else {
            words.push(placeholder(word));
        }
    }
    without_time(&words.join(" "))
}

/// A row of a table ends in a time.
fn without_time(line: &str) -> String {
    let is_time = line.ends_with(" ago") || line.ends_with(" from now");
    match line.rsplit_once("<size> ") {
        Some((row, _)) if is_time => format!("{row}<size> <time>"),
        _ => line.to_owned(),
    }
}

fn placeholder(word: &str) -> String {
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let digest = word.strip_prefix("sha256:").is_some_and(|hex| is_hex(hex, 64));
    let number = word.trim_end_matches("µs").trim_end_matches("ms").trim_end_matches('s');
    if digest {
        "<digest>".to_owned()
    } else if is_hex(word, 12) {
        "<id>".to_owned()
    } else if word.split('.').count() == 3
        && word.split('.').all(|part| part.parse::<u32>().is_ok())
    {
        "<version>".to_owned()
    } else if number.parse::<f64>().is_ok() {
        "<n>".to_owned()
    } else {
        word.to_owned()
    }
}
