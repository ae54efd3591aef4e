//! The sha256 that names a blob. Always lower case, `sha256:` in JSON, `sha256-` as a file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A digest in the making.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

/// Ollama's words, which clients show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest format")]
pub struct DigestError;

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Accepts `sha256:` and `sha256-`, and hex digits of either case.
    pub fn parse(text: &str) -> Result<Digest, DigestError> {
        let hex = text.strip_prefix("sha256").ok_or(DigestError)?;
        let hex = hex.strip_prefix([':', '-']).ok_or(DigestError)?.as_bytes();
        let mut bytes = [0; 32];
        if hex.len() != 2 * bytes.len() {
            return Err(DigestError);
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Digest(bytes))
    }

    /// 64 lower-case hex digits, as model lists show it.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn file_name(&self) -> String {
        format!("sha256-{}", self.hex())
    }
}

impl Hasher {
    pub fn new() -> Hasher {
        Hasher::default()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    char::from(digit).to_digit(16).map(|value| value as u8).ok_or(DigestError)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        Digest::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        Digest::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(text: &str, is_digest: bool) {
        let got = Digest::parse(text);
        assert_eq!(got.is_ok(), is_digest, "{text}");
        if is_digest {
            assert_eq!(got, Ok(Digest::of(b"")));
            assert_eq!(got.unwrap().to_string(), format!("sha256:{HEX}"));
        }
    }

    #[test]
    fn one_spelling_out_several_in() {
        check(&format!("sha256:{HEX}"), true);
        check(&format!("sha256-{HEX}"), true);
        check(&format!("sha256:{}", HEX.to_uppercase()), true);
        check(HEX, false);
        check("", false);
        check("nonsense", false);
        check(&format!("sha256:{}", &HEX[1..]), false);
        check(&format!("sha256:{HEX}0"), false);
        check(&format!("sha256:+{}", &HEX[1..]), false);
        check(&format!("sha256:{}", "é".repeat(32)), false);
        check(&format!("SHA256:{HEX}"), false);
    }
}
