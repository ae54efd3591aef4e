//! The conversation: a prompt, commands that begin with a slash, and the session they change.
//!
//! The session's words live here; each reply is one request to `/api/chat` with all of them. What a line means is
//! `input`'s business, how lines are typed `editor`'s.

mod editor;
mod help;
mod history;
mod input;

use protocol::{OptionError, Options};
use serde_json::{Map, Value, json};

use crate::client::words::{Message, Shown};
use crate::client::{self, Client};
use crate::commands::run::{self, Wishes};
use crate::commands::{list, show};
use crate::fault::Told;
use crate::terminal::reply::{Reply, Style};
use crate::terminal::{self, note, note_line, out, out_line};
use editor::{Editor, Typed};
use input::{Input, Reader, Set, Show};

pub struct Session {
    client: Client,
    model: String,
    /// The model it was made from, if any: what `/save` builds on.
    parent: String,
    /// Stored in the model; the server puts them before the session's own.
    stored: Vec<Message>,
    messages: Vec<Message>,
    system: String,
    wishes: Wishes,
    style: Style,
    verbose: bool,
    /// Whether the user said something about thinking; otherwise each model's nature decides.
    think_is_chosen: bool,
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Prompt,
    Leave,
}

impl Session {
    pub fn new(
        client: Client,
        model: &str,
        wishes: Wishes,
        style: Style,
        verbose: bool,
    ) -> Session {
        Session {
            client,
            model: model.to_owned(),
            parent: String::new(),
            stored: Vec::new(),
            messages: Vec::new(),
            system: String::new(),
            wishes,
            style,
            verbose,
            think_is_chosen: false,
        }
    }
}

/// Talks until the user leaves.
pub async fn converse(
    mut session: Session,
    shown: &Shown,
    think_is_chosen: bool,
) -> anyhow::Result<()> {
    session.think_is_chosen = think_is_chosen;
    session.adopt(shown);
    run::load(&session.client, &session.model, &session.wishes).await?;
    session.recall()?;
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
                } else if session.act(input).await? == Next::Leave {
                    return Ok(());
                }
            }
        }
    }
}

impl Session {
    fn adopt(&mut self, shown: &Shown) {
        self.parent.clone_from(&shown.details.parent_model);
        self.stored.clone_from(&shown.messages);
    }

    /// Shows the conversation that is stored in the model.
    fn recall(&self) -> anyhow::Result<()> {
        for message in &self.stored {
            match message.role.as_str() {
                "user" => out_line(&format!(">>> {}", message.content))?,
                "assistant" => {
                    let text = Reply::new(self.style).piece("", &message.content);
                    out(&format!("{text}\n\n"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn act(&mut self, input: Input) -> anyhow::Result<Next> {
        match input {
            Input::Unfinished | Input::Empty => {}
            Input::Message(text) => self.say(text).await?,
            Input::List(prefix) => self.told(list::print(&self.client, prefix.as_deref()).await)?,
            Input::Load(model) => self.load(model).await?,
            Input::LoadUsage => out_line("Usage:\n  /load <modelname>")?,
            Input::Save(model) => self.save(&model).await?,
            Input::SaveUsage => out_line("Usage:\n  /save <modelname>")?,
            Input::Clear => self.clear()?,
            Input::Set(set) => self.set(set).await?,
            Input::Show(what) => self.show(what).await?,
            Input::Help(topic) => note(help::text(topic)),
            Input::Unknown(what) => {
                out_line(&format!("Unknown command '{what}'. Type /? for help"))?
            }
            Input::Bye => return Ok(Next::Leave),
        }
        Ok(Next::Prompt)
    }

    /// Sends a message and shows the reply. A request that fails leaves the conversation as it was.
    async fn say(&mut self, text: String) -> anyhow::Result<()> {
        self.messages.push(Message::new("user", text));
        let body = self.chat_body();
        let received = tokio::select! {
            received = run::receive(&self.client, "/api/chat", &body, self.style) => received,
            // Dropping the request closes its connection, and that stops the model.
            _ = tokio::signal::ctrl_c() => {
                return Ok(out(if self.style.colour { "\x1b[0m\n\n" } else { "\n\n" })?);
            }
        };
        match received {
            Ok(received) => {
                out("\n\n")?;
                if self.verbose {
                    note(&run::summary(&received.last.metrics));
                }
                self.messages.push(Message::new("assistant", received.content));
                Ok(())
            }
            Err(error) => {
                self.messages.pop();
                self.told(Err(error))
            }
        }
    }

    /// What the server refuses is told and the conversation goes on; a server that is gone ends it.
    fn told(&self, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        match error.downcast_ref::<client::Error>() {
            None | Some(client::Error::Refused | client::Error::Transport(_)) => Err(error),
            Some(known) => {
                let told = Told::from(known);
                note_line(&format!("error: {}", told.message));
                if let Some(hint) = told.hint {
                    note_line(&format!("hint: {hint}"));
                }
                Ok(())
            }
        }
    }

    fn chat_body(&self) -> Value {
        let mut body = Map::new();
        body.insert("model".to_owned(), self.model.clone().into());
        body.insert("messages".to_owned(), json!(self.messages));
        self.wishes.add_to(&mut body);
        Value::Object(body)
    }

    async fn load(&mut self, model: String) -> anyhow::Result<()> {
        out_line(&format!("Loading model '{model}'"))?;
        let shown: client::Result<Shown> =
            self.client.post("/api/show", &json!({"model": model})).await;
        let shown = match shown {
            Err(error) if error.is_not_found() => {
                return Ok(out_line(&format!("Couldn't find model '{model}'"))?);
            }
            Err(error) => return self.told(Err(error.into())),
            Ok(shown) => shown,
        };
        let mut wishes = self.wishes.clone();
        if !self.think_is_chosen {
            wishes.think = shown.can("thinking").then_some(Value::Bool(true));
        }
        match run::load(&self.client, &model, &wishes).await {
            Err(error) => self.told(Err(error.into())),
            Ok(()) => {
                (self.model, self.wishes) = (model, wishes);
                self.messages.clear();
                self.adopt(&shown);
                Ok(())
            }
        }
    }

    async fn save(&mut self, model: &str) -> anyhow::Result<()> {
        if store::Name::parse(model).is_err() {
            return Ok(out_line(&format!("error: The model name '{model}' is invalid"))?);
        }
        let saved = async {
            let mut steps = self.client.stream("/api/create", &self.save_body(model)).await?;
            while steps.next::<Value>().await?.is_some() {}
            client::Result::Ok(())
        };
        match saved.await {
            Ok(()) => Ok(out_line(&format!("Created new model '{model}'"))?),
            Err(error) => self.told(Err(error.into())),
        }
    }

    fn save_body(&self, model: &str) -> Value {
        let parent_is_sound = store::Name::parse(&self.parent).is_ok();
        let from = if parent_is_sound { &self.parent } else { &self.model };
        let mut body = Map::new();
        body.insert("model".to_owned(), model.into());
        body.insert("from".to_owned(), from.clone().into());
        if !self.system.is_empty() {
            body.insert("system".to_owned(), self.system.clone().into());
        }
        if !self.wishes.options.is_empty() {
            body.insert("parameters".to_owned(), Value::Object(self.wishes.options.clone()));
        }
        let messages: Vec<&Message> = self.stored.iter().chain(&self.messages).collect();
        if !messages.is_empty() {
            body.insert("messages".to_owned(), json!(messages));
        }
        Value::Object(body)
    }

    fn clear(&mut self) -> anyhow::Result<()> {
        self.messages.clear();
        if !self.system.is_empty() {
            self.messages.push(Message::new("system", self.system.clone()));
        }
        Ok(out_line("Cleared session context")?)
    }

    async fn set(&mut self, set: Set) -> anyhow::Result<()> {
        let said = match set {
            Set::History(_) => return Ok(()),
            Set::WordWrap(yes) => {
                self.style.wrap_width = yes.then(|| terminal::size().0);
                mode(if yes { "wordwrap" } else { "nowordwrap" })
            }
            Set::Verbose(yes) => {
                self.verbose = yes;
                mode(if yes { "verbose" } else { "quiet" })
            }
            Set::Think(level) => {
                self.think(level.clone().map_or(Value::Bool(true), Value::from)).await;
                match level {
                    None => mode("think"),
                    Some(level) => format!("Set 'think' mode to '{level}'."),
                }
            }
            Set::NoThink => {
                self.think(Value::Bool(false)).await;
                mode("nothink")
            }
            Set::Format(Some(format)) if format == "json" => {
                self.wishes.format = Some(json!("json"));
                "Set format to 'json' mode.".to_owned()
            }
            Set::Format(_) => {
                "Invalid or missing format. For 'json' mode use '/set format json'".to_owned()
            }
            Set::NoFormat => {
                self.wishes.format = None;
                "Disabled format.".to_owned()
            }
            Set::Parameter { name, values } => self.parameter(&name, &values),
            Set::System(text) => {
                self.system(text);
                "Set system message.".to_owned()
            }
        };
        Ok(out_line(&said)?)
    }

    async fn think(&mut self, think: Value) {
        self.wishes.think = Some(think);
        self.think_is_chosen = true;
        let shown: client::Result<Shown> =
            self.client.post("/api/show", &json!({"model": self.model})).await;
        if shown.is_ok_and(|shown| !shown.can("thinking")) {
            note_line(&format!("warning: model {:?} does not support thinking output", self.model));
        }
    }

    fn parameter(&mut self, name: &str, values: &[String]) -> String {
        match parameter_value(name, values) {
            Err(error) => format!("Couldn't set parameter: {:?}", error.to_string()),
            Ok(value) => {
                self.wishes.options.insert(name.to_owned(), value);
                format!("Set parameter '{name}' to '{}'", values.join(", "))
            }
        }
    }

    /// A system message right after another replaces it.
    fn system(&mut self, text: String) {
        self.system.clone_from(&text);
        if self.messages.last().is_some_and(|last| last.role == "system") {
            self.messages.pop();
        }
        self.messages.push(Message::new("system", text));
    }

    async fn show(&mut self, what: Show) -> anyhow::Result<()> {
        let mut body = json!({"model": self.model, "system": self.system});
        if !self.wishes.options.is_empty() {
            body["options"] = Value::Object(self.wishes.options.clone());
        }
        let shown: Shown = match self.client.post("/api/show", &body).await {
            Ok(shown) => shown,
            Err(error) => {
                out_line("error: couldn't get model")?;
                return self.told(Err(error.into()));
            }
        };
        let or = |text: &str, otherwise: &str| match text {
            "" => format!("{otherwise}\n"),
            text => format!("{text}\n"),
        };
        match what {
            Show::Info => note(&show::tables(&shown, false)),
            Show::License => out(&or(&shown.license, "No license was specified for this model."))?,
            Show::Modelfile => out_line(&shown.modelfile)?,
            Show::Parameters => out(&self.parameters(&shown.parameters))?,
            Show::System => {
                let own = if self.system.is_empty() { &shown.system } else { &self.system };
                let own = if own.is_empty() { String::new() } else { format!("{own}\n") };
                out(&or(&own, "No system message was specified for this model."))?;
            }
            Show::Template => {
                out(&or(&shown.template, "No prompt template was specified for this model."))?;
            }
        }
        Ok(())
    }

    fn parameters(&self, of_model: &str) -> String {
        let mut text = "Model defined parameters:\n".to_owned();
        match of_model {
            "" => text += "  No additional parameters were specified for this model.\n",
            lines => lines.split('\n').for_each(|line| text += &format!("  {line}\n")),
        }
        text.push('\n');
        if !self.wishes.options.is_empty() {
            text += "User defined parameters:\n";
            for (name, value) in &self.wishes.options {
                text += &format!("  {name:<30} {}\n", plain(value));
            }
            text.push('\n');
        }
        text
    }
}

fn mode(name: &str) -> String {
    format!("Set '{name}' mode.")
}

/// Of several values only `stop` takes more than the first.
fn parameter_value(name: &str, values: &[String]) -> Result<Value, OptionError> {
    let parsed: Result<Value, OptionError> = Options::parse_text(name, &values[0]);
    match parsed {
        Ok(Value::Array(_)) => Ok(json!(values)),
        Err(OptionError::BadText { kind, .. }) => {
            Err(OptionError::BadText { kind, value: values.join(" ") })
        }
        other => other,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let client = Client::new(client::host::Host::parse("127.0.0.1:1")).unwrap();
        let style = Style { wrap_width: None, colour: false, hide_thinking: false };
        Session::new(client, "tiny", Wishes::default(), style, false)
    }

    #[test]
    fn parameters() {
        let mut session = session();
        let mut check = |line: &[&str], expected: &str| {
            let values: Vec<String> = line[1..].iter().map(|&value| value.to_owned()).collect();
            assert_eq!(session.parameter(line[0], &values), expected);
        };
        check(&["seed", "7"], "Set parameter 'seed' to '7'");
        check(&["stop", "a", "b"], "Set parameter 'stop' to 'a, b'");
        check(&["nope", "1"], "Couldn't set parameter: \"unknown parameter 'nope'\"");
        check(&["seed", "x", "y"], "Couldn't set parameter: \"invalid int value [x y]\"");
        let options = json!({"seed": 7, "stop": ["a", "b"]});
        assert_eq!(Value::Object(session.wishes.options.clone()), options);
        let expected = "Model defined parameters:\n  temperature    0\n\nUser defined parameters:\n  \
                        seed                           7\n  stop                           [a b]\n\n";
        assert_eq!(session.parameters("temperature    0"), expected);
    }

    #[test]
    fn a_system_message_replaces_the_one_right_before_it() {
        let mut session = session();
        session.system("one".to_owned());
        session.system("two".to_owned());
        session.messages.push(Message::new("user", "hi"));
        session.system("three".to_owned());
        let contents: Vec<_> = session.messages.iter().map(|m| m.content.as_str()).collect();
        assert_eq!(contents, ["two", "hi", "three"]);
        session.clear().unwrap();
        assert_eq!(session.messages, [Message::new("system", "three")]);
    }

    #[test]
    fn what_is_saved() {
        let mut session = session();
        assert_eq!(session.save_body("new"), json!({"model": "new", "from": "tiny"}));
        session.parent = "base:1b".to_owned();
        session.stored = vec![Message::new("user", "stored")];
        session.system("terse".to_owned());
        session.wishes.options.insert("seed".to_owned(), json!(7));
        let expected = json!({
            "model": "new", "from": "base:1b", "system": "terse", "parameters": {"seed": 7},
            "messages": [{"role": "user", "content": "stored"}, {"role": "system", "content": "terse"}],
        });
        assert_eq!(session.save_body("new"), expected);
    }
}
