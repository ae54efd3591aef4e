//! Finds the first stop string in streamed text, however the text is cut into pieces.
//!
//! "First" is the one that is complete first; of those complete at the same byte the longest. Text is given out as
//! soon as it cannot belong to a stop string any more: what is held back is always the beginning of one. The search
//! is an automaton over bytes (Aho and Corasick, 1975): its cost does not depend on the number of stop strings.

use std::collections::HashMap;

#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Node 0 is the root. A node is the longest end of the text that begins a stop string.
    nodes: Vec<Node>,
    edges: HashMap<(usize, u8), usize>,
    at: usize,
    /// Its last `nodes[at].depth` bytes are `at`; whatever is before them has been given out.
    held: String,
    found: bool,
}

/// What a piece of text came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Text that is certainly before any stop string.
    pub text: String,
    /// The stop string that was found; nothing after it counts.
    pub stop: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    depth: usize,
    /// The longest proper end of this node's text that is a node as well.
    fallback: usize,
    /// The longest stop string that ends here, as an index.
    stop: Option<usize>,
}

impl StopStrings {
    /// Empty strings are ignored.
    pub fn new<S: AsRef<str>>(stops: impl IntoIterator<Item = S>) -> StopStrings {
        let mut all = StopStrings {
            stops: Vec::new(),
            nodes: vec![Node::default()],
            edges: HashMap::new(),
            at: 0,
            held: String::new(),
            found: false,
        };
        for stop in stops {
            all.insert(stop.as_ref());
        }
        all.link();
        all
    }

    /// After a stop was found all further text is dropped.
    pub fn push(&mut self, text: &str) -> Stopped {
        if self.found {
            return Stopped::default();
        }
        if self.stops.is_empty() {
            return Stopped { text: text.to_owned(), stop: None };
        }
        for (index, byte) in text.bytes().enumerate() {
            self.at = self.next(self.at, byte);
            if let Some(stop) = self.nodes[self.at].stop {
                self.held.push_str(&text[..=index]);
                return self.stop_at(stop);
            }
        }
        self.held.push_str(text);
        Stopped { text: self.release(self.nodes[self.at].depth), stop: None }
    }

    /// What was held back, at the end of the text. Ready for another text afterwards.
    pub fn finish(&mut self) -> String {
        self.at = 0;
        self.found = false;
        std::mem::take(&mut self.held)
    }

    fn stop_at(&mut self, stop: usize) -> Stopped {
        let stop = self.stops[stop].clone();
        let text = self.release(stop.len());
        self.held.clear();
        self.found = true;
        Stopped { text, stop: Some(stop) }
    }

    /// Everything but the last `keep` bytes. Both stops and texts are whole characters, so a match begins at one.
    fn release(&mut self, keep: usize) -> String {
        let kept = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, kept)
    }

    fn next(&self, mut at: usize, byte: u8) -> usize {
        loop {
            match self.edges.get(&(at, byte)) {
                Some(next) => return *next,
                None if at == 0 => return 0,
                None => at = self.nodes[at].fallback,
            }
        }
    }

    fn insert(&mut self, stop: &str) {
        let mut at = 0;
        for byte in stop.bytes() {
            at = *self.edges.entry((at, byte)).or_insert_with(|| {
                let depth = self.nodes[at].depth + 1;
                self.nodes.push(Node { depth, ..Node::default() });
                self.nodes.len() - 1
            });
        }
        if at != 0 {
            self.nodes[at].stop = Some(self.stops.len());
            self.stops.push(stop.to_owned());
        }
    }

    /// Fills in the fallbacks, shorter texts first, as each needs those of shorter ones.
    fn link(&mut self) {
        let mut edges: Vec<_> = self.edges.iter().map(|(from, to)| (*from, *to)).collect();
        edges.sort_by_key(|(_, to)| self.nodes[*to].depth);
        for ((from, byte), to) in edges {
            let fallback = if from == 0 { 0 } else { self.next(self.nodes[from].fallback, byte) };
            self.nodes[to].fallback = fallback;
            self.nodes[to].stop = self.nodes[to].stop.or(self.nodes[fallback].stop);
        }
    }
}

impl Default for StopStrings {
    fn default() -> StopStrings {
        StopStrings::new([""; 0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// The definition, on the whole text at once.
    fn naive(stops: &[&str], text: &str) -> Stopped {
        let starts = |stop: &&str| text.find(*stop).map(|start| (start + stop.len(), start));
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        match stops.filter_map(|stop| Some((starts(stop)?, *stop))).min() {
            Some(((_, start), stop)) => {
                Stopped { text: text[..start].to_owned(), stop: Some(stop.to_owned()) }
            }
            None => Stopped { text: text.to_owned(), stop: None },
        }
    }

    #[track_caller]
    fn check(stops: &[&str], pieces: &[&str], text: &str, stop: Option<&str>) {
        let mut finder = StopStrings::new(stops);
        let mut got = Stopped::default();
        for piece in pieces {
            let part = finder.push(piece);
            got.text += &part.text;
            got.stop = got.stop.or(part.stop);
        }
        got.text += &finder.finish();
        assert_eq!((got.text.as_str(), got.stop.as_deref()), (text, stop), "{stops:?} {pieces:?}");
        assert_eq!(got, naive(stops, &pieces.concat()), "{stops:?} {pieces:?}");
    }

    #[test]
    fn stops_are_found_across_pieces() {
        check(&["\nUser:"], &["Hi", "\n", "Us", "er: more"], "Hi", Some("\nUser:"));
        check(&["\nUser:"], &["Hi\n", "Used"], "Hi\nUsed", None);
        check(&["\nUser:"], &["Hi\nUse"], "Hi\nUse", None);
        check(&["aab"], &["aa", "a", "b"], "a", Some("aab"));
        check(&["bc", "abcd"], &["xabcd"], "xa", Some("bc"));
        check(&["b", "ab"], &["xab"], "x", Some("ab"));
        check(&["", "é"], &["caf", "é!"], "caf", Some("é"));
        check(&["日本"], &["日", "日本語"], "日", Some("日本"));
        check(&[], &["a", "b"], "ab", None);
        check(&["x"], &[], "", None);
    }

    #[test]
    fn only_beginnings_of_stops_are_held_back() {
        let mut finder = StopStrings::new(["STOP"]);
        assert_eq!(finder.push("no ST").text, "no ");
        assert_eq!(finder.push("R").text, "STR");
        assert_eq!(finder.push("STOP and on").text, "");
        assert_eq!(finder.push("dropped"), Stopped::default());
        assert_eq!(finder.finish(), "");
    }

    #[test]
    fn any_cut_gives_what_the_whole_text_gives() {
        let mut random = Random(7);
        let alphabet = ["a", "b", "é", "日", "\n"];
        let word = |random: &mut Random, most: usize| -> String {
            let length = random.below(most + 1);
            (0..length).map(|_| alphabet[random.below(alphabet.len())]).collect()
        };
        for _ in 0..20_000 {
            let stops: Vec<String> = (0..random.below(4)).map(|_| word(&mut random, 4)).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<String> = (0..random.below(8)).map(|_| word(&mut random, 3)).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let expected = naive(&stops, &pieces.concat());
            check(&stops, &pieces, &expected.text, expected.stop.as_deref());
        }
    }

    #[test]
    fn long_texts_take_linear_time() {
        let mut finder = StopStrings::new([format!("{}b", "a".repeat(1000))]);
        let mut length = 0;
        for _ in 0..200_000 {
            length += finder.push("a").text.len();
        }
        assert_eq!(length + finder.finish().len(), 200_000);
    }
}
