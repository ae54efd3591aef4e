//! The two servers: how each is started, and how it is asked.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Longer than loading takes.
const PATIENCE: Duration = Duration::from_secs(120);

const MODEL: &str = "serving";

/// Tokens that one sequence may have, and sequences at once.
const CONTEXT: usize = 4096;
const PARALLEL: usize = 8;

/// How to ask for a reply of `length` tokens to a prompt of these words.
pub struct Question {
    pub url: String,
    pub body: Value,
    pub has_text: fn(&Value) -> bool,
}

pub trait Server {
    fn start(&mut self) -> anyhow::Result<()>;
    fn stop(&mut self);
    /// `seed` makes replies differ that have the same prompt.
    fn question(&self, prompt: &[u32], length: usize, seed: u32) -> Question;
    fn is_up_at(&self) -> String;
    /// Tells why if the process has ended.
    fn check(&mut self) -> anyhow::Result<()>;
}

pub struct Ours {
    program: PathBuf,
    home: PathBuf,
    threads: usize,
    port: u16,
    child: Option<Child>,
}

impl Ours {
    /// Puts the checkpoint into a store of its own.
    pub fn prepare(
        program: &Path,
        checkpoint: &Path,
        home: &Path,
        threads: usize,
    ) -> anyhow::Result<Ours> {
        let modelfile = home.join("Modelfile");
        let text = format!("FROM {}\nTEMPLATE {{{{ .Prompt }}}}\n", checkpoint.display());
        std::fs::write(&modelfile, text)?;
        let mut ours = Ours {
            program: program.into(),
            home: home.into(),
            threads,
            port: free_port()?,
            child: None,
        };
        ours.start()?;
        wait_until_up(&mut ours)?;
        let file = modelfile.as_os_str();
        let made = ours.command().args(["create", MODEL, "-f"]).arg(file).output()?;
        ours.stop();
        if !made.status.success() {
            bail!("`ollmlx create`: {}", String::from_utf8_lossy(&made.stderr));
        }
        Ok(ours)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("HOME", &self.home).env("OLLAMA_HOST", format!("127.0.0.1:{}", self.port));
        command.env("OLLAMA_NUM_PARALLEL", PARALLEL.to_string());
        command.env("OLLAMA_CONTEXT_LENGTH", CONTEXT.to_string());
        command.env("OLLMLX_NUM_THREADS", self.threads.to_string());
        command
    }
}

impl Server for Ours {
    fn start(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.home.join("server.log"))?;
        let mut command = self.command();
        command.arg("serve").stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().context("cannot start `ollmlx serve`")?);
        Ok(())
    }

    fn stop(&mut self) {
        end(&mut self.child);
    }

    fn question(&self, prompt: &[u32], length: usize, seed: u32) -> Question {
        let words: Vec<String> = prompt.iter().map(|id| format!("w{id}")).collect();
        let options = json!({"num_predict": length, "temperature": 1.0, "seed": seed});
        let body =
            json!({"model": MODEL, "prompt": words.join(" "), "raw": true, "options": options});
        let has_text =
            |line: &Value| line["response"].as_str().is_some_and(|text| !text.is_empty());
        Question { url: format!("http://127.0.0.1:{}/api/generate", self.port), body, has_text }
    }

    fn is_up_at(&self) -> String {
        format!("http://127.0.0.1:{}/api/version", self.port)
    }

    fn check(&mut self) -> anyhow::Result<()> {
        ended(&mut self.child)
    }
}

pub struct Llama {
    program: PathBuf,
    gguf: PathBuf,
    threads: usize,
    port: u16,
    child: Option<Child>,
}

impl Llama {
    pub fn new(program: &Path, gguf: &Path, threads: usize) -> Llama {
        let port = free_port().unwrap_or(18_080);
        Llama { program: program.into(), gguf: gguf.into(), threads, port, child: None }
    }
}

impl Server for Llama {
    fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.gguf).args(["--host", "127.0.0.1"]);
        command.args(["--port", &self.port.to_string(), "-t", &self.threads.to_string()]);
        command.args(["-c", &(CONTEXT * PARALLEL).to_string(), "-np", &PARALLEL.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().context("cannot start llama-server")?);
        Ok(())
    }

    fn stop(&mut self) {
        end(&mut self.child);
    }

    fn question(&self, prompt: &[u32], length: usize, seed: u32) -> Question {
        let body = json!({
            "prompt": prompt, "n_predict": length, "temperature": 1.0, "seed": seed,
            "stream": true, "cache_prompt": true, "ignore_eos": true,
        });
        // The last line has the figures and no token.
        let has_text = |line: &Value| line["stop"] == false;
        Question { url: format!("http://127.0.0.1:{}/completion", self.port), body, has_text }
    }

    fn is_up_at(&self) -> String {
        format!("http://127.0.0.1:{}/health", self.port)
    }

    fn check(&mut self) -> anyhow::Result<()> {
        ended(&mut self.child)
    }
}

/// Until it answers, by plain attempts: the caller's runtime may not run yet.
pub fn wait_until_up(server: &mut dyn Server) -> anyhow::Result<()> {
    let url = server.is_up_at();
    let address =
        url.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
    let until = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(&address).is_err() {
        server.check()?;
        if Instant::now() > until {
            bail!("nothing listens at {address}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn ended(child: &mut Option<Child>) -> anyhow::Result<()> {
    match child.as_mut().map(Child::try_wait) {
        Some(Ok(Some(status))) => bail!("the server ended with {status}"),
        _ => Ok(()),
    }
}

/// Kindly at first, so that what is to be remembered is written; then it insists.
fn end(child: &mut Option<Child>) {
    let Some(mut child) = child.take() else { return };
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Drop for Ours {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
