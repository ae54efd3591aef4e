//! One file per command: its `Args` (clap's text is the manual) and its `run`.

pub mod bench;
pub mod bundle;
pub mod convert;
pub mod copy;
pub mod create;
pub mod doctor;
pub mod list;
pub mod ps;
pub mod remove;
pub mod run;
pub mod runner;
pub mod serve;
pub mod show;
pub mod stop;
pub mod version;

use crate::client::Client;

/// A client of a server that answers.
async fn server() -> anyhow::Result<Client> {
    let client = Client::from_env()?;
    client.heartbeat().await?;
    Ok(client)
}
