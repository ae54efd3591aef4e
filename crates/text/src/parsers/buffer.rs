//! Text that is not understood yet: what may be the beginning of a tag, or the inside of a tool call.
//!
//! A search goes on where the last one stopped, so waiting for a tag costs each byte once.

/// What happens to white space beside a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blanks {
    Keep,
    Drop,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Buffer {
    text: String,
    /// No tag that was asked for begins before here.
    searched: usize,
    ended: bool,
}

/// Text up to a tag, or as much of it as certainly stands before one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Until {
    pub text: String,
    /// White space between that and the tag.
    pub blanks: String,
    /// Which of the tags; it is taken out of the buffer.
    pub tag: Option<usize>,
}

impl Buffer {
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Nothing will be pushed any more.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// What comes next is searched from its beginning, for other tags than before.
    pub fn rewind(&mut self) {
        self.searched = 0;
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn take(&mut self, bytes: usize) -> String {
        let rest = self.text.split_off(bytes);
        self.searched = 0;
        std::mem::replace(&mut self.text, rest)
    }

    pub fn take_all(&mut self) -> String {
        self.take(self.text.len())
    }

    pub fn take_blanks(&mut self) -> String {
        self.take(self.text.len() - self.text.trim_start().len())
    }

    /// Where the first of `tags` begins and which it is; of two that begin together the longer one. As long as text is
    /// only pushed, ask for the same tags.
    pub fn find<S: AsRef<str>>(&mut self, tags: &[S]) -> Option<(usize, usize)> {
        let found = (0..tags.len())
            .filter_map(|which| {
                let tag = tags[which].as_ref();
                let from = floor(&self.text, self.searched.saturating_sub(tag.len()));
                Some((from + self.text[from..].find(tag)?, which))
            })
            .min_by_key(|&(at, which)| (at, std::cmp::Reverse(tags[which].as_ref().len())));
        if found.is_none() {
            self.searched = self.text.len();
        }
        found
    }

    /// Takes out what certainly stands before the first of `tags`, and that tag if it is there. The beginning of a tag
    /// at the end of the text stays, and so does white space that a tag may follow.
    pub fn until<S: AsRef<str>>(&mut self, tags: &[S]) -> Until {
        if let Some((at, which)) = self.find(tags) {
            let mut text = self.take(at);
            self.take(tags[which].as_ref().len());
            let blanks = text.split_off(text.trim_end().len());
            return Until { text, blanks, tag: Some(which) };
        }
        let sure = if self.ended { self.text.len() } else { self.sure(tags) };
        Until { text: self.take(sure), ..Until::default() }
    }

    fn sure<S: AsRef<str>>(&self, tags: &[S]) -> usize {
        let partial = tags.iter().map(|tag| overlap(&self.text, tag.as_ref())).max().unwrap_or(0);
        self.text[..self.text.len() - partial].trim_end().len()
    }

    /// Whether the text, white space aside, begins with `tag`; `None`: it is too early to tell.
    pub fn begins_with(&self, tag: &str) -> Option<bool> {
        begins_with(self.text.trim_start(), tag)
            .filter(|begins| *begins || !self.ended)
            .or(self.ended.then_some(false))
    }
}

/// Whether `text` begins with `tag`; `None`: more text will tell.
pub(super) fn begins_with(text: &str, tag: &str) -> Option<bool> {
    match text.len() < tag.len() {
        true if tag.starts_with(text) => None,
        _ => Some(text.starts_with(tag)),
    }
}

/// The length of the longest end of `text` that is the beginning of `tag`.
pub(super) fn overlap(text: &str, tag: &str) -> usize {
    let longest = text.len().min(tag.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|&length| tag.is_char_boundary(length) && text.ends_with(&tag[..length]))
        .unwrap_or(0)
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&str], given: &str, tag: Option<usize>, left: &str) {
        let mut buffer = Buffer::default();
        let mut text = String::new();
        let mut found = None;
        for piece in pieces {
            buffer.push(piece);
            let until = buffer.until(&["<a>", "<a>>", "｜é"]);
            text += &until.text;
            found = until.tag;
        }
        assert_eq!((text.as_str(), found, buffer.text()), (given, tag, left));
    }

    #[test]
    fn tags_are_found_in_pieces() {
        check(&["x \n", "<", "a"], "x", None, " \n<a");
        check(&["x \n", "<", "a", ">y"], "x", Some(0), "y");
        check(&["x<a>>y"], "x", Some(1), "y");
        check(&["x<b", " "], "x<b", None, " ");
        check(&["日｜", "本"], "日｜本", None, "");
        check(&["日 ｜", "é本"], "日", Some(2), "本");
    }

    #[test]
    fn the_end_releases_everything() {
        let mut buffer = Buffer::default();
        buffer.push("x \n<a");
        assert_eq!(buffer.until(&["<a>"]).text, "x");
        assert_eq!(buffer.begins_with("<a>"), None);
        buffer.end();
        assert_eq!(buffer.begins_with("<a>"), Some(false));
        assert_eq!(buffer.until(&["<a>"]).text, " \n<a");
    }
}
