//! How byte-level vocabularies cut a text into words: the expressions that published models were trained with, by the
//! names GGUF files call them, which are those of llama.cpp.
//!
//! The expressions are facts about the models, as their `tokenizer.json` states them. Each of a list cuts what the one
//! before has left, into its matches and what lies between them.

/// Everything a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pre {
    pub steps: &'static [&'static str],
    /// A word that is a token is not put together from its parts.
    pub whole_words: bool,
    /// The text is composed (NFC) first.
    pub composed: bool,
    /// Texts begin with the begin token if the file says nothing about it.
    pub begins: bool,
    /// Tokens are spelled in characters, with `▁` for blanks and `<0xNN>` for bytes, instead of GPT-2's alphabet.
    pub characters: bool,
}

/// Not an expression: runs of digits are cut into threes, counted from their end.
pub(crate) const THREES: &str = "threes";
/// The same, for runs that no letter follows.
pub(crate) const THREES_OF_WORDS: &str = "threes of words";

pub(crate) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const NO_CONTRACTIONS: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GRANITE_EMBEDDING: &str = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}\p{M}])([^a-z]))*((?=[\p{L}\p{M}])([^A-Z]))+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?((?=[\p{L}\p{M}])([^a-z]))+((?=[\p{L}\p{M}])([^A-Z]))*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const IDEOGRAPHS: &str = "[一-龥\u{3040}-ゟ゠-ヿ]+";
const EAST_ASIAN: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
const AFMOE_SCRIPTS: &str = "[一-\u{9fff}㐀-\u{4dbf}\u{f900}-\u{faff}\u{3040}-ゟ゠-ヿ･-ﾟ⼀-\u{2fdf}\u{0e00}-\u{0e7f}\u{0e80}-\u{0eff}ក-\u{17ff}က-႟ꩠ-ꩿꧠ-\u{a9ff}가-\u{d7af}ᄀ-ᇿ]+";
const YOUTU_SCRIPTS: &str =
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u{3040}-ゟ゠-ヿ]+";
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const LINES: &str = r"[^\n]+|[\n]+";
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+";

const PLAIN: Pre =
    Pre { steps: &[GPT2], whole_words: false, composed: false, begins: false, characters: false };

const fn steps(steps: &'static [&'static str]) -> Pre {
    Pre { steps, ..PLAIN }
}

const fn whole(pre: Pre) -> Pre {
    Pre { whole_words: true, ..pre }
}

const fn begins(pre: Pre) -> Pre {
    Pre { begins: true, ..pre }
}

const fn composed(pre: Pre) -> Pre {
    Pre { composed: true, ..pre }
}

const SPELLED: Pre = Pre { characters: true, ..steps(&[LINES]) };

#[rustfmt::skip]
const TABLE: &[(&[&str], Pre)] = &[
    (&["default"], steps(&[PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]"])),
    (&["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
     begins(whole(steps(&[LLAMA3])))),
    (&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], steps(&[LLAMA3])),
    (&["minicpm5"], whole(steps(&[r"\p{N}{1,3}", MINICPM5]))),
    (&["jais-2"], steps(&[JAIS2])),
    (&["deepseek-llm"], steps(&["[\r\n]", DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+", r"\s+$", EAST_ASIAN, r"\p{N}+"])),
    (&["deepseek-coder"], steps(&["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, r"\p{N}"])),
    (&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], steps(&[r"\p{N}{1,3}", IDEOGRAPHS, DEEPSEEK3])),
    (&["spark2_5"], steps(&[r"\p{N}{1,3}", IDEOGRAPHS, SPARK, r"\p{N}"])),
    (&["youtu"], whole(steps(&[YOUTU_SCRIPTS, YOUTU]))),
    (&["falcon"], steps(&[PUNCTUATION, GPT2, "[0-9][0-9][0-9]"])),
    (&["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
     steps(&[r"\p{N}", GPT2])),
    (&["gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
       "modern-bert", "exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling", "jina-v1-en", "jina-v2-code",
       "roberta-bpe"], PLAIN),
    (&["stablelm2", "hunyuan", "solar-open", "megrez", "grok-2"], steps(&[QWEN2])),
    (&["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2"], composed(steps(&[QWEN2]))),
    (&["qwen35"], composed(steps(&[QWEN35]))),
    (&["ufakzeka"], steps(&[NO_CONTRACTIONS])),
    (&["poro-chat", "bloom", "gpt3-finnish"], steps(&[BLOOM])),
    (&["viking"], steps(&[BLOOM, r"\p{N}"])),
    (&["tekken"], begins(whole(steps(&[TEKKEN])))),
    (&["chameleon"], begins(steps(&["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
       "([\\t\\n]|    |  )", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2]))),
    (&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], steps(&[O200K])),
    (&["granite-embed-multi-97m"], whole(steps(&[GRANITE_EMBEDDING]))),
    (&["tiny_aya", "cohere2moe"], steps(&[THREES_OF_WORDS, O200K])),
    (&["kimi-k2"], steps(&[KIMI])),
    (&["superbpe"], steps(&[r"\p{N}+", THREES])),
    (&["bailingmoe", "bailingmoe2", "llada-moe"], steps(&[BAILING])),
    (&["seed-coder"], steps(&[SEED_CODER])),
    (&["afmoe"], steps(&[THREES, AFMOE_SCRIPTS, DEEPSEEK3])),
    (&["laguna"], steps(&[LINES, QWEN2])),
    (&["exaone-moe"], steps(&[EXAONE_MOE])),
    (&["gemma4", "granite-embed-multi-311m"], begins(SPELLED)),
    (&["sarvam-moe"], SPELLED),
];

pub(crate) fn named(name: &str) -> Option<Pre> {
    TABLE.iter().find(|(names, _)| names.contains(&name)).map(|(_, pre)| *pre)
}

/// Whether it is an expression that some published models were trained with.
pub(crate) fn is_known(pattern: &str) -> bool {
    TABLE.iter().any(|(_, pre)| pre.steps.contains(&pattern))
}

#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = (&'static str, Pre)> {
    TABLE.iter().flat_map(|(names, pre)| names.iter().map(|name| (*name, *pre)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        let names: Vec<&str> = all().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 89);
        for name in &names {
            assert_eq!(names.iter().filter(|other| other == &name).count(), 1, "{name}");
        }
        let flags = |name: &str| named(name).map(|pre| (pre.whole_words, pre.composed, pre.begins));
        assert_eq!(flags("llama-bpe"), Some((true, false, true)));
        assert_eq!(flags("qwen2"), Some((false, true, false)));
        assert_eq!(flags("no such name"), None);
    }
}
