//! The HTTP server: Ollama's API and OpenAI's, each a dialect of its own over the same words (`protocol`).
//!
//! A request walks one road: guard (origin, host) → table of routes → its route's file in `dialects/` → `scheduler`
//! (or `store`); events come back through the route's `Reply`. No policy lives here and no tensor: which model is
//! loaded, when and where, is the scheduler's business.

mod config;
mod dialects;
mod generation;
mod http;
mod json;
mod server;

pub use config::Config;
pub use server::Server;

/// The release of Ollama whose API this is. Clients compare it with the version that brought a feature they need.
pub const OLLAMA_VERSION: &str = "0.30.0";
