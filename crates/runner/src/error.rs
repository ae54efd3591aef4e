//! Why serving ended other than by a wish of the server.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "standard input is not the socket of a server; this command is started by `ollmlx serve`"
    )]
    NotAChild(#[source] io::Error),
    #[error(
        "the server is version {server} and this runner is {runner}: the program was replaced, restart the server"
    )]
    Version { server: String, runner: String },
    #[error("the server sent something unexpected: {0}")]
    Protocol(String),
    #[error("the connection to the server broke: {0}")]
    Connection(#[from] io::Error),
    /// Its requests have been told.
    #[error("the engine panicked: {0}")]
    Panicked(String),
}
