//! `/set` and `/show`.

use protocol::{OptionError, Options};
use serde_json::{Value, json};

use super::Session;
use super::input::{Set, Show};
use crate::client;
use crate::client::words::{Message, Shown};
use crate::commands::show;
use crate::terminal::{self, note, note_line, out, out_line};

impl Session {
    pub(super) async fn set(&mut self, set: Set) -> anyhow::Result<()> {
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
    pub(super) fn system(&mut self, text: String) {
        self.system.clone_from(&text);
        if self.messages.last().is_some_and(|last| last.role == "system") {
            self.messages.pop();
        }
        self.messages.push(Message::new("system", text));
    }

    pub(super) async fn show(&mut self, what: Show) -> anyhow::Result<()> {
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
    use super::super::session::tests::session;
    use super::*;

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
}
