//! The line editor: keys, history, the placeholder, and the user's own editor on Ctrl-G.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustyline::completion::Completer;
use rustyline::config::{Builder, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ConditionalEventHandler, Context, Editor as Line, Event, EventContext, EventHandler,
    Helper, KeyCode, KeyEvent, Modifiers, RepeatCount,
};

use super::history::{self, ENTRIES_MAX};
use crate::client::host::{switch, variable};
use crate::fault::{Told, told};
use crate::terminal::reply::{GREY, PLAIN};

const PROMPT: &str = ">>> ";
const PROMPT_UNFINISHED: &str = "... ";
const PLACEHOLDER: &str = "Send a message (/? for help)";
const TAB: &str = "        ";

pub struct Editor {
    line: Line<Watcher, MemHistory>,
    history_file: Option<PathBuf>,
    keep_history: bool,
    is_empty: Rc<Cell<bool>>,
    wants_editor: Arc<AtomicBool>,
    /// What the next line begins with.
    begun: String,
}

/// What came of asking for a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    Line(String),
    /// Ctrl-C, and whether anything had been typed.
    Interrupted {
        was_empty: bool,
    },
    End,
}

impl Editor {
    pub fn new() -> anyhow::Result<Editor> {
        let config: Config = Builder::new()
            .max_history_size(ENTRIES_MAX)?
            .history_ignore_dups(false)?
            .history_ignore_space(false)
            .auto_add_history(false)
            .bracketed_paste(true)
            .build();
        let history = MemHistory::with_config(&config);
        let mut line = Line::with_history(config, history)?;
        let is_empty = Rc::new(Cell::new(true));
        let wants_editor = Arc::new(AtomicBool::new(false));
        line.set_helper(Some(Watcher { is_empty: Rc::clone(&is_empty) }));
        line.bind_sequence(KeyEvent(KeyCode::Tab, Modifiers::NONE), Cmd::Insert(1, TAB.to_owned()));
        line.bind_sequence(KeyEvent::ctrl('J'), Cmd::Newline);
        let open = OpenEditor { wanted: Arc::clone(&wants_editor) };
        line.bind_sequence(KeyEvent::ctrl('G'), EventHandler::Conditional(Box::new(open)));
        let history_file = crate::paths::history();
        for entry in history_file.as_deref().map(history::read).unwrap_or_default() {
            line.add_history_entry(entry)?;
        }
        let keep_history = !switch("OLLAMA_NOHISTORY");
        Ok(Editor {
            line,
            history_file,
            keep_history,
            is_empty,
            wants_editor,
            begun: String::new(),
        })
    }

    pub fn keep_history(&mut self, keep: bool) {
        self.keep_history = keep;
    }

    /// Asks for a line. `unfinished` is a line that goes on with the one before.
    pub fn read(&mut self, unfinished: bool) -> anyhow::Result<Typed> {
        loop {
            let prompt = if unfinished { PROMPT_UNFINISHED } else { PROMPT };
            let begun = std::mem::take(&mut self.begun);
            self.is_empty.set(begun.is_empty());
            match self.line.readline_with_initial(prompt, (&begun, "")) {
                Ok(text) if self.wants_editor.swap(false, Ordering::Relaxed) => self.edit(text),
                Ok(text) => {
                    self.remember(&text);
                    return Ok(Typed::Line(text));
                }
                Err(ReadlineError::Interrupted) => {
                    return Ok(Typed::Interrupted { was_empty: self.is_empty.get() });
                }
                Err(ReadlineError::Eof) => return Ok(Typed::End),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn remember(&mut self, text: &str) {
        if text.is_empty() || !self.keep_history {
            return;
        }
        // A history that cannot be kept is no reason to stop talking.
        let _ = self.line.add_history_entry(text);
        if let Some(file) = &self.history_file
            && let Err(error) = history::append(file, text)
        {
            tracing::debug!(%error, "the history cannot be written");
        }
    }

    /// Lets the user's editor go on with the line.
    fn edit(&mut self, text: String) {
        self.begun = match edited(&text) {
            Ok(edited) => edited,
            Err(told) => {
                crate::terminal::note_line(&format!("error: {told}"));
                text
            }
        };
    }
}

fn edited(text: &str) -> Result<String, Told> {
    let editor = ["OLLAMA_EDITOR", "VISUAL", "EDITOR"].into_iter().find_map(variable);
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let failed = |error: std::io::Error| told(format!("editing a temporary file: {error}"));
    let file = tempfile::Builder::new()
        .prefix("ollmlx-prompt-")
        .suffix(".txt")
        .tempfile()
        .map_err(failed)?;
    std::fs::write(file.path(), text).map_err(failed)?;
    let status = Command::new(program).args(words).arg(file.path()).status().map_err(|error| {
        told(format!(
            "cannot run the editor `{program}`: {error}; set OLLAMA_EDITOR to the one you like"
        ))
    })?;
    if !status.success() {
        return Err(told(format!("the editor ended with {status}")));
    }
    let edited = std::fs::read_to_string(file.path()).map_err(failed)?;
    Ok(edited.trim_end_matches('\n').to_owned())
}

/// Shows the placeholder, and notes whether the line is empty: the editor itself does not tell when it is left.
struct Watcher {
    is_empty: Rc<Cell<bool>>,
}

struct Placeholder;

impl Hint for Placeholder {
    fn display(&self) -> &str {
        PLACEHOLDER
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Watcher {
    type Hint = Placeholder;

    fn hint(&self, line: &str, _position: usize, _context: &Context<'_>) -> Option<Placeholder> {
        self.is_empty.set(line.is_empty());
        line.is_empty().then_some(Placeholder)
    }
}

impl Highlighter for Watcher {
    fn highlight_hint<'h>(&self, hint: &'h str) -> std::borrow::Cow<'h, str> {
        format!("{GREY}{hint}{PLAIN}").into()
    }
}

impl Completer for Watcher {
    type Candidate = String;
}

impl Validator for Watcher {}
impl Helper for Watcher {}

struct OpenEditor {
    wanted: Arc<AtomicBool>,
}

impl ConditionalEventHandler for OpenEditor {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext<'_>) -> Option<Cmd> {
        self.wanted.store(true, Ordering::Relaxed);
        Some(Cmd::AcceptLine)
    }
}
