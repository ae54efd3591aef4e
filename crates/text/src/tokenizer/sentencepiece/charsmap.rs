//! SentencePiece's precompiled normalisation rules: a double-array trie (darts-clone) from character sequences to their
//! replacements. Models carry it as one blob: the trie's size in bytes, its units, and the replacements, each ended
//! by a zero byte.

#[derive(Clone, Debug, Default)]
pub(crate) struct Charsmap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl Charsmap {
    /// An empty blob has no rules.
    pub(crate) fn parse(blob: &[u8]) -> Result<Charsmap, String> {
        if blob.is_empty() {
            return Ok(Charsmap::default());
        }
        let broken = || "its normalisation rules are cut off".to_owned();
        let (size, rest) = blob.split_first_chunk::<4>().ok_or_else(broken)?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, replacements) = rest.split_at_checked(size).ok_or_else(broken)?;
        let (units, _) = trie.as_chunks::<4>();
        let units = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Charsmap { units, replacements: replacements.to_vec() })
    }

    /// How many bytes the longest rule at the beginning of `text` takes, and what it puts in their place.
    pub(crate) fn replace(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        let (length, start) = self.longest(text)?;
        let replacement = self.replacements.get(start..)?;
        Some((length, replacement.split(|byte| *byte == 0).next()?))
    }

    fn longest(&self, text: &[u8]) -> Option<(usize, usize)> {
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (index, byte) in text.iter().enumerate() {
            at ^= u32::from(*byte);
            let Some(unit) = self.units.get(at as usize).copied() else { break };
            if label(unit) != u32::from(*byte) {
                break;
            }
            at ^= offset(unit);
            if has_leaf(unit)
                && let Some(leaf) = self.units.get(at as usize)
            {
                found = Some((index + 1, (leaf & 0x7fff_ffff) as usize));
            }
        }
        found
    }
}

/// A leaf's label is never a byte.
fn label(unit: u32) -> u32 {
    unit & 0x8000_00ff
}

fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & 1 << 9) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_rules_are_refused_or_silent() {
        for bad in [&[1u8, 0, 0][..], &[8, 0, 0, 0, 1, 2, 3, 4], &[255; 12]] {
            assert!(Charsmap::parse(bad).is_err(), "{bad:?}");
        }
        let rules = Charsmap::parse(&[]).unwrap();
        assert_eq!(rules.replace(b"abc"), None);
        // Units that point anywhere.
        let mut state = crate::random::Random(5);
        for _ in 0..2000 {
            let mut blob = vec![64, 0, 0, 0];
            blob.extend((0..70).map(|_| state.next() as u8));
            let rules = Charsmap::parse(&blob).unwrap();
            let text: Vec<u8> = (0..9).map(|_| state.next() as u8).collect();
            if let Some((length, _)) = rules.replace(&text) {
                assert!((1..=9).contains(&length));
            }
        }
    }
}
