//! Where a conversation's pictures stand: `[img-N]`, numbered over all messages.

use std::borrow::Cow;

use protocol::Message;

const PLACE: &str = "[img]";

/// How many pictures came before.
#[derive(Default)]
pub(super) struct Images {
    seen: usize,
}

impl Images {
    /// `content`, which is the message's or made of it, with a tag for each of the message's pictures: in the places
    /// that it names, the others at its front. A content that holds tags already is left alone.
    pub fn tag<'c>(&mut self, content: &'c str, message: &Message) -> Cow<'c, str> {
        let first = self.seen;
        self.seen += message.images.len();
        if first == self.seen || content.contains("[img-") {
            return Cow::Borrowed(content);
        }
        let mut tags = (first..self.seen).map(|number| format!("[img-{number}]"));
        let mut placed = String::with_capacity(content.len());
        let mut rest = content;
        while let Some(at) = rest.find(PLACE) {
            let Some(tag) = tags.next() else { break };
            placed.push_str(&rest[..at]);
            placed.push_str(&tag);
            rest = &rest[at + PLACE.len()..];
        }
        placed.push_str(rest);
        let mut front: String = tags.collect();
        if !front.is_empty() && placed.starts_with(is_text) {
            front.push(' ');
        }
        Cow::Owned(front + &placed)
    }
}

/// A replacement character counts as one that cannot be read.
fn is_text(character: char) -> bool {
    !character.is_whitespace() && character != char::REPLACEMENT_CHARACTER
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Image;

    #[track_caller]
    fn check(images: usize, content: &str, expected: &str) {
        let message =
            Message { images: vec![Image { base64: String::new() }; images], ..Message::default() };
        let mut counter = Images { seen: 3 };
        assert_eq!(counter.tag(content, &message), expected);
        assert_eq!(counter.seen, 3 + images);
    }

    #[test]
    fn tags_stand_where_they_are_wanted() {
        check(0, "a [img]", "a [img]");
        check(1, "", "[img-3]");
        check(2, "a", "[img-3][img-4] a");
        check(1, "\na", "[img-3]\na");
        check(1, "\u{fffd}", "[img-3]\u{fffd}");
        check(2, "a [img] b", "[img-4] a [img-3] b");
        check(1, "[img][img]", "[img-3][img]");
        check(2, "see [img-0] [img]", "see [img-0] [img]");
    }
}
