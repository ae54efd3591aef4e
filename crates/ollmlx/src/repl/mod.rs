//! The conversation: a prompt, commands that begin with a slash, and the session they change.
//!
//! The session's words live here; each reply is one request to `/api/chat` with all of them. What a line means is
//! `input`'s business, how lines are typed `editor`'s.

mod editor;
mod help;
mod history;
mod input;
mod session;
mod settings;

pub use session::Session;

use crate::client::words::Shown;
use crate::terminal::out;
use editor::{Editor, Typed};
use input::{Input, Reader, Set};

/// Whether the conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Prompt,
    Leave,
}

/// Talks until the user leaves.
pub async fn converse(
    mut session: Session,
    shown: &Shown,
    think_is_chosen: bool,
) -> anyhow::Result<()> {
    session.begin(shown, think_is_chosen).await?;
    let mut editor = Editor::new()?;
    let mut reader = Reader::default();
    loop {
        // Nothing else is to be done while the user thinks, so this thread may wait.
        match editor.read(reader.is_unfinished())? {
            Typed::End => return Ok(out("\n")?),
            Typed::Interrupted { was_empty } => {
                reader.reset();
                if was_empty {
                    out("\nUse Ctrl + d or /bye to exit.\n")?;
                }
            }
            Typed::Line(line) => {
                let input = reader.line(&line);
                if let Input::Set(Set::History(keep)) = input {
                    editor.keep_history(keep);
                } else if session.act_unless_interrupted(input).await? == Next::Leave {
                    return Ok(());
                }
            }
        }
    }
}
