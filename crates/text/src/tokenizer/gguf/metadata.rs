//! What the entries say, and what they leave unsaid.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::Around;
use super::super::added::AddedToken;
use super::super::patterns::{self, Pre};
use super::super::sentencepiece::Kind;
use super::bad;
use crate::Result;

/// The entries `tokenizer.ggml.*`, each under its own name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GgufTokenizer {
    pub model: String,
    /// The name of what cuts a text into words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    pub scores: Vec<f32>,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. All normal where there are none.
    pub token_type: Vec<i32>,
    /// Two tokens with a blank between them.
    pub merges: Vec<String>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    /// What Ollama writes where there are several.
    pub eos_token_ids: Vec<u32>,
    pub eot_token_id: Option<u32>,
    pub eom_token_id: Option<u32>,
    pub unknown_token_id: Option<u32>,
    /// Misspelled so in the format.
    pub seperator_token_id: Option<u32>,
    pub padding_token_id: Option<u32>,
    pub mask_token_id: Option<u32>,
    pub cls_token_id: Option<u32>,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub remove_extra_whitespaces: Option<bool>,
    pub precompiled_charsmap: Vec<u8>,
    /// `tokenizer.ggml.normalizer.lowercase`
    pub lowercase: Option<bool>,
    /// `tokenizer.ggml.normalizer.strip_accents`
    pub strip_accents: Option<bool>,
}

/// Tokens that end a turn by their text, as files name one of them at most.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// What ends nothing where others of its family are there.
const NO_ENDS: &[(&str, &[&str])] = &[
    ("<|end|>", &["<|return|>", "<|call|>"]),
    ("<|end|>", &["<|calls|>", "<|flush|>"]),
    ("</s>", &["<|tool_response>"]),
];

impl GgufTokenizer {
    /// The tokens that end a reply, ascending.
    pub(in super::super) fn ends(&self) -> Vec<u32> {
        let by_text = |text: &str| self.tokens.iter().position(|token| token == text);
        let named = [self.eos_token_id, self.eot_token_id, self.eom_token_id];
        let mut ends: Vec<u32> = named.into_iter().flatten().collect();
        ends.extend(&self.eos_token_ids);
        ends.extend(self.default_id("eos"));
        let by_texts = ENDS.iter().filter(|text| !self.goes_on(text));
        ends.extend(by_texts.filter_map(|text| by_text(text)).map(|id| id as u32));
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    fn goes_on(&self, text: &str) -> bool {
        let has = |text: &&str| self.tokens.iter().any(|token| token == text);
        NO_ENDS.iter().any(|(no_end, others)| *no_end == text && others.iter().all(has))
    }

    /// As templates know them.
    pub(in super::super) fn named(&self) -> BTreeMap<String, String> {
        let ids = [
            ("bos_token", self.bos_token_id.or(self.default_id("bos"))),
            ("eos_token", self.eos_token_id.or(self.default_id("eos"))),
            ("unk_token", self.unknown_token_id.or(self.default_id("unk"))),
            ("sep_token", self.seperator_token_id.or(self.default_id("sep"))),
            ("pad_token", self.padding_token_id),
            ("mask_token", self.mask_token_id),
            ("cls_token", self.cls_token_id),
        ];
        let text = |id: Option<u32>| self.tokens.get(id? as usize).cloned();
        let named = ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), text(id)?)));
        named.collect()
    }

    /// What files leave unsaid.
    fn default_id(&self, name: &str) -> Option<u32> {
        let said = match name {
            "eos" => self.eos_token_id,
            "bos" => self.bos_token_id,
            "unk" => self.unknown_token_id,
            _ => self.seperator_token_id,
        };
        let id = match (self.model.as_str(), name) {
            _ if said.is_some() => return said,
            ("llama", "bos") => 1,
            ("llama", "eos") => 2,
            ("llama", "unk") => 0,
            ("bert", "bos") => 101,
            ("bert", "unk") => 100,
            ("bert", "sep") => 102,
            ("t5", "eos") => 1,
            ("t5", "unk") => 2,
            _ => return None,
        };
        self.tokens.get(id as usize).map(|_| id)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.tokens.is_empty() {
            return Err(bad("tokens", "there are none"));
        }
        let size = self.tokens.len();
        for (entry, length) in
            [("scores", self.scores.len()), ("token_type", self.token_type.len())]
        {
            if length != 0 && length < size {
                return Err(bad(entry, format!("{length} entries for {size} tokens")));
            }
        }
        Ok(())
    }

    pub(super) fn kind(&self, id: usize) -> Kind {
        let number = self.token_type.get(id).copied().unwrap_or(1);
        Kind::from_number(u64::try_from(number).unwrap_or(1))
    }

    pub(super) fn pre(&self) -> Result<Pre> {
        let name = match self.model.as_str() {
            "gemma4" => "gemma4",
            _ => self.pre.as_deref().filter(|name| !name.is_empty()).unwrap_or("default"),
        };
        patterns::named(name)
            .ok_or_else(|| bad("pre", format!("no pre-tokenizer is known by the name `{name}`")))
    }

    pub(super) fn around(&self) -> Result<Around> {
        let begins = match self.model.as_str() {
            "llama" | "bert" => true,
            "t5" => false,
            _ => self.pre()?.begins,
        };
        let begin = self.bos_token_id.or(self.default_id("bos"));
        if self.model == "bert" {
            let begin = self.cls_token_id.or(begin);
            let end = self.seperator_token_id.or(self.default_id("sep"));
            return Ok(Around {
                before: begin.into_iter().collect(),
                after: end.into_iter().collect(),
            });
        }
        let end = self.eos_token_id.or(self.default_id("eos"));
        // A file of that family says no where it means yes.
        let begins = self.add_bos_token.unwrap_or(begins) || self.is_gemma4();
        let ends = self.add_eos_token.unwrap_or(self.model == "t5");
        Ok(Around {
            before: begin.filter(|_| begins).into_iter().collect(),
            after: end.filter(|_| ends).into_iter().collect(),
        })
    }

    fn is_gemma4(&self) -> bool {
        self.model == "gemma4" || self.pre.as_deref() == Some("gemma4")
    }

    /// Tokens that are cut out of a text before all else.
    pub(super) fn added(&self) -> Vec<AddedToken> {
        let added = self.tokens.iter().enumerate().filter_map(|(id, text)| {
            let token = AddedToken::special(id as u32, text.clone());
            match self.kind(id) {
                Kind::Control | Kind::Unknown => Some(token),
                Kind::UserDefined => Some(AddedToken { special: false, ..token }),
                _ => None,
            }
        });
        let stripping = self.stripping();
        let added = added.map(|token| AddedToken { lstrip: stripping == Some(token.id), ..token });
        added.filter(|token| !token.text.is_empty()).collect()
    }

    /// A mask token takes the blanks before it in the families of RoBERTa, which the format cannot say.
    fn stripping(&self) -> Option<u32> {
        let families = ["jina-v2-de", "jina-v2-es", "jina-v2-code", "roberta-bpe", "modern-bert"];
        let pre = self.pre.as_deref()?;
        self.mask_token_id.filter(|_| families.contains(&pre))
    }
}
