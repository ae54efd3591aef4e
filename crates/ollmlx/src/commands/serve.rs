//! `serve`: the server. Binds the address, opens the store, and runs until it is told to end.
//!
//! SIGINT or SIGTERM end it in order: no new connections, runners end, exit code 0. A second one ends it at once; the
//! runners then end by themselves, because their socket closes.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::sync::Arc;

use scheduler::{OwnBinary, Scheduler};
use store::{Pruned, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::background::LISTENING;
use crate::client::host::{Host, switch, variable};
use crate::fault::{Told, told};
use crate::{paths, terminal};

/// Start the server
#[derive(clap::Args)]
#[command(after_help = ENVIRONMENT)]
pub struct Args {
    #[arg(hide = true)]
    pub rest: Vec<String>,
    /// Outlive the terminal, and say on standard output when listening
    #[arg(long, hide = true)]
    background: bool,
}

const ENVIRONMENT: &str = "\
Environment Variables:
      OLLAMA_DEBUG                  Show additional debug information (e.g. OLLAMA_DEBUG=1)
      OLLAMA_HOST                   IP Address for the server (default 127.0.0.1:11434)
      OLLAMA_CONTEXT_LENGTH         Context length to use unless otherwise specified
      OLLAMA_KEEP_ALIVE             The duration that models stay loaded in memory (default \"5m\")
      OLLAMA_MAX_LOADED_MODELS      Maximum number of loaded models
      OLLAMA_MAX_QUEUE              Maximum number of queued requests
      OLLAMA_MODELS                 The path to the models directory
      OLLAMA_NUM_PARALLEL           Maximum number of parallel requests
      OLLAMA_ORIGINS                A comma separated list of allowed origins
      OLLAMA_LLM_LIBRARY            Use this MLX variant (cpu, metal, cuda-12, cuda-13) only
      OLLAMA_LOAD_TIMEOUT           How long to allow model loads to stall before giving up (default \"5m\")
      OLLAMA_NOPRUNE                Do not clear away blobs that no model uses at start
      OLLAMA_GPU_OVERHEAD           Memory to leave to others, in bytes or like \"2GiB\" (default 0)
      OLLMLX_PROMPT_LOOKUP          Draft what followed the same words before; replies stay the same
      OLLMLX_CACHE_DIR              Where computed prompts outlive the server
                                    (default ~/.cache/ollmlx; ~/Library/Caches/ollmlx on macOS)
      OLLMLX_CACHE_SIZE             How much of them, in bytes or like \"20GiB\"; 0 for none (default \"10GiB\")
      OLLMLX_MEMORY_BYTES           What all models together may take, in bytes or like \"24GiB\"
                                    (default: most of what is free when the server starts)
      OLLMLX_MLX_PATH               Where to look for MLX first
      OLLMLX_BUILTIN_MODELS         The folder of the models that come with the program
      OLLMLX_ENGINE                 `scripted` answers with fixed words, to try a client without a model";

/// The settings that the first log line tells.
const SETTINGS: [&str; 20] = [
    "OLLAMA_DEBUG",
    "OLLAMA_HOST",
    "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_KEEP_ALIVE",
    "OLLAMA_MAX_LOADED_MODELS",
    "OLLAMA_MAX_QUEUE",
    "OLLAMA_MODELS",
    "OLLAMA_NUM_PARALLEL",
    "OLLAMA_ORIGINS",
    "OLLAMA_LLM_LIBRARY",
    "OLLAMA_LOAD_TIMEOUT",
    "OLLAMA_NOPRUNE",
    "OLLAMA_GPU_OVERHEAD",
    "OLLMLX_PROMPT_LOOKUP",
    "OLLMLX_CACHE_DIR",
    "OLLMLX_CACHE_SIZE",
    "OLLMLX_MEMORY_BYTES",
    "OLLMLX_MLX_PATH",
    "OLLMLX_BUILTIN_MODELS",
    "OLLMLX_ENGINE",
];

/// What a shell shows of a process that an interrupt ended.
const EXIT_INTERRUPTED: i32 = 130;

pub fn run(args: Args) -> anyhow::Result<()> {
    log_to_stderr();
    let host = Host::from_env();
    if let Some(warning) = &host.warning {
        tracing::warn!("{warning}");
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(&host, args.background))
}

async fn serve(host: &Host, background: bool) -> anyhow::Result<()> {
    let (listener, address) = bind(host).await?;
    let store = Store::open(Store::default_root(), paths::builtin_models())?;
    tracing::info!(settings = settings(), "server config");
    tracing::info!(
        root = %store.root().display(),
        builtin = ?store.builtin_root(),
        "store"
    );
    if !switch("OLLAMA_NOPRUNE") {
        prune(&store);
    }
    let scheduler = Scheduler::new(scheduler::Config::from_env(), Arc::new(OwnBinary::current()?));
    let server = api::Server::new(api::Config::from_env(), store, scheduler);
    let shutdown = signals(background)?;
    tracing::info!(
        pid = std::process::id(),
        "Listening on {address} (version {}, Ollama API {})",
        env!("CARGO_PKG_VERSION"),
        api::OLLAMA_VERSION
    );
    if background {
        terminal::out_line(LISTENING)?;
    }
    server.serve(listener, shutdown).await?;
    tracing::info!("the server has ended");
    Ok(())
}

/// A store that cannot be written is none to clear.
fn prune(store: &Store) {
    match store.prune(Store::PRUNE_AGE) {
        Ok(Pruned { files: 0, .. }) => {}
        Ok(Pruned { files, bytes }) => {
            tracing::info!(files, bytes, "cleared away what no model uses");
        }
        Err(error) => tracing::warn!(%error, "what no model uses stays in the store"),
    }
}

async fn bind(host: &Host) -> Result<(TcpListener, SocketAddr), Told> {
    let bound = async {
        let listener = TcpListener::bind(host.address()).await?;
        let address = listener.local_addr()?;
        io::Result::Ok((listener, address))
    };
    bound.await.map_err(|error| {
        let (reason, hint) = match error.kind() {
            io::ErrorKind::AddrInUse => (
                "bind: address already in use".to_owned(),
                "a server runs there already, which commands will use; another address is set by OLLAMA_HOST",
            ),
            io::ErrorKind::PermissionDenied => (
                "bind: permission denied".to_owned(),
                "ports below 1024 need privileges; another address is set by OLLAMA_HOST",
            ),
            io::ErrorKind::AddrNotAvailable => (
                "bind: cannot assign requested address".to_owned(),
                "OLLAMA_HOST has to name an address of this machine, or 0.0.0.0 for all",
            ),
            _ => (error.to_string(), "OLLAMA_HOST says where to listen, like `127.0.0.1:11434`"),
        };
        told(format!("listen tcp {}: {reason}", host.address())).hint(hint)
    })
}

/// Ready when the server shall end. A background server is not ended by its terminal's going away.
fn signals(background: bool) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        wait_for_end(&mut interrupt, &mut terminate, &mut hangup, background).await;
        tracing::info!("ending; once more ends at once");
        tokio::spawn(async move {
            wait_for_end(&mut interrupt, &mut terminate, &mut hangup, background).await;
            std::process::exit(EXIT_INTERRUPTED);
        });
    })
}

async fn wait_for_end(
    interrupt: &mut Signal,
    terminate: &mut Signal,
    hangup: &mut Signal,
    background: bool,
) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => return,
            _ = terminate.recv() => return,
            _ = hangup.recv() => if !background { return },
        }
    }
}

fn settings() -> String {
    let set = |name: &&str| variable(name).map(|value| format!("{name}={value}"));
    let set: Vec<String> = SETTINGS.iter().filter_map(set).collect();
    if set.is_empty() { "all default".to_owned() } else { set.join(" ") }
}

/// Once per process. OLLAMA_DEBUG 1 shows our own debugging lines, 2 everything.
pub fn log_to_stderr() {
    let level = match variable("OLLAMA_DEBUG").as_deref() {
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => "info",
        Some("2") => "trace",
        Some(_) => "debug,hyper=info,h2=info,rustls=info,reqwest=info",
    };
    // A second subscriber is refused; the first one stays.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(EnvFilter::new(level))
        .try_init();
}
