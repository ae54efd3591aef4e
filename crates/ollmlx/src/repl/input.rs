//! What a line typed at the prompt means. Pure: lines in, [`Input`] out.

const QUOTES: &str = "\"\"\"";

/// Puts lines together that belong to one message.
#[derive(Debug, Default)]
pub struct Reader {
    open: Option<Open>,
}

/// A text begun with `"""` and not yet ended.
#[derive(Debug)]
struct Open {
    text: String,
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Message,
    System,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// More lines belong to it.
    Unfinished,
    Empty,
    Message(String),
    List(Option<String>),
    Load(String),
    LoadUsage,
    Save(String),
    SaveUsage,
    Clear,
    Set(Set),
    Show(Show),
    Help(Help),
    Bye,
    /// `/set x`, `/show x` or `/x` that nobody knows.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set {
    History(bool),
    WordWrap(bool),
    Verbose(bool),
    Think(Option<String>),
    NoThink,
    Format(Option<String>),
    NoFormat,
    Parameter { name: String, values: Vec<String> },
    System(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Info,
    License,
    Modelfile,
    Parameters,
    System,
    Template,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    Commands,
    Set,
    Parameters,
    Show,
    Shortcuts,
    /// Help on something unknown says nothing.
    Nothing,
}

impl Reader {
    pub fn is_unfinished(&self) -> bool {
        self.open.is_some()
    }

    /// Forgets an unfinished text.
    pub fn reset(&mut self) {
        self.open = None;
    }

    pub fn line(&mut self, line: &str) -> Input {
        if let Some(open) = self.open.take() {
            return self.go_on(open, line);
        }
        if let Some(rest) = line.strip_prefix(QUOTES) {
            return self.quoted(rest, Purpose::Message);
        }
        match line.contains('\n') || !line.starts_with('/') {
            true => message(line.to_owned()),
            false => self.command(line),
        }
    }

    fn go_on(&mut self, mut open: Open, line: &str) -> Input {
        match line.strip_suffix(QUOTES) {
            Some(last) => finished(open.text + last, open.purpose),
            None => {
                open.text.push_str(line);
                open.text.push('\n');
                self.open = Some(open);
                Input::Unfinished
            }
        }
    }

    /// The rest of a line that began with the quotes.
    fn quoted(&mut self, rest: &str, purpose: Purpose) -> Input {
        self.go_on(Open { text: String::new(), purpose }, rest)
    }

    fn command(&mut self, line: &str) -> Input {
        let words: Vec<&str> = line.split_whitespace().collect();
        let argument = words.get(1).map(|&word| word.to_owned());
        let only = || argument.clone().filter(|_| words.len() == 2);
        let is = |name: &str| line.starts_with(name);
        if is("/list") {
            Input::List(argument)
        } else if is("/load") {
            only().map_or(Input::LoadUsage, Input::Load)
        } else if is("/save") {
            only().map_or(Input::SaveUsage, Input::Save)
        } else if is("/clear") {
            Input::Clear
        } else if is("/set") {
            self.set(&words)
        } else if is("/show") {
            show(&words)
        } else if is("/help") || is("/?") {
            Input::Help(help(argument.as_deref()))
        } else if is("/exit") || is("/bye") {
            Input::Bye
        } else {
            Input::Unknown(words[0].to_owned())
        }
    }

    fn set(&mut self, words: &[&str]) -> Input {
        let Some(what) = words.get(1) else { return Input::Help(Help::Set) };
        let argument = words.get(2).map(|&word| word.to_owned());
        Input::Set(match *what {
            "history" => Set::History(true),
            "nohistory" => Set::History(false),
            "wordwrap" => Set::WordWrap(true),
            "nowordwrap" => Set::WordWrap(false),
            "verbose" => Set::Verbose(true),
            "quiet" => Set::Verbose(false),
            "think" => Set::Think(argument),
            "nothink" => Set::NoThink,
            "format" => Set::Format(argument),
            "noformat" => Set::NoFormat,
            "parameter" if words.len() < 4 => return Input::Help(Help::Parameters),
            "parameter" => Set::Parameter {
                name: words[2].to_owned(),
                values: words[3..].iter().map(|&word| word.to_owned()).collect(),
            },
            "system" if words.len() < 3 => return Input::Help(Help::Set),
            "system" => {
                let text = words[2..].join(" ");
                return match text.strip_prefix(QUOTES) {
                    Some(rest) => self.quoted(rest, Purpose::System),
                    None => finished(text, Purpose::System),
                };
            }
            other => return Input::Unknown(format!("/set {other}")),
        })
    }
}

fn finished(text: String, purpose: Purpose) -> Input {
    match purpose {
        Purpose::Message => message(text),
        Purpose::System => Input::Set(Set::System(text)),
    }
}

fn message(text: String) -> Input {
    if text.is_empty() { Input::Empty } else { Input::Message(text) }
}

fn show(words: &[&str]) -> Input {
    Input::Show(match words.get(1).copied() {
        None => return Input::Help(Help::Show),
        Some("info") => Show::Info,
        Some("license") => Show::License,
        Some("modelfile") => Show::Modelfile,
        Some("parameters") => Show::Parameters,
        Some("system") => Show::System,
        Some("template") => Show::Template,
        Some(other) => return Input::Unknown(format!("/show {other}")),
    })
}

fn help(topic: Option<&str>) -> Help {
    match topic {
        None => Help::Commands,
        Some("set" | "/set") => Help::Set,
        Some("show" | "/show") => Help::Show,
        Some("shortcut" | "shortcuts") => Help::Shortcuts,
        Some(_) => Help::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], expected: Input) {
        let mut reader = Reader::default();
        let (last, first) = lines.split_last().unwrap();
        for line in first {
            assert_eq!(reader.line(line), Input::Unfinished, "{lines:?}");
            assert!(reader.is_unfinished());
        }
        assert_eq!(reader.line(last), expected, "{lines:?}");
    }

    fn text(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn messages() {
        check(&["hello there"], Input::Message(text("hello there")));
        check(&[""], Input::Empty);
        check(&["\"\"\"one line\"\"\""], Input::Message(text("one line")));
        check(&["\"\"\"first", "", "  last\"\"\""], Input::Message(text("first\n\n  last")));
        check(&["\"\"\"", "/bye", "\"\"\""], Input::Message(text("\n/bye\n")));
        check(&["\"\"\"\"\"\""], Input::Empty);
        check(&["pasted\nlines"], Input::Message(text("pasted\nlines")));
        check(&["/pasted\nlines"], Input::Message(text("/pasted\nlines")));
    }

    #[test]
    fn commands() {
        check(&["/bye"], Input::Bye);
        check(&["/exit now"], Input::Bye);
        check(&["/list"], Input::List(None));
        check(&["/list ti"], Input::List(Some(text("ti"))));
        check(&["/load a"], Input::Load(text("a")));
        check(&["/load"], Input::LoadUsage);
        check(&["/load a b"], Input::LoadUsage);
        check(&["/save a"], Input::Save(text("a")));
        check(&["/save"], Input::SaveUsage);
        check(&["/clear"], Input::Clear);
        check(&["/?"], Input::Help(Help::Commands));
        check(&["/help shortcuts"], Input::Help(Help::Shortcuts));
        check(&["/? set"], Input::Help(Help::Set));
        check(&["/? nonsense"], Input::Help(Help::Nothing));
        check(&["/nope x"], Input::Unknown(text("/nope")));
    }

    #[test]
    fn settings() {
        let set = |line: &str, expected: Set| check(&[line], Input::Set(expected));
        set("/set verbose", Set::Verbose(true));
        set("/set quiet", Set::Verbose(false));
        set("/set think high", Set::Think(Some(text("high"))));
        set("/set think", Set::Think(None));
        set("/set format json", Set::Format(Some(text("json"))));
        let values = vec![text("a"), text("b")];
        set("/set parameter stop a  b", Set::Parameter { name: text("stop"), values });
        set("/set system Be  terse.", Set::System(text("Be terse.")));
        check(
            &["/set system \"\"\"Be", "terse.\"\"\""],
            Input::Set(Set::System(text("Be\nterse."))),
        );
        check(&["/set"], Input::Help(Help::Set));
        check(&["/set system"], Input::Help(Help::Set));
        check(&["/set parameter seed"], Input::Help(Help::Parameters));
        check(&["/set nope"], Input::Unknown(text("/set nope")));
    }

    #[test]
    fn shows() {
        check(&["/show info"], Input::Show(Show::Info));
        check(&["/show"], Input::Help(Help::Show));
        check(&["/show nope"], Input::Unknown(text("/show nope")));
    }

    #[test]
    fn an_unfinished_text_can_be_given_up() {
        let mut reader = Reader::default();
        assert_eq!(reader.line("\"\"\"begun"), Input::Unfinished);
        reader.reset();
        assert_eq!(reader.line("hello"), Input::Message(text("hello")));
    }
}
