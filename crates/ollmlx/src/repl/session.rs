//! A conversation's state, and what a line does to it.

use serde_json::{Map, Value, json};

use super::input::Input;
use super::{Next, help};
use crate::client::words::{Message, Shown};
use crate::client::{self, Client};
use crate::commands::list;
use crate::commands::run::{self, Wishes};
use crate::fault::Told;
use crate::terminal::reply::{PLAIN, Reply, Style};
use crate::terminal::{note, note_line, out, out_line};

pub struct Session {
    pub(super) client: Client,
    pub(super) model: String,
    /// The model it was made from, if any: what `/save` builds on.
    pub(super) parent: String,
    /// Stored in the model; the server puts them before the session's own.
    pub(super) stored: Vec<Message>,
    pub(super) messages: Vec<Message>,
    pub(super) system: String,
    pub(super) wishes: Wishes,
    pub(super) style: Style,
    pub(super) verbose: bool,
    /// Whether the user said something about thinking; otherwise each model's nature decides.
    pub(super) think_is_chosen: bool,
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

    /// Loads the model and shows what is stored in it.
    pub(super) async fn begin(
        &mut self,
        shown: &Shown,
        think_is_chosen: bool,
    ) -> anyhow::Result<()> {
        self.think_is_chosen = think_is_chosen;
        self.adopt(shown);
        run::load(&self.client, &self.model, &self.wishes).await?;
        self.recall()
    }

    fn adopt(&mut self, shown: &Shown) {
        self.parent.clone_from(&shown.details.parent_model);
        self.stored.clone_from(&shown.messages);
    }

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

    /// An interrupt ends whatever is under way, the conversation goes on: dropping a request closes its connection, and
    /// that stops the model.
    pub(super) async fn act_unless_interrupted(&mut self, input: Input) -> anyhow::Result<Next> {
        let end = if self.style.colour { PLAIN } else { "" };
        tokio::select! {
            next = self.act(input) => next,
            _ = tokio::signal::ctrl_c() => {
                out(&format!("{end}\n\n"))?;
                Ok(Next::Prompt)
            }
        }
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

    /// Sends a message and shows the reply. A request that fails leaves the conversation as it was;
    /// of an interrupted one the question stays.
    async fn say(&mut self, text: String) -> anyhow::Result<()> {
        self.messages.push(Message::new("user", text));
        let body = self.chat_body();
        let received = run::receive(&self.client, "/api/chat", &body, self.style).await;
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
    pub(super) fn told(&self, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        match error.downcast_ref::<client::Error>() {
            None | Some(client::Error::Refused | client::Error::Transport { .. }) => Err(error),
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

    pub(super) fn clear(&mut self) -> anyhow::Result<()> {
        self.messages.clear();
        if !self.system.is_empty() {
            self.messages.push(Message::new("system", self.system.clone()));
        }
        Ok(out_line("Cleared session context")?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn session() -> Session {
        let client = Client::new(client::host::Host::parse("127.0.0.1:1")).unwrap();
        let style = Style { wrap_width: None, colour: false, hide_thinking: false };
        Session::new(client, "tiny", Wishes::default(), style, false)
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
