//! Homes, servers and commands for tests.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes, shorter than a hung test suite.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Of the server's log, when a test fails.
const LOG_LINES_SHOWN: usize = 20;

/// A user's home: empty, and gone after the test.
pub struct Home {
    folder: tempfile::TempDir,
    program: PathBuf,
    variables: Vec<(String, String)>,
}

impl Home {
    pub fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        // What ships with a build must not be seen: tests count models.
        let nothing = folder.path().join("nothing-shipped").display().to_string();
        let program = env!("CARGO_BIN_EXE_ollmlx").into();
        let mut home = Home { folder, program, variables: Vec::new() };
        home.set("OLLMLX_BUILTIN_MODELS", &nothing);
        home.set("OLLMLX_ENGINE", "scripted");
        home.set("TERM", "dumb");
        home
    }

    /// With the engine itself, and `pocket` as it comes with the program. Needs MLX; `cargo xtask mlx` makes it.
    pub fn real() -> Home {
        let mut home = Home::new();
        home.set("OLLMLX_ENGINE", "");
        home.set("OLLMLX_BUILTIN_MODELS", shipped().to_str().unwrap());
        home
    }

    /// Puts the program into a folder of its own, away from the build tree and its libraries. Gives that folder.
    pub fn move_program(&mut self) -> PathBuf {
        let folder = self.path("moved/bin");
        std::fs::create_dir_all(&folder).unwrap();
        let program = folder.join("ollmlx");
        // Not by this process: a child that another test starts meanwhile would hold the file open for writing.
        let copied = Command::new("cp").args([&self.program, &program]).status();
        assert!(copied.is_ok_and(|status| status.success()));
        self.program = program;
        self.path("moved")
    }

    /// Files in the store.
    pub fn stored_files(&self) -> usize {
        let mut left = vec![self.path(".ollama/models")];
        let mut count = 0;
        while let Some(folder) = left.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else {
                    count += 1;
                }
            }
        }
        count
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The binary with this home and nothing else in its environment.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("HOME", self.folder.path());
        command.current_dir(self.folder.path()).envs(self.variables.iter().cloned());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        finish(self.command(arguments), "")
    }
}

/// A store with `pocket` in it, made once for all tests.
fn shipped() -> &'static Path {
    static SHIPPED: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = || {
        let home = Home::new();
        let store = tempfile::tempdir().unwrap();
        let pocket = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/pocket");
        let words =
            ["bundle".as_ref(), pocket.as_os_str(), store.path().as_os_str(), "pocket".as_ref()];
        let done = home.run(&words);
        assert_eq!(done.code, Some(0), "{done}");
        store
    };
    SHIPPED.get_or_init(made).path()
}

/// What a process that has ended left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// `None`: a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    #[track_caller]
    pub fn expect(&self, code: i32, stdout: &str, stderr: &str) {
        let expected = (Some(code), stdout, stderr);
        assert_eq!((self.code, self.stdout.as_str(), self.stderr.as_str()), expected);
    }

    /// Standard error without what only moves a cursor.
    pub fn plain_stderr(&self) -> String {
        plain(&self.stderr)
    }
}

/// Runs a command to its end with text on its standard input.
pub fn finish(mut command: Command, stdin: &str) -> Done {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let text = stdin.to_owned();
    // A command that does not read its input breaks the pipe.
    let writer = std::thread::spawn(move || drop(input.write_all(text.as_bytes())));
    let done = wait(child);
    writer.join().unwrap();
    done
}

/// Waits for a process with piped output; one that hangs is killed and fails the test.
pub fn wait(mut child: Child) -> Done {
    fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it hung; stdout: {:?}, stderr: {:?}", stdout.join(), stderr.join());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.code().is_some() || status.signal().is_some());
    Done { code: status.code(), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// `ollmlx serve` on a free port; ends with the value.
pub struct Server {
    pub child: Child,
    pub address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Also sets the home's OLLAMA_HOST, so that its commands find it.
    pub fn start(home: &mut Home) -> Server {
        let mut command = home.command(&["serve"]);
        command.env("OLLAMA_HOST", "127.0.0.1:0");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let mut address = None;
        for line in lines.by_ref() {
            let line = line.unwrap();
            log.lock().unwrap().push_str(&format!("{line}\n"));
            if let Some((_, rest)) = line.split_once("Listening on ") {
                address = rest.split_whitespace().next().map(str::to_owned);
                break;
            }
        }
        let rest = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                rest.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        let Some(address) = address else {
            let _ = child.kill();
            let status = child.wait();
            panic!("the server ended ({status:?}):\n{}", log.lock().unwrap());
        };
        home.set("OLLAMA_HOST", &address);
        Server { child, address, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its runner processes.
    pub fn runners(&self) -> Vec<u32> {
        children(self.pid())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- the server's log ends so\n{}", last.join("\n"));
        }
    }
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Processes whose parent is `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
    let from_ps = listed.ok().filter(|done| done.status.success()).map(|done| {
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let pair = |line: &str| {
            let mut words = line.split_whitespace().map(|word| word.parse::<u32>().ok());
            Some((words.next()??, words.next()??))
        };
        text.lines().filter_map(pair).collect::<Vec<_>>()
    });
    let pairs = from_ps.unwrap_or_else(|| {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        processes.filter_map(pid).filter_map(|pid| Some((pid, stat(pid)?.1))).collect()
    });
    pairs.into_iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid).collect()
}

/// A process's state letter and parent, where /proc tells.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.rsplit_once(')')?.1.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Whether a process does anything still; one that only waits to be reaped does not.
pub fn is_running(pid: u32) -> bool {
    if Path::new("/proc/self/stat").exists() {
        return stat(pid).is_some_and(|(state, _)| state != 'Z');
    }
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::test_kill_process(pid).is_ok()
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A folder with a small checkpoint in it.
pub fn checkpoint(below: &Path) -> PathBuf {
    let folder = below.join("checkpoint");
    fixtures::materialise(&fixtures::arch(CHECKPOINT), &folder).unwrap();
    folder
}

/// A folder with a reference checkpoint in it, named after the fixture.
pub fn fixture(home: &Home, name: &str) -> PathBuf {
    let folder = home.path(name);
    fixtures::materialise(&fixtures::arch(name), &folder).unwrap();
    folder
}

/// `create` in a folder, without a Modelfile.
#[track_caller]
pub fn create_in(home: &Home, folder: &Path, name: &str) -> Done {
    let mut command = home.command(&["create", name]);
    command.current_dir(folder);
    finish(command, "")
}

const CHECKPOINT: &str = "llama";

/// A Modelfile like the one that the recorded transcripts were made with, but for its template.
pub const MODELFILE: &str = "\
PARAMETER temperature 0
PARAMETER seed 1
SYSTEM You are terse.
LICENSE MIT
MESSAGE user hi
MESSAGE assistant hello
";

/// Makes a model of the small checkpoint.
#[track_caller]
pub fn create(home: &Home, name: &str) {
    let folder = home.path("checkpoint");
    if !folder.exists() {
        checkpoint(&home.path(""));
    }
    let file = home.write("Modelfile", &format!("FROM {}\n{MODELFILE}", folder.display()));
    let done = home.run(&["create", name, "-f", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{done:?}");
}

/// Text without escape sequences.
pub fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(sequence) = rest.strip_prefix('[') {
            let end = sequence.find(|letter: char| letter.is_ascii_alphabetic());
            rest = end.map_or("", |end| &sequence[end + 1..]);
        }
    }
    out + rest
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {:?}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}
