//! Which pages there are, who has them, and of which pages each sequence consists. Knows no keys and no values: what a
//! page consists of is somebody's `P`, which is dropped with the last who has the page.
//!
//! A page is had by slots, each once, and held by others, any number of times. Its window part (what layers with a
//! sliding window need of it) is counted by itself: slots give theirs up as they grow, holders when they like. A page
//! that only one slot has is written in place; any other is replaced by a copy in that slot first.

use super::{Page, REWIND_TOKENS, SLOTS_MAX, Slot};

pub(super) struct Table<P> {
    /// Of a page.
    pub tokens: usize,
    /// The longest of all layers.
    pub window: Option<usize>,
    pages: Vec<Option<Entry<P>>>,
    free: Vec<Page>,
    slots: Vec<Option<Sequence>>,
}

pub(super) struct Entry<P> {
    pub whole: Option<P>,
    pub window: Option<P>,
    slots: u32,
    holds: u32,
    window_slots: u32,
    window_holds: u32,
}

struct Sequence {
    pages: Vec<Page>,
    length: usize,
    /// So many pages at the beginning whose window part it has given up.
    gone: usize,
}

/// What a page consists of: for all layers without and for those with a window.
pub(super) type Parts<P> = (Option<P>, Option<P>);

impl<P: Clone> Table<P> {
    pub fn new(tokens: usize, window: Option<usize>) -> Table<P> {
        assert!(tokens > 0, "pages without tokens");
        Table { tokens, window, pages: Vec::new(), free: Vec::new(), slots: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.in_use() == 0 && self.slots.iter().all(Option::is_none)
    }

    pub fn in_use(&self) -> usize {
        self.pages.len() - self.free.len()
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry<P>> {
        self.pages.iter().flatten()
    }

    pub fn entry(&self, page: Page) -> &Entry<P> {
        let entry = self.pages.get(page.index()).and_then(Option::as_ref);
        entry.unwrap_or_else(|| panic!("{page:?} is not there"))
    }

    pub fn entry_mut(&mut self, page: Page) -> &mut Entry<P> {
        let entry = self.pages.get_mut(page.index()).and_then(Option::as_mut);
        entry.unwrap_or_else(|| panic!("{page:?} is not there"))
    }

    pub fn open(&mut self) -> Slot {
        self.open_as(Sequence { pages: Vec::new(), length: 0, gone: 0 })
    }

    fn open_as(&mut self, sequence: Sequence) -> Slot {
        let free = self.slots.iter().position(Option::is_none);
        let index = free.unwrap_or(self.slots.len());
        assert!(index < SLOTS_MAX, "more than {SLOTS_MAX} slots are open");
        if index == self.slots.len() {
            self.slots.push(None);
        }
        for (place, page) in sequence.pages.iter().enumerate() {
            let entry = self.entry_mut(*page);
            entry.slots += 1;
            entry.window_slots += u32::from(place >= sequence.gone);
        }
        self.slots[index] = Some(sequence);
        Slot(index as u32)
    }

    /// The sequence shares these pages, of which `is_resumable` must hold.
    pub fn open_on(&mut self, pages: &[Page], length: usize) -> Slot {
        assert_eq!(pages.len(), length.div_ceil(self.tokens), "pages for {length} tokens");
        assert!(self.is_resumable(pages, length), "windows of {length} tokens are not there");
        let gone = match self.window {
            Some(_) => {
                let missing = pages.iter().rposition(|page| !self.entry(*page).has_window());
                missing.map_or(0, |page| page + 1).max(self.behind(length)).min(pages.len())
            }
            None => 0,
        };
        self.open_as(Sequence { pages: pages.to_vec(), length, gone })
    }

    /// Whether these are the pages of so many tokens, and what the next query sees of them is there.
    pub fn is_resumable(&self, pages: &[Page], length: usize) -> bool {
        let fits = pages.len() == length.div_ceil(self.tokens);
        fits && pages[self.seen(length).min(pages.len())..]
            .iter()
            .all(|page| self.entry(*page).has_window())
    }

    /// The first page that a query at `length` sees.
    fn seen(&self, length: usize) -> usize {
        self.window.map_or(usize::MAX, |window| length.saturating_sub(window - 1) / self.tokens)
    }

    /// So many pages are behind every window of a sequence of this length, also when it goes back a little.
    fn behind(&self, length: usize) -> usize {
        self.window
            .map_or(0, |window| length.saturating_sub(window - 1 + REWIND_TOKENS) / self.tokens)
    }

    pub fn close(&mut self, slot: Slot) {
        self.sequence(slot);
        if let Some(sequence) = self.slots[slot.index()].take() {
            self.leave(&sequence.pages, 0, sequence.gone);
        }
    }

    /// A slot gives up pages, the first of which is number `first` of its pages.
    fn leave(&mut self, pages: &[Page], first: usize, gone: usize) {
        for (place, page) in pages.iter().enumerate() {
            let entry = self.entry_mut(*page);
            entry.slots -= 1;
            entry.window_slots -= u32::from(first + place >= gone);
            self.settle(*page);
        }
    }

    pub fn length(&self, slot: Slot) -> usize {
        self.sequence(slot).length
    }

    pub fn pages(&self, slot: Slot) -> &[Page] {
        &self.sequence(slot).pages
    }

    /// The number of the first page whose window part the slot still has.
    pub fn gone(&self, slot: Slot) -> usize {
        self.sequence(slot).gone
    }

    pub fn can_rewind(&self, slot: Slot, length: usize) -> bool {
        let sequence = self.sequence(slot);
        length <= sequence.length && (length == 0 || sequence.gone <= self.seen(length))
    }

    pub fn rewind(&mut self, slot: Slot, length: usize) {
        let whole = self.length(slot);
        assert!(length <= whole, "{slot:?} remembers {whole} tokens and cannot go to {length}");
        assert!(self.can_rewind(slot, length), "{slot:?} has forgotten what it needs at {length}");
        let count = length.div_ceil(self.tokens);
        let sequence = self.sequence_mut(slot);
        sequence.length = length;
        let rest = sequence.pages.split_off(count);
        let gone = sequence.gone;
        sequence.gone = gone.min(count);
        self.leave(&rest, count, gone);
    }

    pub fn fork(&mut self, slot: Slot, length: usize) -> Slot {
        let whole = self.length(slot);
        assert!(length <= whole, "{slot:?} remembers {whole} tokens, not {length}");
        assert!(self.can_rewind(slot, length), "{slot:?} has forgotten what it needs at {length}");
        let count = length.div_ceil(self.tokens);
        let Sequence { pages, gone, .. } = self.sequence(slot);
        let (pages, gone) = (pages[..count].to_vec(), (*gone).min(count));
        self.open_as(Sequence { pages, length, gone })
    }

    /// Room for `count` more tokens, whose pages come from `make`. Where the first of them goes into a page that others
    /// have too, that is replaced: what to copy from, and the page to copy to.
    pub fn grow(
        &mut self,
        slot: Slot,
        count: usize,
        mut make: impl FnMut() -> Parts<P>,
    ) -> Option<(Parts<P>, Page)> {
        let Sequence { pages, length, .. } = self.sequence(slot);
        let (length, last) = (*length, pages.last().copied());
        let end = length + count;
        let mut copied = None;
        let within = !length.is_multiple_of(self.tokens) && count > 0;
        if let Some(old) = last.filter(|last| within && self.entry(*last).is_shared()) {
            let new = self.add(make(), |entry| (entry.slots, entry.window_slots) = (1, 1));
            if let Some(last) = self.sequence_mut(slot).pages.last_mut() {
                *last = new;
            }
            // The slot may be the last who needs the window part.
            let Entry { whole, window, .. } = self.entry(old);
            copied = Some(((whole.clone(), window.clone()), new));
            self.leave(&[old], 0, 0);
        }
        while self.pages(slot).len() < end.div_ceil(self.tokens) {
            let new = self.add(make(), |entry| (entry.slots, entry.window_slots) = (1, 1));
            self.sequence_mut(slot).pages.push(new);
        }
        self.sequence_mut(slot).length = end;
        copied
    }

    /// Gives up what lies behind the slot's window.
    pub fn forget(&mut self, slot: Slot) {
        let behind = self.behind(self.length(slot));
        let Sequence { pages, gone, .. } = self.sequence_mut(slot);
        let old: Vec<Page> = pages.get(*gone..behind).unwrap_or_default().to_vec();
        *gone = behind.max(*gone);
        for page in old {
            self.entry_mut(page).window_slots -= 1;
            self.settle(page);
        }
    }

    /// A page that is held once.
    pub fn insert(&mut self, parts: Parts<P>, has_window: bool) -> Page {
        self.add(parts, |entry| (entry.holds, entry.window_holds) = (1, u32::from(has_window)))
    }

    fn add(&mut self, (whole, window): Parts<P>, had: impl FnOnce(&mut Entry<P>)) -> Page {
        let mut entry =
            Entry { whole, window, slots: 0, holds: 0, window_slots: 0, window_holds: 0 };
        had(&mut entry);
        let page = self.free.pop().unwrap_or_else(|| {
            self.pages.push(None);
            Page(self.pages.len() as u32 - 1)
        });
        self.pages[page.index()] = Some(entry);
        page
    }

    pub fn hold(&mut self, page: Page) {
        let entry = self.entry_mut(page);
        entry.window_holds += u32::from(entry.has_window());
        entry.holds += 1;
    }

    pub fn release(&mut self, page: Page) {
        let entry = self.entry_mut(page);
        assert!(entry.holds > 0, "{page:?} is not held");
        entry.holds -= 1;
        // Whoever lets go of a page is taken for one who gave up its window part before, if anybody did.
        entry.window_holds = entry.window_holds.min(entry.holds);
        self.settle(page);
    }

    pub fn release_window(&mut self, page: Page) {
        let entry = self.entry_mut(page);
        assert!(entry.holds > 0, "{page:?} is not held");
        entry.window_holds = entry.window_holds.saturating_sub(1);
        self.settle(page);
    }

    fn settle(&mut self, page: Page) {
        let entry = self.entry_mut(page);
        if entry.slots + entry.holds == 0 {
            self.pages[page.index()] = None;
            self.free.push(page);
        } else if !entry.has_window() {
            entry.window = None;
        }
    }

    /// The slots that have a page, and its number among their pages.
    pub fn owners(&self, page: Page) -> impl Iterator<Item = (Slot, usize)> {
        let place = move |sequence: &Sequence| sequence.pages.iter().position(|p| *p == page);
        self.slots.iter().enumerate().filter_map(move |(index, sequence)| {
            Some((Slot(index as u32), place(sequence.as_ref()?)?))
        })
    }

    fn sequence(&self, slot: Slot) -> &Sequence {
        let sequence = self.slots.get(slot.index()).and_then(Option::as_ref);
        sequence.unwrap_or_else(|| panic!("{slot:?} is not open"))
    }

    fn sequence_mut(&mut self, slot: Slot) -> &mut Sequence {
        let sequence = self.slots.get_mut(slot.index()).and_then(Option::as_mut);
        sequence.unwrap_or_else(|| panic!("{slot:?} is not open"))
    }
}

impl<P> Entry<P> {
    pub fn has_window(&self) -> bool {
        self.window_slots + self.window_holds > 0
    }

    pub fn is_shared(&self) -> bool {
        self.slots + self.holds > 1
    }
}
