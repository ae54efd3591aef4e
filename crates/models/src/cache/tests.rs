//! Random lives of sequences against a plain reference: lists of tokens. What slots and holders have is what they were
//! given, whoever wrote meanwhile, and there are exactly the pages that somebody has.

use std::collections::{HashMap, HashSet};

use super::*;

const PAGE: usize = 4;
const WINDOW: usize = 5;
const WIDTH: usize = 4;

/// Bytes of one layer's keys in a page: a line, so that pages and lanes are written alike.
const KEYS_BYTES: usize = PAGE * WIDTH * 4;
const HEADER_BYTES: usize = 17;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides
    }
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    in_lanes: bool,
    windowed: bool,
    recurrent: bool,
}

struct Held {
    pages: Vec<Page>,
    tokens: Vec<f32>,
    state: Option<State>,
    windows_gone: usize,
}

struct World {
    kind: Kind,
    memory: Memory,
    slots: Vec<(Slot, Vec<f32>)>,
    /// How far back each open slot can go at least: not before it began, and not by more than it was promised.
    floors: HashMap<Slot, (usize, usize)>,
    held: Vec<Held>,
    next: f32,
}

fn open_mlx() {
    mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
    mlx::set_device(mlx::Device::Cpu);
}

fn memory(kind: Kind) -> Memory {
    open_mlx();
    let shape = KvShape::new(1, WIDTH as i32);
    let mut layers = vec![Cache::key_value(shape)];
    if kind.windowed {
        layers.push(Cache::window(shape, WINDOW));
    }
    if kind.recurrent {
        layers.push(Cache::recurrent([StateShape::new(&[1], Dtype::F32)]));
    }
    let memory = Memory::new(Dtype::F32, layers).with_page_tokens(PAGE);
    if kind.in_lanes { memory.in_lanes() } else { memory }
}

/// A token's key; its value is the same with the other sign.
fn row(token: f32) -> [f32; WIDTH] {
    [token, token + 0.25, token + 0.5, token + 0.75]
}

impl World {
    fn new(kind: Kind) -> World {
        World {
            kind,
            memory: memory(kind),
            slots: Vec::new(),
            floors: HashMap::new(),
            held: Vec::new(),
            next: 0.0,
        }
    }

    fn append(&mut self, parts: &[(usize, usize)]) {
        let lengths: Vec<_> = parts.iter().map(|(i, length)| (self.slots[*i].0, *length)).collect();
        let rows: usize = parts.iter().map(|(_, length)| length).sum();
        let tokens: Vec<f32> = (0..rows).map(|row| self.next + row as f32).collect();
        self.next += rows as f32;
        let mut batch = Batch::new(mlx::zeros(&[rows as i32], Dtype::U32), &lengths, &self.memory);
        let keys: Vec<f32> = tokens.iter().flat_map(|token| row(*token)).collect();
        let keys = Array::from_slice(&keys, &[rows as i32, WIDTH as i32]);
        let (keys, values) = (batch.split_heads(&keys, 1), batch.split_heads(&(-&keys), 1));
        for cache in self.memory.step(&mut batch) {
            match cache.recurrence() {
                None => drop(cache.append(&batch, &keys, &values)),
                Some(_) => {
                    for segment in &batch.segments {
                        let sum: f32 =
                            tokens[segment.start..segment.start + segment.length].iter().sum();
                        let state = &cache.state(segment)[0] + sum;
                        cache.set_state(segment, vec![state]);
                    }
                }
            }
        }
        let mut start = 0;
        for &(i, length) in parts {
            let (slot, known) = &mut self.slots[i];
            known.extend(&tokens[start..start + length]);
            let (_, most) = self.floors.entry(*slot).or_default();
            *most = known.len().max(*most);
            start += length;
        }
        let lanes = self.memory.layers.iter().filter_map(Cache::lanes);
        let lanes: usize = lanes.map(|lanes| lanes.bytes(&mut HashSet::new())).sum();
        let most = |(_, tokens): &(Slot, Vec<f32>)| self.memory.lane_bytes_max(tokens.len(), 11);
        assert!(
            lanes <= self.slots.iter().map(most).sum::<usize>(),
            "{:?}: {lanes} bytes",
            self.kind
        );
    }

    fn act(&mut self, dice: &mut Dice) {
        let slots = self.slots.len();
        match dice.roll(13) {
            12 if slots > 0 && slots < 5 => self.open_beside(dice),
            0 if slots < 5 => {
                let slot = self.memory.open();
                self.began(slot, Vec::new());
            }
            1 if slots > 1 => {
                let (slot, _) = self.slots.swap_remove(dice.roll(slots));
                self.memory.close(slot);
            }
            2 if slots > 0 => self.rewind(dice),
            3 if slots > 0 && slots < 5 => self.fork(dice),
            4 | 5 if slots > 0 && self.held.len() < 6 => self.hold(dice),
            6 if slots < 5 && !self.held.is_empty() => self.open_on(dice),
            7 if !self.held.is_empty() => self.release(dice),
            8 if self.kind.windowed && !self.held.is_empty() => {
                let index = dice.roll(self.held.len());
                let held = &mut self.held[index];
                if let Some(page) = held.pages.get(held.windows_gone) {
                    self.memory.release_window(*page);
                    held.windows_gone += 1;
                }
            }
            _ if slots > 0 => {
                let mut parts = Vec::new();
                let first = dice.roll(slots);
                for i in (0..slots).map(|i| (i + first) % slots) {
                    if parts.is_empty() || dice.roll(2) == 0 {
                        parts.push((i, if dice.roll(3) == 0 { 1 + dice.roll(11) } else { 1 }));
                    }
                }
                self.append(&parts);
            }
            _ => {}
        }
    }

    fn rewind(&mut self, dice: &mut Dice) {
        let index = dice.roll(self.slots.len());
        let (slot, tokens) = &mut self.slots[index];
        let length = match dice.roll(6) {
            0 => 0,
            _ => tokens.len().saturating_sub(dice.roll(9)),
        };
        let (began, most) = self.floors[slot];
        let near = length >= began && most - length <= REWIND_TOKENS && !self.kind.recurrent;
        let can = self.memory.can_rewind_to(*slot, length);
        assert!(can || !near && length > 0, "{:?}: {} to {length}", self.kind, tokens.len());
        if can {
            self.memory.rewind(*slot, length);
            tokens.truncate(length);
            self.floors.insert(*slot, (began.min(length), most));
        }
    }

    fn began(&mut self, slot: Slot, tokens: Vec<f32>) {
        self.floors.insert(slot, (tokens.len(), tokens.len()));
        self.slots.push((slot, tokens));
    }

    fn fork(&mut self, dice: &mut Dice) {
        let (slot, tokens) = &self.slots[dice.roll(self.slots.len())];
        let length = match self.kind.recurrent {
            true => tokens.len(),
            false => tokens.len().saturating_sub(dice.roll(9)),
        };
        let tokens = tokens[..length].to_vec();
        let before = self.memory.bytes();
        let fork = self.memory.fork(*slot, length);
        if !self.kind.recurrent {
            assert_eq!(self.memory.bytes(), before, "a fork holds nothing of its own");
        }
        self.began(fork, tokens);
    }

    fn hold(&mut self, dice: &mut Dice) {
        let (slot, tokens) = &self.slots[dice.roll(self.slots.len())];
        let length = if self.kind.recurrent { tokens.len() } else { dice.roll(tokens.len() + 1) };
        let pages = self.memory.pages(*slot)[..length.div_ceil(PAGE)].to_vec();
        let state = self.memory.state(*slot);
        for page in &pages {
            self.memory.hold(*page);
        }
        let tokens = tokens[..length].to_vec();
        self.held.push(Held { pages, tokens, state, windows_gone: 0 });
    }

    fn open_on(&mut self, dice: &mut Dice) {
        let held = &self.held[dice.roll(self.held.len())];
        let length = held.tokens.len();
        if self.memory.is_resumable(&held.pages, length, held.state.as_ref()) {
            let pages = self.memory.pages_in_use();
            let slot = self.memory.open_on(&held.pages, length, held.state.as_ref());
            assert_eq!(self.memory.pages_in_use(), pages);
            let tokens = held.tokens.clone();
            self.began(slot, tokens);
        } else {
            assert!(self.kind.windowed, "{:?}", self.kind);
        }
    }

    /// Begins within pages of a sequence that goes on writing to them, and that nobody holds.
    fn open_beside(&mut self, dice: &mut Dice) {
        let (slot, tokens) = &self.slots[dice.roll(self.slots.len())];
        let length = if self.kind.recurrent { tokens.len() } else { dice.roll(tokens.len() + 1) };
        let pages = self.memory.pages(*slot)[..length.div_ceil(PAGE)].to_vec();
        let (state, tokens) = (self.memory.state(*slot), tokens[..length].to_vec());
        if self.memory.is_resumable(&pages, length, state.as_ref()) {
            let before = self.memory.pages_in_use();
            let slot = self.memory.open_on(&pages, length, state.as_ref());
            assert_eq!(self.memory.pages_in_use(), before);
            self.began(slot, tokens);
        } else {
            assert!(self.kind.windowed, "{:?}", self.kind);
        }
    }

    fn release(&mut self, dice: &mut Dice) {
        let held = self.held.swap_remove(dice.roll(self.held.len()));
        for page in held.pages {
            self.memory.release(page);
        }
    }

    /// The numbers that page `page` holds of these tokens are theirs; of layers with windows from `seen` on.
    fn check_page(&self, page: Page, first: usize, tokens: &[f32], seen: usize) {
        let bytes = self.memory.export(page).unwrap();
        let floats = |part: usize, at: usize| {
            let begin = HEADER_BYTES + part * KEYS_BYTES + at * WIDTH * 4;
            let row = bytes[begin..begin + WIDTH * 4].chunks(4);
            row.map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect::<Vec<f32>>()
        };
        for (at, token) in tokens.iter().skip(first).take(PAGE).enumerate() {
            let (keys, values) = (row(*token), row(*token).map(|x| -x));
            let what = format!("{:?} {page:?}, position {}", self.kind, first + at);
            assert_eq!((floats(0, at), floats(1, at)), (keys.to_vec(), values.to_vec()), "{what}");
            if self.kind.windowed && first + at >= seen {
                let found = (floats(2, at), floats(3, at));
                assert_eq!(found, (keys.to_vec(), values.to_vec()), "{what}, in the window");
            }
        }
        let mut copy = memory(self.kind);
        let imported = copy.import(&bytes).unwrap();
        assert_eq!(copy.export(imported).unwrap(), bytes);
        copy.release(imported);
        assert_eq!((copy.pages_in_use(), copy.bytes()), (0, 0));
    }

    fn check(&self) {
        let mut there = HashSet::new();
        for (slot, tokens) in &self.slots {
            assert_eq!(self.memory.length(*slot), tokens.len());
            let pages = self.memory.pages(*slot);
            assert_eq!(pages.len(), tokens.len().div_ceil(PAGE));
            for (index, page) in pages.iter().enumerate() {
                there.insert(*page);
                let seen = (tokens.len() + 1).saturating_sub(WINDOW);
                self.check_page(*page, index * PAGE, tokens, seen);
            }
            if self.kind.recurrent && !tokens.is_empty() {
                let state = self.memory.state(*slot).unwrap();
                let sum: f32 = tokens.iter().sum();
                assert_eq!(state.arrays()[0].to_vec::<f32>().unwrap(), [sum]);
            }
        }
        for held in &self.held {
            for (index, page) in held.pages.iter().enumerate() {
                there.insert(*page);
                self.check_page(*page, index * PAGE, &held.tokens, usize::MAX);
            }
        }
        assert_eq!(self.memory.pages_in_use(), there.len(), "pages that nobody has, or shares");
        if !self.kind.in_lanes && !self.kind.windowed && !self.kind.recurrent {
            assert_eq!(self.memory.bytes(), there.len() * self.memory.page_bytes());
        }
    }
}

fn live(kind: Kind, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (mut world, mut dice) = (World::new(kind), Dice(seed));
        for step in 0..60 {
            world.act(&mut dice);
            if step % 6 == 5 {
                world.check();
            }
        }
        for (slot, _) in std::mem::take(&mut world.slots) {
            world.memory.close(slot);
        }
        world.check();
        for page in std::mem::take(&mut world.held).into_iter().flat_map(|held| held.pages) {
            world.memory.release(page);
        }
        assert_eq!((world.memory.pages_in_use(), world.memory.bytes()), (0, 0), "seed {seed}");
    }
}

#[test]
fn pages_are_what_their_sequences_were_given() {
    for (windowed, recurrent) in [(false, false), (true, false), (false, true), (true, true)] {
        live(Kind { in_lanes: false, windowed, recurrent }, 0..40);
    }
}

#[test]
fn pages_cut_out_of_lanes_are_too() {
    for (windowed, recurrent) in [(false, false), (true, false), (true, true)] {
        live(Kind { in_lanes: true, windowed, recurrent }, 0..8);
    }
}

/// A sequence of any length keeps its window, room to go back and the pages that these touch.
#[test]
fn windows_give_up_what_is_behind_them() {
    let kind = Kind { in_lanes: false, windowed: true, recurrent: false };
    let mut world = World::new(kind);
    let slot = world.memory.open();
    world.began(slot, Vec::new());
    for _ in 0..50 {
        world.append(&[(0, 10)]);
    }
    let whole = 500 / PAGE * 2 * KEYS_BYTES;
    let kept = (WINDOW + REWIND_TOKENS).div_ceil(PAGE) + 1;
    let bytes = world.memory.bytes();
    assert!((whole..=whole + kept * 2 * KEYS_BYTES).contains(&bytes), "{bytes} of {whole}");
    world.check();
    let (slot, tokens) = &mut world.slots[0];
    assert!(!world.memory.can_rewind_to(*slot, 300) && !world.memory.can_rewind());
    assert!(world.memory.can_rewind_to(*slot, 500 - REWIND_TOKENS));
    world.memory.rewind(*slot, 500 - REWIND_TOKENS);
    tokens.truncate(500 - REWIND_TOKENS);
    world.check();
    world.append(&[(0, 30)]);
    world.check();
}

#[test]
fn a_page_of_another_kind_is_refused() {
    let kind = Kind { in_lanes: false, windowed: false, recurrent: false };
    let mut world = World::new(kind);
    let slot = world.memory.open();
    world.began(slot, Vec::new());
    world.append(&[(0, 3)]);
    let bytes = world.memory.export(world.memory.pages(world.slots[0].0)[0]).unwrap();
    let refuse = |memory: &mut Memory, bytes: &[u8]| {
        let error = memory.import(bytes).unwrap_err();
        assert!(matches!(error, crate::Error::Page { .. }), "{error}");
        assert_eq!(memory.pages_in_use(), 0);
    };
    refuse(&mut memory(kind), &bytes[..bytes.len() - 1]);
    refuse(&mut memory(kind), &[]);
    refuse(&mut memory(kind), &[bytes.clone(), vec![0]].concat());
    refuse(&mut memory(Kind { windowed: true, ..kind }), &bytes);
    refuse(&mut memory(kind).with_page_tokens(2), &bytes);
    refuse(&mut memory(kind).in_lanes(), &bytes);
    let other = Memory::new(Dtype::Bf16, [Cache::key_value(KvShape::new(1, WIDTH as i32))]);
    refuse(&mut other.with_page_tokens(PAGE), &bytes);
    assert!(memory(kind).import(&bytes).is_ok());
}

#[test]
#[should_panic(expected = "is not there")]
fn a_page_that_nobody_has_cannot_be_held() {
    let mut memory = memory(Kind { in_lanes: false, windowed: false, recurrent: false });
    memory.hold(Page(0));
}

#[test]
fn pages_of_fewer_bits_are_smaller_where_heads_are_whole_groups() {
    open_mlx();
    let check = |in_lanes: bool| {
        let memory = |width: i32, name: &str| {
            let cache = Cache::key_value(KvShape::new(2, width));
            let memory = Memory::new(Dtype::Bf16, [cache]);
            let memory = memory.with_kv_type(KvType::from_name(name).unwrap());
            if in_lanes { memory.in_lanes() } else { memory }
        };
        let bytes = |width: i32, name: &str| memory(width, name).page_bytes();
        let numbers = PAGE_TOKENS * 2 * 64 * 2;
        assert_eq!(bytes(64, "f16"), numbers * 2);
        assert_eq!(bytes(64, "q8_0"), numbers + numbers / 32 * 4);
        assert_eq!(bytes(64, "q4_0"), numbers / 2 + numbers / 32 * 4);
        assert_eq!(bytes(40, "q4_0"), bytes(40, "bf16"), "heads of 40");
        assert_eq!(memory(64, "q8_0").kv_type(), KvType::Q8);
        assert_eq!(memory(64, "bf16").kv_type(), KvType::Full);
        assert_eq!(memory(40, "q8_0").kv_type(), KvType::Full, "heads of 40");
    };
    check(false);
    check(true);
    assert_eq!(KvType::from_name("q5_1"), None);
}

/// Lanes hold what pages of them say, and give it up with the last who has it.
#[test]
fn lanes_in_fewer_bits_are_as_large_as_they_say() {
    open_mlx();
    for (name, row) in [("bf16", 128), ("q8_0", 72), ("q4_0", 40)] {
        let cache = Cache::key_value(KvShape::new(2, 64));
        let memory = Memory::new(Dtype::Bf16, [cache]);
        let mut memory = memory.with_kv_type(KvType::from_name(name).unwrap()).in_lanes();
        let slot = memory.open();
        let mut batch = Batch::new(mlx::zeros(&[70], Dtype::U32), &[(slot, 70)], &memory);
        let x = batch.split_heads(&mlx::ones(&[70, 128], Dtype::Bf16), 2);
        drop(memory.step(&mut batch).next().unwrap().append(&batch, &x, &x));
        assert_eq!(memory.bytes(), 256 * 4 * row, "{name}: 256 positions of 2 keys and 2 values");
        let first = memory.pages(slot)[0];
        memory.hold(first);
        memory.close(slot);
        assert_eq!(memory.bytes(), memory.page_bytes(), "{name}");
        assert_eq!(memory.page_bytes(), 64 * 4 * row, "{name}");
        memory.release(first);
        assert_eq!(memory.bytes(), 0, "{name}");
    }
}

/// Replies that decode together share one block after a while, filled up to the longest, and nobody pays for one much
/// longer than the others.
#[test]
fn replies_that_decode_together_share_a_block() {
    let check = |lengths: &[usize], blocks: usize, positions: usize| {
        let kind = Kind { in_lanes: true, windowed: false, recurrent: false };
        let mut world = World::new(kind);
        for (index, length) in lengths.iter().enumerate() {
            let slot = world.memory.open();
            world.began(slot, Vec::new());
            world.append(&[(index, *length)]);
        }
        let all: Vec<(usize, usize)> = (0..lengths.len()).map(|index| (index, 1)).collect();
        for _ in 0..10 {
            world.append(&all);
        }
        let lanes = world.memory.layers.iter().filter_map(Cache::lanes);
        let found: HashSet<usize> = lanes
            .flat_map(|lanes| world.slots.iter().flat_map(|(slot, _)| lanes.block(*slot)))
            .collect();
        assert_eq!(found.len(), blocks, "{lengths:?}");
        assert_eq!(world.memory.bytes(), positions * 2 * WIDTH * 4, "{lengths:?}");
        world.check();
    };
    check(&[20, 31, 25], 1, 3 * 256);
    check(&[300, 310], 1, 2 * 512);
    check(&[20, 310], 2, 256 + 512);
}
