//! An executor without a model, for the tests of the step loop: it remembers what it was fed, and the token it draws is a
//! function of that alone, so that a sequence's reply is known before it is served.
//!
//! Its pages are lists of tokens, and it is strict: pages are counted exactly, a page that is not the writer's alone is
//! never written, a recurrent state fits its length, a window finds what it looks back at, and nothing is used after it
//! was given up. Of a step that is parted the rest's slots are not touched before they are through. Its time is its own: a
//! step takes what its rows say, and what the machine's moods add.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use protocol::{Failure, FailureKind, MemoryReport};

use mlx::Edit;
use text::constraint::Mask;

use crate::executor::{Drawn, Executor, Feed, Hurry, Input, Onward};
use crate::pace::Load;
use crate::sampling::Edits;

/// The end token of the tokenizer that these tests use.
pub(crate) const END: u32 = 500;

/// What kind of model and device it plays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    pub page_tokens: usize,
    /// Pages (and states, at `STATE_PAGES` each) that fit.
    pub budget_pages: usize,
    /// What each page of a running sequence takes beside it, in pages.
    pub lane_pages: usize,
    pub is_recurrent: bool,
    /// Positions that its windows look back at.
    pub window: Option<usize>,
    /// What a step takes, each of its rows, and each token that a row attends to.
    pub step_time: Duration,
    pub row_time: Duration,
    pub history_time: Duration,
    /// Whether steps take the cores of the loop.
    pub shares_cores: bool,
    /// Whether steps can be parted; only where they do.
    pub parts: bool,
    pub moods: Moods,
}

/// How steady a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moods {
    Steady,
    /// Each step takes a tenth more or less, and now and then the machine becomes twice as slow, or itself again.
    Changing(u64),
}

/// How often a step that can be parted looks at the clock.
const GLANCES: u32 = 10;

/// What one recurrent state takes, in pages.
pub(crate) const STATE_PAGES: usize = 2;

const PAGE_BYTES: usize = 1000;

pub(crate) struct ScriptedExecutor {
    script: Script,
    slots: BTreeMap<usize, Slot>,
    next_slot: usize,
    pages: Vec<PageData>,
    free: Vec<usize>,
    now: Duration,
    /// When the device is done with all that it was given.
    busy_until: Duration,
    moods: u64,
    is_slow: bool,
    /// The slots of rests, with their lengths before.
    unfinished: Unfinished,
    /// Steps that were parted.
    pub parted: usize,
    /// Tokens computed, and the longest single step.
    pub computed: usize,
    pub longest_step: usize,
    pub steps: usize,
    /// Slots that were opened.
    pub opened: usize,
    /// Between two tokens of one slot.
    pub longest_gap: Duration,
    /// The step after this many fails, when it is dispatched or when it is read.
    pub fail_after: Option<usize>,
    pub fail_reading_after: Option<usize>,
    /// Steps of more rows than this have no room.
    pub rows_max: Option<usize>,
    /// Nor have steps with this token of a prompt.
    pub heavy: Option<u32>,
}

#[derive(Clone, Default)]
struct Slot {
    pages: Vec<ScriptedPage>,
    length: usize,
    drawn: Option<u32>,
    drawn_at: Option<Duration>,
    state: Summary,
    /// Pages of which the windows were given up already.
    left_behind: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ScriptedPage(usize);

#[derive(Clone, Default)]
struct PageData {
    tokens: Vec<u32>,
    slots: usize,
    held: usize,
    /// Of those, who still has the windows' part.
    window_slots: usize,
    window_held: usize,
}

/// What a recurrent model knows: all that its tokens come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub length: usize,
    free: u32,
    formed: u32,
}

impl Default for Summary {
    fn default() -> Summary {
        Summary { length: 0, free: 17, formed: 29 }
    }
}

impl Summary {
    pub fn of(history: &[u32]) -> Summary {
        history.iter().fold(Summary::default(), |summary, token| summary.with(*token))
    }

    pub fn with(self, token: u32) -> Summary {
        Summary {
            length: self.length + 1,
            free: self.free.wrapping_mul(31).wrapping_add(token),
            formed: self.formed.wrapping_mul(37).wrapping_add(token),
        }
    }

    pub fn next(self) -> u32 {
        if self.free.is_multiple_of(41) { END } else { 1 + self.free % 400 }
    }

    /// As `next` or `next_of`; edits change what comes, whatever their order.
    fn drawn(self, edits: &Edits) -> u32 {
        // Nothing withstands such a bias.
        if let Some(edit) = edits.tokens.iter().find(|edit| edit.bias >= 1e9) {
            return edit.token;
        }
        let salt = |edit: &Edit| {
            let numbers =
                [edit.token, edit.bias.to_bits(), edit.repeat.to_bits(), edit.minus.to_bits()];
            numbers.iter().fold(7, |hash: u32, number| hash.wrapping_mul(31).wrapping_add(*number))
        };
        let salt = edits.tokens.iter().map(salt).fold(0, u32::wrapping_add);
        let (free, formed) = (self.free.wrapping_add(salt), self.formed.wrapping_add(salt));
        let edited = Summary { free, formed, ..self };
        edits.mask.as_ref().map_or_else(|| edited.next(), |mask| edited.next_of(mask))
    }

    fn next_of(self, mask: &Mask) -> u32 {
        let ids: Vec<u32> = mask.ids().collect();
        match mask.allows(END) && self.formed.is_multiple_of(3) {
            true => END,
            false => ids[self.formed as usize / 7 % ids.len()],
        }
    }
}

/// The token that follows this history.
pub(crate) fn next(history: &[u32]) -> u32 {
    Summary::of(history).next()
}

/// The token that follows it after edits.
pub(crate) fn drawn(history: &[u32], edits: &Edits) -> u32 {
    Summary::of(history).drawn(edits)
}

/// The token that follows it within a form: an end if there may be one, now and then.
pub(crate) fn next_of(history: &[u32], mask: &Mask) -> u32 {
    Summary::of(history).next_of(mask)
}

/// A step: what it drew, and which of its draws wait for a mask.
pub(crate) struct ScriptedTicket {
    drawn: Vec<Vec<Drawn>>,
    waiting: Vec<Waiting>,
    done: Duration,
    fails: bool,
}

type Unfinished = Rc<RefCell<BTreeMap<usize, usize>>>;

/// What stays of a step that was parted.
pub(crate) struct ScriptedRest {
    ticket: ScriptedTicket,
    slots: Vec<usize>,
    drawing: Vec<usize>,
    left: Duration,
    unfinished: Unfinished,
}

impl Drop for ScriptedRest {
    fn drop(&mut self) {
        self.unfinished.borrow_mut().retain(|slot, _| !self.slots.contains(slot));
    }
}

struct Waiting {
    feed: usize,
    row: usize,
    is_last: bool,
    slot: usize,
    history: Summary,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            page_tokens: 8,
            budget_pages: 100_000,
            lane_pages: 0,
            is_recurrent: false,
            window: None,
            step_time: Duration::from_millis(20),
            row_time: Duration::from_millis(5),
            history_time: Duration::ZERO,
            shares_cores: false,
            parts: false,
            moods: Moods::Steady,
        }
    }
}

impl ScriptedExecutor {
    pub fn new() -> ScriptedExecutor {
        ScriptedExecutor::with(Script::default())
    }

    pub fn with(script: Script) -> ScriptedExecutor {
        ScriptedExecutor {
            script,
            slots: BTreeMap::new(),
            next_slot: 0,
            pages: Vec::new(),
            free: Vec::new(),
            now: Duration::ZERO,
            busy_until: Duration::ZERO,
            moods: 0,
            is_slow: false,
            unfinished: Unfinished::default(),
            parted: 0,
            computed: 0,
            longest_step: 0,
            steps: 0,
            opened: 0,
            longest_gap: Duration::ZERO,
            fail_after: None,
            fail_reading_after: None,
            rows_max: None,
            heavy: None,
        }
    }

    pub fn open_with(&mut self, tokens: &[u32]) -> usize {
        let slot = self.open();
        tokens.iter().for_each(|token| self.push(slot, *token));
        slot
    }

    pub fn remembered(&self, slot: usize) -> Vec<u32> {
        let slot = &self.slots[&slot];
        let tokens = slot.pages.iter().enumerate().flat_map(|(index, page)| {
            let length =
                (slot.length - index * self.script.page_tokens).min(self.script.page_tokens);
            self.pages[page.0].tokens[..length].iter().copied()
        });
        tokens.collect()
    }

    pub fn open_slots(&self) -> usize {
        self.slots.len()
    }

    /// What is drawn from is what is in the pages.
    fn check(&self, slot: usize) {
        assert!(!self.unfinished.borrow().contains_key(&slot), "slot {slot} is not through");
        let state = self.slots[&slot].state;
        assert_eq!(state, Summary::of(&self.remembered(slot)), "slot {slot} has other pages");
    }

    fn push(&mut self, slot: usize, token: u32) {
        assert!(!self.unfinished.borrow().contains_key(&slot), "slot {slot} is not through");
        let page_tokens = self.script.page_tokens;
        let mut at = self.slots.remove(&slot).expect("fed a closed slot");
        assert!(
            !self.script.is_recurrent || at.state.length == at.length,
            "a state of another length"
        );
        self.look_back(&at);
        let within = at.length % page_tokens;
        if within == 0 {
            let page = self.new_page(Vec::new());
            at.pages.push(page);
        } else {
            let last = *at.pages.last().unwrap();
            let data = &self.pages[last.0];
            assert!(data.tokens.len() >= within, "a page holds less than its slot remembers");
            if data.slots + data.held > 1 {
                let page = self.new_page(data.tokens[..within].to_vec());
                self.leave(last, true);
                *at.pages.last_mut().unwrap() = page;
            }
        }
        let last = &mut self.pages[at.pages.last().unwrap().0];
        assert_eq!((last.slots, last.held), (1, 0), "a shared page is written");
        last.tokens.truncate(within);
        last.tokens.push(token);
        at.length += 1;
        at.state = at.state.with(token);
        self.leave_windows(&mut at);
        self.slots.insert(slot, at);
    }

    /// What windows need must be there.
    fn look_back(&self, slot: &Slot) {
        let Some(window) = self.script.window else { return };
        let first = slot.length.saturating_sub(window) / self.script.page_tokens;
        for page in &slot.pages[first..] {
            assert!(self.has_window(*page), "a window looks at what was given up");
        }
    }

    fn has_window(&self, page: ScriptedPage) -> bool {
        let data = &self.pages[page.0];
        data.window_slots + data.window_held > 0
    }

    fn leave_windows(&mut self, slot: &mut Slot) {
        let Some(window) = self.script.window else { return };
        let behind = slot.length.saturating_sub(window) / self.script.page_tokens;
        for index in slot.left_behind..behind {
            self.pages[slot.pages[index].0].window_slots -= 1;
        }
        slot.left_behind = slot.left_behind.max(behind);
    }

    fn new_page(&mut self, tokens: Vec<u32>) -> ScriptedPage {
        let data = PageData { tokens, slots: 1, window_slots: 1, ..PageData::default() };
        let index = self.free.pop().unwrap_or(self.pages.len());
        if index == self.pages.len() {
            self.pages.push(data);
        } else {
            self.pages[index] = data;
        }
        let lanes = self.slots.values().map(|slot| slot.pages.len() * self.script.lane_pages);
        assert!(
            self.pages_in_use() + lanes.sum::<usize>() <= self.script.budget_pages,
            "more pages than there is room for"
        );
        ScriptedPage(index)
    }

    /// A slot goes from a page.
    fn leave(&mut self, page: ScriptedPage, with_window: bool) {
        let data = &mut self.pages[page.0];
        data.slots -= 1;
        data.window_slots -= usize::from(with_window);
        self.free_unused(page);
    }

    fn free_unused(&mut self, page: ScriptedPage) {
        let data = &mut self.pages[page.0];
        if data.slots + data.held == 0 {
            assert_eq!(data.window_slots + data.window_held, 0, "a window outlives its page");
            data.tokens.clear();
            self.free.push(page.0);
        }
    }

    fn lives(&mut self, page: ScriptedPage) -> &mut PageData {
        let data = &mut self.pages[page.0];
        assert!(data.slots + data.held > 0, "{page:?} lives no more");
        data
    }

    fn time(&self, feeds: &[Feed<usize>]) -> Duration {
        let mut load = Load::default();
        feeds.iter().for_each(|feed| load.add(self.slots[&feed.slot].length, feed.rows()));
        let Script { step_time, row_time, history_time, .. } = self.script;
        step_time + row_time * load.rows as u32 + history_time * load.history_tokens as u32
    }

    /// What the machine makes of a time.
    fn mood(&mut self) -> f64 {
        let Moods::Changing(seed) = self.script.moods else { return 1.0 };
        self.moods = (self.moods ^ seed).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let dice = self.moods >> 33;
        self.is_slow ^= dice.is_multiple_of(8);
        let steady = 0.9 + 0.2 * (dice % 1000) as f64 / 1000.0;
        if self.is_slow { 2.0 * steady } else { steady }
    }

    /// Nothing if it fails at once.
    fn begin(&mut self, feeds: &[Feed<usize>]) -> Result<(), Failure> {
        let rows = feeds.iter().map(Feed::rows).sum();
        assert!(rows > 0, "an empty step");
        let is_heavy = feeds.iter().any(|feed| match (&feed.input, self.heavy) {
            (Input::Tokens(tokens), Some(heavy)) => tokens.contains(&heavy),
            _ => false,
        });
        let is_long = self.rows_max.is_some_and(|most| rows > most);
        if !passes(&mut self.fail_after) || is_long || is_heavy {
            return Err(failure());
        }
        self.computed += rows;
        self.longest_step = self.longest_step.max(rows);
        self.steps += 1;
        Ok(())
    }

    fn put_aside(&mut self, feeds: &[Feed<usize>], left: Duration) -> ScriptedRest {
        let before: Vec<(usize, usize)> =
            feeds.iter().map(|feed| (feed.slot, self.slots[&feed.slot].length)).collect();
        let ticket = self.feed_all(feeds, self.now);
        let slots = before.iter().map(|(slot, _)| *slot).collect();
        let drawing = feeds.iter().filter(|feed| !feed.draws.is_empty());
        let drawing = drawing.map(|feed| feed.slot).collect();
        self.unfinished.borrow_mut().extend(before);
        self.parted += 1;
        let unfinished = Rc::clone(&self.unfinished);
        ScriptedRest { ticket, slots, drawing, left, unfinished }
    }

    fn feed_all(&mut self, feeds: &[Feed<usize>], done: Duration) -> ScriptedTicket {
        let fails = !passes(&mut self.fail_reading_after);
        let mut ticket = ScriptedTicket { drawn: Vec::new(), waiting: Vec::new(), done, fails };
        let drawing = feeds.iter().scan(0, |count, feed| {
            let index = *count;
            *count += usize::from(!feed.draws.is_empty());
            Some((index, feed))
        });
        for (index, feed) in drawing.collect::<Vec<_>>() {
            self.feed(index, feed, &mut ticket);
        }
        ticket
    }

    /// Draws of one feed, after the rows they belong to.
    fn feed(&mut self, index: usize, feed: &Feed<usize>, ticket: &mut ScriptedTicket) {
        let tokens = match &feed.input {
            Input::Tokens(tokens) => tokens.clone(),
            Input::Previous => {
                vec![self.slots[&feed.slot].drawn.expect("nothing was drawn before")]
            }
        };
        assert!(!tokens.is_empty() && feed.draws.len() <= tokens.len(), "{feed:?}");
        let drawing_from = tokens.len() - feed.draws.len();
        let mut drawn = Vec::new();
        for (row, token) in tokens.iter().enumerate() {
            self.push(feed.slot, *token);
            if row < drawing_from {
                continue;
            }
            let history = self.slots[&feed.slot].state;
            let token = history.drawn(&feed.draws[row - drawing_from].edits);
            let is_last = row + 1 == tokens.len();
            let draw = &feed.draws[row - drawing_from];
            if draw.late {
                let row = drawn.len();
                ticket.waiting.push(Waiting {
                    feed: index,
                    row,
                    is_last,
                    slot: feed.slot,
                    history,
                });
            }
            drawn.push(Drawn { token, logprob: None });
            self.slots.get_mut(&feed.slot).unwrap().drawn = Some(token);
        }
        if !drawn.is_empty() {
            ticket.drawn.push(drawn);
            let slot = self.slots.get_mut(&feed.slot).unwrap();
            let gap = slot.drawn_at.map_or(Duration::ZERO, |before| ticket.done - before);
            slot.drawn_at = Some(ticket.done);
            self.longest_gap = self.longest_gap.max(gap);
        }
    }
}

fn failure() -> Failure {
    Failure::new(FailureKind::NoRoom, "scripted failure")
}

fn passes(left: &mut Option<usize>) -> bool {
    match left {
        Some(0) => {
            *left = None;
            false
        }
        Some(left) => {
            *left -= 1;
            true
        }
        None => true,
    }
}

impl Executor for ScriptedExecutor {
    type Slot = usize;
    type Page = ScriptedPage;
    type State = Summary;
    type Ticket = ScriptedTicket;
    type Rest = ScriptedRest;

    fn open(&mut self) -> usize {
        self.opened += 1;
        self.next_slot += 1;
        self.slots.insert(self.next_slot, Slot::default());
        self.next_slot
    }

    fn close(&mut self, slot: usize) {
        assert!(self.slots.contains_key(&slot), "slot {slot} was closed twice");
        self.check(slot);
        let Some(slot) = self.slots.remove(&slot) else { return };
        for (index, page) in slot.pages.iter().enumerate() {
            self.leave(*page, index >= slot.left_behind);
        }
    }

    fn length(&self, slot: usize) -> usize {
        self.slots[&slot].length
    }

    fn rewind(&mut self, slot: usize, length: usize) {
        assert!(self.can_rewind(), "a recurrent model does not go back");
        self.check(slot);
        let mut at = self.slots.remove(&slot).unwrap();
        assert!(length <= at.length, "rewound forward");
        let kept = length.div_ceil(self.script.page_tokens);
        for (index, page) in at.pages.iter().enumerate().skip(kept) {
            self.leave(*page, index >= at.left_behind);
        }
        at.pages.truncate(kept);
        (at.length, at.drawn) = (length, None);
        self.slots.insert(slot, at);
        let state = Summary::of(&self.remembered(slot));
        self.slots.entry(slot).and_modify(|at| at.state = state);
    }

    fn page_tokens(&self) -> usize {
        self.script.page_tokens
    }

    fn page_bytes(&self) -> usize {
        PAGE_BYTES
    }

    fn lane_bytes(&self, tokens: usize) -> usize {
        self.script.lane_pages * tokens.div_ceil(self.script.page_tokens) * PAGE_BYTES
    }

    fn state_bytes(&self) -> usize {
        if self.script.is_recurrent { STATE_PAGES * PAGE_BYTES } else { 0 }
    }

    fn budget(&self) -> usize {
        self.script.budget_pages * PAGE_BYTES
    }

    fn pages_in_use(&self) -> usize {
        self.pages.len() - self.free.len()
    }

    fn pages(&self, slot: usize) -> &[ScriptedPage] {
        &self.slots[&slot].pages
    }

    fn hold(&mut self, page: ScriptedPage) {
        for (slot, before) in self.unfinished.borrow().iter() {
            let new = &self.slots[slot].pages[before / self.script.page_tokens..];
            assert!(!new.contains(&page), "{page:?} is not computed yet");
        }
        let data = self.lives(page);
        data.held += 1;
        data.window_held += 1;
    }

    fn release(&mut self, page: ScriptedPage) {
        let data = self.lives(page);
        data.held -= 1;
        data.window_held = data.window_held.min(data.held);
        self.free_unused(page);
    }

    fn release_window(&mut self, page: ScriptedPage) {
        self.lives(page).window_held -= 1;
    }

    fn open_on(&mut self, pages: &[ScriptedPage], length: usize, state: Option<&Summary>) -> usize {
        assert!(self.is_resumable(pages, length, state), "a slot cannot begin at {length}");
        let behind = self
            .script
            .window
            .map_or(0, |window| length.saturating_sub(window) / self.script.page_tokens);
        for (index, page) in pages.iter().enumerate() {
            let data = self.lives(*page);
            data.slots += 1;
            data.window_slots += usize::from(index >= behind);
        }
        let slot = self.open();
        let pages = pages.to_vec();
        self.slots.insert(slot, Slot { pages, length, left_behind: behind, ..Slot::default() });
        let known = state.copied().filter(|_| self.script.is_recurrent && length > 0);
        let state = known.unwrap_or_else(|| Summary::of(&self.remembered(slot)));
        self.slots.entry(slot).and_modify(|at| at.state = state);
        slot
    }

    fn is_resumable(&self, pages: &[ScriptedPage], length: usize, state: Option<&Summary>) -> bool {
        assert_eq!(
            pages.len(),
            length.div_ceil(self.script.page_tokens),
            "pages for {length} tokens"
        );
        let behind = self
            .script
            .window
            .map_or(0, |window| length.saturating_sub(window) / self.script.page_tokens);
        let has_state = state.map_or(0, |state| state.length) == length;
        (!self.script.is_recurrent || has_state)
            && pages[behind..].iter().all(|page| self.has_window(*page))
    }

    fn state(&self, slot: usize) -> Option<Summary> {
        self.script.is_recurrent.then(|| self.slots[&slot].state)
    }

    fn export(&mut self, page: ScriptedPage) -> Result<Vec<u8>, Failure> {
        Ok(self.lives(page).tokens.iter().flat_map(|token| token.to_le_bytes()).collect())
    }

    fn import(&mut self, bytes: &[u8]) -> Option<ScriptedPage> {
        let (words, rest) = bytes.as_chunks::<4>();
        let tokens: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        if !rest.is_empty() || !(1..=self.script.page_tokens).contains(&tokens.len()) {
            return None;
        }
        let page = self.new_page(tokens);
        let data = &mut self.pages[page.0];
        (data.slots, data.window_slots, data.held, data.window_held) = (0, 0, 1, 1);
        Some(page)
    }

    fn export_state(&mut self, state: &Summary) -> Result<Vec<u8>, Failure> {
        let words = [state.length as u32, state.free, state.formed];
        Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    fn import_state(&mut self, bytes: &[u8]) -> Option<Summary> {
        let (words, _) = bytes.as_chunks::<4>();
        let [length, free, formed] = <[[u8; 4]; 3]>::try_from(words).ok()?.map(u32::from_le_bytes);
        Some(Summary { length: length as usize, free, formed })
    }

    fn can_rewind(&self) -> bool {
        !self.script.is_recurrent
    }

    fn dispatch(&mut self, feeds: &[Feed<usize>]) -> Result<ScriptedTicket, Failure> {
        self.begin(feeds)?;
        let begin = self.now.max(self.busy_until);
        self.busy_until = begin + self.time(feeds).mul_f64(self.mood());
        let ticket = self.feed_all(feeds, self.busy_until);
        if ticket.drawn.is_empty() {
            self.now = self.busy_until;
        }
        Ok(ticket)
    }

    fn shares_cores(&self) -> bool {
        self.script.shares_cores
    }

    fn can_part(&self) -> bool {
        self.script.parts
    }

    fn dispatch_by(
        &mut self,
        feeds: &[Feed<usize>],
        hurry: Hurry,
    ) -> Result<(ScriptedTicket, Option<ScriptedRest>), Failure> {
        self.begin(feeds)?;
        let (urgent, other) = feeds.split_at(hurry.feeds);
        assert!(!urgent.is_empty() && !other.is_empty(), "nobody waits for anybody");
        let (all, few, mood) = (self.time(feeds), self.time(urgent), self.mood());
        let glance = all.mul_f64(mood) / GLANCES;
        self.now = self.now.max(self.busy_until);
        for left in (0..GLANCES).rev() {
            self.now += glance;
            let alone = hurry.alone * (GLANCES + left) / (2 * GLANCES);
            if left > 0 && self.now + glance + alone > hurry.until {
                self.busy_until = self.now + few.mul_f64(mood) * left / GLANCES;
                let ticket = self.feed_all(urgent, self.busy_until);
                return Ok((
                    ticket,
                    Some(self.put_aside(other, (all - few).mul_f64(mood) * left / GLANCES)),
                ));
            }
        }
        self.busy_until = self.now;
        Ok((self.feed_all(feeds, self.now), None))
    }

    fn go_on(
        &mut self,
        mut rest: ScriptedRest,
        until: Duration,
    ) -> Result<Onward<ScriptedTicket, ScriptedRest>, Failure> {
        let glance = self.script.step_time.min(rest.left);
        loop {
            let took = glance.min(rest.left);
            rest.left -= took;
            self.now = self.now.max(self.busy_until) + took.mul_f64(self.mood());
            if rest.left.is_zero() {
                break;
            }
            if self.now + glance > until {
                return Ok(Onward::Rest(rest));
            }
        }
        let fails = std::mem::take(&mut rest.ticket.fails);
        let done = self.now;
        for slot in &rest.drawing {
            self.slots.entry(*slot).and_modify(|slot| slot.drawn_at = Some(done));
        }
        let nothing = ScriptedTicket { drawn: Vec::new(), waiting: Vec::new(), done, fails: false };
        let ticket = std::mem::replace(&mut rest.ticket, nothing);
        if fails { Err(failure()) } else { Ok(Onward::Through(ScriptedTicket { done, ..ticket })) }
    }

    fn draw(&mut self, ticket: &mut ScriptedTicket, edits: &[Edits]) -> Result<(), Failure> {
        assert_eq!(ticket.waiting.len(), edits.len(), "each late draw has its edits");
        for (waiting, edits) in ticket.waiting.drain(..).zip(edits) {
            let token = waiting.history.drawn(edits);
            ticket.drawn[waiting.feed][waiting.row].token = token;
            // Who has left has no slot any more.
            if let Some(slot) = self.slots.get_mut(&waiting.slot)
                && waiting.is_last
            {
                slot.drawn = Some(token);
            }
        }
        Ok(())
    }

    fn collect(&mut self, ticket: ScriptedTicket) -> Result<Vec<Vec<Drawn>>, Failure> {
        assert!(ticket.waiting.is_empty(), "a draw is still waiting");
        self.now = self.now.max(ticket.done);
        match ticket.fails {
            true => Err(failure()),
            false => Ok(ticket.drawn),
        }
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport::default()
    }

    fn now(&self) -> Duration {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_shared_until_somebody_writes() {
        let mut executor = ScriptedExecutor::new();
        let tokens: Vec<u32> = (1..=20).collect();
        let slot = executor.open_with(&tokens);
        let pages = executor.pages(slot).to_vec();
        pages.iter().for_each(|page| executor.hold(*page));
        executor.close(slot);
        assert_eq!(executor.pages_in_use(), 3);
        let (a, b) = (executor.open_on(&pages[..2], 10, None), executor.open_on(&pages, 20, None));
        assert_eq!(executor.pages_in_use(), 3);
        executor.push(a, 99);
        assert_eq!((executor.pages_in_use(), executor.pages(a)[0]), (4, pages[0]));
        assert_eq!(executor.remembered(a), [&tokens[..10], &[99]].concat());
        pages.iter().for_each(|page| executor.release(*page));
        executor.push(b, 98);
        assert_eq!(executor.remembered(b), [&tokens[..], &[98]].concat());
        executor.close(a);
        executor.close(b);
        assert_eq!(executor.pages_in_use(), 0);
    }

    #[test]
    fn windows_and_states_decide_where_a_slot_can_begin() {
        let mut executor = ScriptedExecutor::with(Script { window: Some(8), ..Script::default() });
        let slot = executor.open_with(&(1..=32).collect::<Vec<_>>());
        let pages = executor.pages(slot).to_vec();
        pages[2..].iter().for_each(|page| executor.hold(*page));
        assert!(executor.is_resumable(&pages, 32, None));
        assert!(!executor.is_resumable(&pages[..2], 16, None), "the slot has gone past it");
        executor.release_window(pages[3]);
        executor.close(slot);
        assert!(!executor.is_resumable(&pages, 32, None));
        let mut executor =
            ScriptedExecutor::with(Script { is_recurrent: true, ..Script::default() });
        let slot = executor.open_with(&[1, 2, 3]);
        let (pages, state) = (executor.pages(slot).to_vec(), executor.state(slot));
        assert!(executor.is_resumable(&pages, 3, state.as_ref()));
        assert!(!executor.is_resumable(&pages, 2, state.as_ref()));
        assert!(!executor.is_resumable(&pages, 3, None));
    }
}
