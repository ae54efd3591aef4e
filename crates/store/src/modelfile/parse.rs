//! Reading a Modelfile, with Ollama's errors.
//!
//! One pass over the characters. A command is a keyword, blanks, a value up to the end of the line; a value that opens
//! a quote goes on over lines until the quote is closed at the end of one. There are no escapes and no comments behind
//! a value.

use super::{Command, Modelfile};

/// Ollama's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("no FROM line")]
    NoFrom,
    #[error(
        "(line {line}): command must be one of \"from\", \"license\", \"template\", \"system\", \"adapter\", \
         \"draft\", \"renderer\", \"parser\", \"parameter\", \"message\", or \"requires\""
    )]
    BadCommand { line: usize },
    #[error("(line {line}): message role must be one of \"system\", \"user\", or \"assistant\"")]
    BadRole { line: usize },
    /// A quote that is never closed, or a command without its value (then with a colon and what was read of it).
    #[error("unexpected EOF{0}")]
    UnexpectedEnd(String),
}

type Result<T> = std::result::Result<T, ParseError>;

/// Bytes that are no text become U+FFFD, as in every editor.
pub(super) fn decode(bytes: &[u8]) -> String {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> =
            bytes.chunks(2).map(|pair| unit([pair[0], *pair.get(1).unwrap_or(&0)])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

pub(super) fn parse(text: &str) -> Result<Modelfile> {
    let mut reader = Reader { rest: text, line: 1 };
    let mut commands = Vec::new();
    while let Some(keyword) = reader.keyword()? {
        commands.push(reader.command(&keyword)?);
    }
    match commands.iter().any(|command| matches!(command, Command::From(_))) {
        true => Ok(Modelfile { commands }),
        false => Err(ParseError::NoFrom),
    }
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    /// The next keyword in lower case, and the blank after it. `None` at the end of the file.
    fn keyword(&mut self) -> Result<Option<String>> {
        self.skip_to_command();
        let mut keyword = String::new();
        loop {
            match self.next() {
                None if keyword.is_empty() => return Ok(None),
                None => return Err(ParseError::UnexpectedEnd(String::new())),
                Some(c) if is_blank(c) => return Ok(Some(keyword)),
                Some(c) if c.is_ascii_alphabetic() => keyword.push(c.to_ascii_lowercase()),
                Some(_) => return Err(ParseError::BadCommand { line: self.line }),
            }
        }
    }

    /// Over blanks, empty lines and comments.
    fn skip_to_command(&mut self) {
        while let Some(c) = self.rest.chars().next() {
            if c == '#' {
                while self.next().is_some_and(|c| !is_line_end(c)) {}
            } else if is_blank(c) || is_line_end(c) {
                self.next();
            } else {
                return;
            }
        }
    }

    fn command(&mut self, keyword: &str) -> Result<Command> {
        Ok(match keyword {
            "from" => Command::From(self.value()?),
            "adapter" => Command::Adapter(self.value()?),
            "draft" => Command::Draft(self.value()?),
            "template" => Command::Template(self.value()?),
            "system" => Command::System(self.value()?),
            "renderer" => Command::Renderer(self.value()?),
            "parser" => Command::Parser(self.value()?),
            "requires" => Command::Requires(self.value()?),
            "license" => Command::License(self.value()?),
            "parameter" => {
                let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_')?;
                Command::Parameter { name, value: self.value()? }
            }
            "message" => {
                let role = self.word(|c| c.is_ascii_alphabetic())?;
                if !["system", "user", "assistant"].contains(&role.as_str()) {
                    return Err(ParseError::BadRole { line: self.line });
                }
                Command::Message { role, content: self.value()? }
            }
            _ => return Err(ParseError::BadCommand { line: self.line }),
        })
    }

    /// A parameter's name or a message's role, and the blank after it.
    fn word(&mut self, allowed: fn(char) -> bool) -> Result<String> {
        let mut word = String::new();
        loop {
            match self.next() {
                Some(c) if is_blank(c) && word.is_empty() => {}
                Some(c) if is_blank(c) => return Ok(word),
                Some(c) if allowed(c) => word.push(c),
                Some(_) => return Err(ParseError::UnexpectedEnd(format!(": {word}"))),
                None => return Err(ParseError::UnexpectedEnd(String::new())),
            }
        }
    }

    /// Up to the end of the line on which no quote is open.
    fn value(&mut self) -> Result<String> {
        let mut value = String::new();
        while let Some(c) = self.next() {
            let is_end = is_line_end(c);
            if is_end && let Some(value) = unquoted(value.trim()) {
                return Ok(value.to_owned());
            }
            // Control characters have no place in a prompt, except those that lay it out.
            if is_end || is_blank(c) || !c.is_control() {
                value.push(c);
            }
        }
        let value = unquoted(value.trim()).map(str::to_owned);
        value.ok_or(ParseError::UnexpectedEnd(String::new()))
    }

    /// Counts lines; a carriage return and the line feed after it are one line end.
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' || (c == '\r' && !self.rest.starts_with('\n')) {
            self.line += 1;
        }
        Some(c)
    }
}

/// `None` while a quote is open.
fn unquoted(text: &str) -> Option<&str> {
    if let Some(inner) = text.strip_prefix("\"\"\"") {
        return inner.strip_suffix("\"\"\"");
    }
    match text.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"'),
        None => Some(text),
    }
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_line_end(c: char) -> bool {
    c == '\r' || c == '\n'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands as they are printed.
    fn check(text: &str, expected: &[Command]) {
        let mut commands = vec![Command::From("tiny".into())];
        commands.extend_from_slice(expected);
        let file = Modelfile::parse(format!("FROM tiny\n{text}").as_bytes());
        assert_eq!(file, Ok(Modelfile { commands }), "{text:?}");
    }

    fn check_error(text: &str, expected: &str) {
        let error = Modelfile::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text:?}");
    }

    fn system(text: &str) -> Command {
        Command::System(text.to_owned())
    }

    fn parameter(name: &str, value: &str) -> Command {
        Command::Parameter { name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn values() {
        check("", &[]);
        check("SYSTEM You are terse.", &[system("You are terse.")]);
        check("  system\t  You are terse.  \r\n\r\n", &[system("You are terse.")]);
        check("SYSTEM \"  kept  \"\n", &[system("  kept  ")]);
        check("SYSTEM \"two\nlines\"\n", &[system("two\nlines")]);
        check("SYSTEM \"\"\"\na \"b\"\n\"\"\"\n", &[system("\na \"b\"\n")]);
        check("SYSTEM \"\"\"\"\"\"", &[system("")]);
        check("SYSTEM \"\"", &[system("")]);
        check("SYSTEM 'single' # no comment", &[system("'single' # no comment")]);
        check("# SYSTEM x\n  # y\nSYSTEM z", &[system("z")]);
        check("SYSTEM naïve 日本語 👩‍💻", &[system("naïve 日本語 👩‍💻")]);
        check("SYSTEM a\u{7}b\tc", &[system("ab\tc")]);
        check(
            "PARAMETER stop \"a b\"\nPARAMETER stop c",
            &[parameter("stop", "a b"), parameter("stop", "c")],
        );
        check("PARAMETER   num_ctx   10", &[parameter("num_ctx", "10")]);
    }

    #[test]
    fn errors_have_ollamas_words() {
        let command = "command must be one of \"from\", \"license\", \"template\", \"system\", \"adapter\", \"draft\", \"renderer\", \"parser\", \"parameter\", \"message\", or \"requires\"";
        let role = "message role must be one of \"system\", \"user\", or \"assistant\"";
        check_error("", "no FROM line");
        check_error("PARAMETER temperature 0\n", "no FROM line");
        check_error("FROM tiny\nNOPE x\n", &format!("(line 2): {command}"));
        check_error("FROM tiny\r\n\r\nNOPE x\n", &format!("(line 3): {command}"));
        check_error("FROM tiny\nSYSTEM \"\"\"\n\n\"\"\"\n<x>\n", &format!("(line 5): {command}"));
        check_error("FROM tiny\nSYSTEM\n", &format!("(line 3): {command}"));
        check_error("FROM tiny\nMESSAGE wizard hi\n", &format!("(line 2): {role}"));
        check_error("FROM tiny\nMESSAGE User hi\n", &format!("(line 2): {role}"));
        check_error("FROM tiny\nSYSTEM \"\"\"never closed\n", "unexpected EOF");
        check_error("FROM tiny\nSYSTEM \"closed\" too early\n", "unexpected EOF");
        check_error("FROM", "unexpected EOF");
        check_error("FROM tiny\nPARAMETER temperature", "unexpected EOF");
        check_error("FROM tiny\nPARAMETER temperature\n", "unexpected EOF: temperature");
        check_error("FROM tiny\nMESSAGE user\n", "unexpected EOF: user");
    }

    #[test]
    fn encodings() {
        let text = "FROM tiny\nSYSTEM grüße 👋\n";
        let expected = Modelfile::parse(text.as_bytes());
        assert!(expected.is_ok());
        let wide = |mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| {
            let mut encoded = mark.to_vec();
            encoded.extend(text.encode_utf16().flat_map(bytes));
            encoded
        };
        assert_eq!(Modelfile::parse(&[b"\xef\xbb\xbf", text.as_bytes()].concat()), expected);
        assert_eq!(Modelfile::parse(&wide([0xff, 0xfe], u16::to_le_bytes)), expected);
        assert_eq!(Modelfile::parse(&wide([0xfe, 0xff], u16::to_be_bytes)), expected);
        let broken = Modelfile::parse(b"FROM tiny\nSYSTEM a\xffb").unwrap();
        assert_eq!(broken.commands[1], system("a\u{fffd}b"));
    }
}
