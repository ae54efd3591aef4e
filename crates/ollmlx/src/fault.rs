//! What a command tells its user when it cannot go on: one message, and what to do about it.
//!
//! Commands return `anyhow::Error`; only `main` turns one into text and an exit code, through [`Told::of`].

use std::fmt;

use crate::client;

/// An error meant for a person as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub message: String,
    pub hint: Option<String>,
}

pub fn told(message: impl Into<String>) -> Told {
    Told { message: message.into(), hint: None }
}

impl Told {
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Told {
        self.hint = Some(hint.into());
        self
    }

    /// Message and hint of any error a command may end with.
    pub fn of(error: &anyhow::Error) -> Told {
        if let Some(told) = error.downcast_ref::<Told>() {
            return told.clone();
        }
        if let Some(failure) = error.downcast_ref::<protocol::Failure>() {
            return Told { message: failure.message.clone(), hint: failure.hint.clone() };
        }
        if let Some(client) = error.downcast_ref::<client::Error>() {
            return Told::from(client);
        }
        if let Some(store) = error.downcast_ref::<store::Error>() {
            return Told { message: store.to_string(), hint: store.hint() };
        }
        told(format!("{error:#}"))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Told {}
