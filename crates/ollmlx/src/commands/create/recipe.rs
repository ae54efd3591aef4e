//! A Modelfile as a request: what `POST /api/create` is told, and which files go with it.

use std::path::{Component, Path, PathBuf};

use protocol::{OptionError, Options};
use serde_json::{Map, Value, json};
use store::modelfile::{Command, DEPRECATED_PARAMETERS, Modelfile};

use super::sources::Sources;
use crate::client::host::variable;
use crate::fault::{Told, told};

#[derive(Debug, Default)]
pub struct Recipe {
    pub files: Sources,
    pub adapters: Sources,
    pub draft_files: Sources,
    pub warnings: Vec<String>,
    words: Map<String, Value>,
    parameters: Map<String, Value>,
    messages: Vec<Value>,
    licenses: Vec<String>,
}

impl Recipe {
    /// Paths start from `folder`. Reads and hashes the files.
    pub fn of(modelfile: &Modelfile, folder: &Path) -> anyhow::Result<Recipe> {
        let mut recipe = Recipe::default();
        let (mut models, mut drafts) = (Vec::new(), Vec::new());
        for command in &modelfile.commands {
            match command {
                Command::From(text) => {
                    let path = expand(text, folder);
                    match Sources::at(&path)? {
                        Some(sources) => {
                            recipe.files.extend(sources);
                            models.push(path);
                        }
                        None => recipe.say("from", text),
                    }
                }
                Command::Draft(text) => {
                    let path = expand(text, folder);
                    recipe.draft_files.extend(present(&path)?);
                    drafts.push(path);
                }
                Command::Adapter(text) => recipe.adapters = present(&expand(text, folder))?,
                Command::Template(text) => recipe.say("template", text),
                Command::System(text) => recipe.say("system", text),
                Command::Renderer(text) => recipe.say("renderer", text),
                Command::Parser(text) => recipe.say("parser", text),
                Command::Requires(text) => recipe.say("requires", version(text)?),
                Command::License(text) => recipe.licenses.push(text.clone()),
                Command::Message { role, content } => {
                    recipe.messages.push(json!({"role": role, "content": content}));
                }
                Command::Parameter { name, value } => recipe.parameter(name, value)?,
            }
        }
        refuse_same(&models, &drafts)?;
        Ok(recipe)
    }

    /// The request but for the files.
    pub fn body(&self, model: &str) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("model".to_owned(), model.into());
        body.extend(self.words.clone());
        if !self.parameters.is_empty() {
            body.insert("parameters".to_owned(), Value::Object(self.parameters.clone()));
        }
        if !self.messages.is_empty() {
            body.insert("messages".to_owned(), json!(self.messages));
        }
        if !self.licenses.is_empty() {
            body.insert("license".to_owned(), json!(self.licenses));
        }
        body
    }

    /// What the server would refuse when the files are there, which may take a while.
    pub fn check_template(&self) -> Result<(), Told> {
        let template = self.words.get("template").and_then(Value::as_str);
        match template.filter(|_| !self.files.named().is_empty()).map(text::check_template) {
            Some(Err(why)) => Err(told(format!("template error: {why}"))),
            _ => Ok(()),
        }
    }

    /// The files, by the request's word for them.
    pub fn sources(&self) -> [(&'static str, &Sources); 3] {
        [("files", &self.files), ("adapters", &self.adapters), ("draft_files", &self.draft_files)]
    }

    /// The last one wins; an empty text says nothing.
    fn say(&mut self, key: &str, text: &str) {
        if text.is_empty() {
            self.words.remove(key);
        } else {
            self.words.insert(key.to_owned(), text.into());
        }
    }

    fn parameter(&mut self, name: &str, text: &str) -> Result<(), OptionError> {
        if DEPRECATED_PARAMETERS.contains(&name) {
            self.warnings.push(format!("warning: parameter {name} is deprecated"));
            return Ok(());
        }
        let value = Options::parse_text(name, text)?;
        match (self.parameters.get_mut(name), value) {
            (Some(Value::Array(known)), Value::Array(more)) => known.extend(more),
            (_, value) => {
                self.parameters.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }
}

fn present(path: &Path) -> Result<Sources, Told> {
    Sources::at(path)?.ok_or_else(|| told(format!("there is no `{}`", path.display())))
}

/// `~` is the home folder; everything else starts from the Modelfile's folder.
fn expand(text: &str, folder: &Path) -> PathBuf {
    let rest = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => return plain(&folder.join(text)),
    };
    variable("HOME").map_or_else(|| folder.join(text), |home| plain(&Path::new(&home).join(rest)))
}

/// Without `.` in it.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn refuse_same(models: &[PathBuf], drafts: &[PathBuf]) -> Result<(), Told> {
    let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    match drafts.iter().find(|draft| models.iter().any(|model| real(model) == real(draft))) {
        None => Ok(()),
        Some(path) => Err(told(format!(
            "DRAFT must not reference the same local path as FROM: {}",
            path.display()
        ))),
    }
}

/// A semantic version, without the `v` it may begin with: one to three numbers, then `-` or `+` and letters.
fn version(text: &str) -> Result<&str, Told> {
    let plain = text.strip_prefix('v').unwrap_or(text);
    let (numbers, rest) = match plain.find(['-', '+']) {
        Some(at) => plain.split_at(at),
        None => (plain, ""),
    };
    let parts: Vec<&str> = numbers.split('.').collect();
    let is_number = |part: &&str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (*part == "0" || !part.starts_with('0'))
    };
    let rest_is_sound = rest.is_empty()
        || (parts.len() == 3
            && rest.len() > 1
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+.".contains(&b)));
    if parts.len() <= 3 && parts.iter().all(is_number) && rest_is_sound {
        Ok(plain)
    } else {
        Err(told("requires must be a valid semver (e.g. 0.14.0)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<Value, &str>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), "x").unwrap();
        let modelfile = Modelfile::parse(text.as_bytes()).unwrap();
        let got = Recipe::of(&modelfile, folder.path());
        let got =
            got.map(|recipe| Value::Object(recipe.body("m"))).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn commands_become_the_request() {
        check("FROM tiny", Ok(json!({"model": "m", "from": "tiny"})));
        check("FROM ./model.safetensors", Ok(json!({"model": "m"})));
        check(
            "FROM tiny\nPARAMETER stop a\nPARAMETER stop b\nPARAMETER temperature 0.7\nPARAMETER seed 1\nPARAMETER seed 2",
            Ok(
                json!({"model": "m", "from": "tiny", "parameters": {"stop": ["a", "b"], "temperature": 0.7, "seed": 2}}),
            ),
        );
        check(
            "FROM tiny\nSYSTEM one\nSYSTEM two\nTEMPLATE t\nLICENSE a\nLICENSE b\nMESSAGE user hi\nMESSAGE assistant yo: lo",
            Ok(json!({
                "model": "m", "from": "tiny", "system": "two", "template": "t",
                "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo: lo"}],
                "license": ["a", "b"],
            })),
        );
        check("FROM tiny\nPARAMETER mirostat 1", Ok(json!({"model": "m", "from": "tiny"})));
        check(
            "FROM tiny\nREQUIRES v0.14.0",
            Ok(json!({"model": "m", "from": "tiny", "requires": "0.14.0"})),
        );
    }

    #[test]
    fn mistakes_are_told() {
        check("FROM tiny\nPARAMETER nope 1", Err("unknown parameter 'nope'"));
        check("FROM tiny\nPARAMETER temperature hot", Err("invalid float value [hot]"));
        check("FROM tiny\nREQUIRES soon", Err("requires must be a valid semver (e.g. 0.14.0)"));
    }

    #[test]
    fn versions() {
        for (text, sound) in [
            ("0.14.0", true),
            ("v1", true),
            ("1.2", true),
            ("1.2.3-rc1+5", true),
            ("1.2-rc1", false),
            ("01.2.3", false),
            ("1.2.3.4", false),
            ("", false),
            ("1.2.3-", false),
        ] {
            assert_eq!(version(text).is_ok(), sound, "{text}");
        }
    }

    #[test]
    fn the_files_go_with_it() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["model.safetensors", "config.json"] {
            std::fs::write(folder.path().join(file), file).unwrap();
        }
        let recipe =
            |text: &str| Recipe::of(&Modelfile::parse(text.as_bytes()).unwrap(), folder.path());
        let names = |recipe: &Recipe| {
            recipe.files.named().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(&recipe("FROM .").unwrap()), ["config.json", "model.safetensors"]);
        assert_eq!(names(&recipe("FROM ./config.json").unwrap()), ["config.json"]);
        let same = recipe("FROM .\nDRAFT ./").unwrap_err().to_string();
        assert!(same.starts_with("DRAFT must not reference the same local path as FROM"), "{same}");
        let absent = recipe("FROM .\nADAPTER ./lora").unwrap_err().to_string();
        assert!(absent.starts_with("there is no `"), "{absent}");
    }
}
