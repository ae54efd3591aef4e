//! A set of tokens, one bit each.

/// Bit `id % 32` of word `id / 32` says whether the token may be drawn. Ids beyond its length may not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u32>,
}

impl Mask {
    pub(crate) fn none(tokens: usize) -> Mask {
        Mask { words: vec![0; tokens.div_ceil(32)] }
    }

    pub(crate) fn from_words(words: Vec<u32>) -> Mask {
        Mask { words }
    }

    pub fn words(&self) -> &[u32] {
        &self.words
    }

    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The allowed ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index as u32 * 32 + bit)
        })
    }

    pub(crate) fn allow(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word |= 1 << (id % 32);
        }
    }

    pub(crate) fn forbid(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// Takes out the tokens of the other, unless nothing would be left.
    pub(crate) fn without(&mut self, other: &Mask) {
        let left = self.words.iter().zip(&other.words).any(|(own, other)| own & !other != 0);
        if left {
            self.words.iter_mut().zip(&other.words).for_each(|(own, other)| *own &= !other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_ids() {
        let mut mask = Mask::none(70);
        for id in [0, 31, 32, 69] {
            mask.allow(id);
        }
        mask.allow(1000);
        assert_eq!(mask.ids().collect::<Vec<_>>(), [0, 31, 32, 69]);
        assert!(mask.allows(69) && !mask.allows(1) && !mask.allows(1000));
        mask.forbid(32);
        assert_eq!((mask.count(), mask.is_empty()), (3, false));
    }

    #[test]
    fn the_last_way_out_stays_open() {
        let of = |ids: &[u32]| {
            let mut mask = Mask::none(64);
            ids.iter().for_each(|id| mask.allow(*id));
            mask
        };
        let mut mask = of(&[1, 2, 40]);
        mask.without(&of(&[2]));
        assert_eq!(mask, of(&[1, 40]));
        mask.without(&of(&[1, 40, 41]));
        assert_eq!(mask, of(&[1, 40]));
    }
}
