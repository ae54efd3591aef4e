//! The words and which kind of word follows which: all the sense there is in the stand-in.

/// A kind of word. Its number is its channel in the hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a token that is no word: a new line, a special token.
    Opening,
    /// The first word of a text, without a blank.
    First,
    /// The first word of a later sentence.
    Begin,
    Actor,
    ActorQuality,
    Act,
    Deed,
    Article,
    Thing,
    ThingQuality,
    Manner,
    Place,
    And,
    Owner,
    Stop,
    End,
}

use Kind::*;

pub const KINDS: usize = End as usize + 1;

pub struct Rule {
    pub kind: Kind,
    /// Separated by blanks. A word of `First` and `Stop` is written as it is, all others after a blank.
    pub words: &'static str,
    /// What comes next, with its probability.
    pub next: &'static [(Kind, f64)],
}

const BEGINNINGS: &str = "The A One My Our Your Every Some No Her His";

const AFTER_BEGIN: &[(Kind, f64)] = &[(Actor, 0.6), (ActorQuality, 0.4)];

pub const GRAMMAR: &[Rule] = &[
    Rule { kind: Opening, words: "", next: &[(First, 1.0)] },
    Rule { kind: First, words: BEGINNINGS, next: AFTER_BEGIN },
    Rule { kind: Begin, words: BEGINNINGS, next: AFTER_BEGIN },
    Rule {
        kind: Actor,
        words: "cat dog bird child friend river wind rain fox bear moon boat train star cloud baker sailor teacher",
        next: &[(Act, 0.55), (Deed, 0.45)],
    },
    Rule {
        kind: ActorQuality,
        words: "small old quiet young kind brave sleepy clever gentle wild",
        next: &[(Actor, 1.0)],
    },
    Rule {
        kind: Act,
        words: "sees finds likes makes hears keeps follows brings opens holds knows wants takes paints carries",
        next: &[(Article, 1.0)],
    },
    Rule {
        kind: Deed,
        words: "sleeps sings waits grows shines runs walks laughs rests dreams turns dances",
        next: &[(Place, 0.4), (Manner, 0.25), (Stop, 0.35)],
    },
    Rule {
        kind: Article,
        words: "the a this that every some",
        next: &[(Thing, 0.6), (ThingQuality, 0.4)],
    },
    Rule {
        kind: Thing,
        words: "house garden road window stone tree book door song story letter table lamp field hill bridge key \
                map coat spoon apple morning night winter summer",
        next: &[(Stop, 0.66), (Place, 0.14), (And, 0.1), (Manner, 0.1)],
    },
    Rule {
        kind: ThingQuality,
        words: "bright green warm long new red soft early strange golden open deep blue round",
        next: &[(Thing, 1.0)],
    },
    Rule {
        kind: Manner,
        words: "slowly softly again often today always gladly",
        next: &[(Stop, 0.75), (And, 0.25)],
    },
    Rule {
        kind: Place,
        words: "in on under near with behind beside over through from",
        next: &[(Article, 1.0)],
    },
    Rule { kind: And, words: "and but while because so", next: &[(Owner, 1.0)] },
    Rule { kind: Owner, words: "my our your her his their", next: AFTER_BEGIN },
    Rule { kind: Stop, words: ".", next: &[(Begin, 0.87), (End, 0.13)] },
    Rule { kind: End, words: "", next: &[(Opening, 1.0)] },
];

/// How the token of a word is spelled, a blank being `Ġ`.
pub fn spelling(kind: Kind, word: &str) -> String {
    match kind {
        First | Stop => word.to_owned(),
        _ => format!("Ġ{word}"),
    }
}
