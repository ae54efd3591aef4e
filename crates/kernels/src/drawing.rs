//! Drawing a token from a row of logits: the one place on the CPU where the order of a sampler's options stands.
//!
//! 1. Edits: a bias, then penalties for tokens that were there already, then what a form forbids.
//! 2. Temperature 0: the best token. Otherwise
//! 3. the `top_k` best, their logits divided by the temperature, softmax,
//! 4. `typical_p`, `top_p`, `min_p`, each of what the one before left; the likeliest always stays.
//! 5. A race among what is left: each token has a random number of its own, a function of key and token alone, and the
//!    first of `-ln(random) / probability` wins. That is a draw by probability, and small changes of the logits seldom
//!    change who wins, whatever they do to the order of the others; a draft model that races with the same numbers
//!    mostly draws the same tokens.
//!
//! Ties go to the lower number. Minus infinity and NaN are never drawn, plus infinity wins. Where nothing can be drawn
//! it is the first token that the form allows, or else token 0.

use std::cell::Cell;
use std::sync::OnceLock;

use crate::element::{Element, Floats};
use crate::rows::Rows;
use crate::sampling::{self, Candidate, better, top_k};
use crate::vector::{Body, Source, Vector, on};
use crate::{Cpu, log_sum_exp};

/// What a draw may choose from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// Divides the logits; 0 takes the best.
    pub temperature: f32,
    /// 0: all.
    pub top_k: usize,
    /// 1: all.
    pub typical_p: f32,
    /// 1: all.
    pub top_p: f32,
    /// 0: all.
    pub min_p: f32,
}

/// What is done to the logit of one token: `x + bias`, then `/ repeat` where that is positive and `* repeat` where it is
/// not, then `- minus`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Edit {
    pub token: u32,
    pub bias: f32,
    /// Above 0.
    pub repeat: f32,
    pub minus: f32,
}

impl Edit {
    pub fn apply(&self, logit: f32) -> f32 {
        let biased = logit + self.bias;
        let repeated = if biased > 0.0 { biased / self.repeat } else { biased * self.repeat };
        repeated - self.minus
    }
}

/// One draw.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// The row of logits.
    pub row: usize,
    pub limits: Limits,
    /// Randomness.
    pub key: u64,
    /// At most one for each token; those of tokens that there are not are ignored.
    pub edits: &'a [Edit],
    /// A bit for each token that may be drawn, 32 to a word; tokens beyond may not.
    pub allowed: Option<&'a [u32]>,
    /// Log-probabilities of the raw logits are wanted, with so many alternatives.
    pub logprobs: Option<usize>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Drawn {
    pub token: u32,
    /// Natural; NaN where it was not asked for.
    pub logprob: f32,
    /// The likeliest with their log-probabilities.
    pub top: Vec<Candidate>,
}

/// All draws of a step; each thread takes some.
pub fn draw(cpu: &Cpu<'_>, logits: &Rows<'_>, draws: &[Draw<'_>]) -> Vec<Drawn> {
    let done: Vec<OnceLock<Drawn>> = draws.iter().map(|_| OnceLock::new()).collect();
    cpu.pool.run(draws.len(), &|index| {
        let draw = &draws[index];
        let row = logits.row(draw.row);
        let token = draw_one(cpu, row, draw);
        let _ = done[index].set(with_logprobs(cpu, row, draw, token));
    });
    done.into_iter().filter_map(OnceLock::into_inner).collect()
}

fn with_logprobs(cpu: &Cpu<'_>, row: Floats<'_>, draw: &Draw<'_>, token: u32) -> Drawn {
    let Some(count) = draw.logprobs else {
        return Drawn { token, logprob: f32::NAN, top: Vec::new() };
    };
    let all = log_sum_exp(cpu, row);
    let mut top = Vec::new();
    top_k(cpu, row, count, &mut top);
    top.iter_mut().for_each(|candidate| candidate.value -= all);
    Drawn { token, logprob: row.get(token as usize) - all, top }
}

thread_local! {
    /// A row whose logits were edited.
    static EDITED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static KEPT: Cell<Vec<Candidate>> = const { Cell::new(Vec::new()) };
}

fn draw_one(cpu: &Cpu<'_>, row: Floats<'_>, draw: &Draw<'_>) -> u32 {
    if draw.edits.is_empty() && draw.allowed.is_none() {
        return choose(cpu, row, draw).unwrap_or(0);
    }
    let mut edited = EDITED.take();
    edit(row, draw, &mut edited);
    let token = choose(cpu, Floats::F32(&edited), draw);
    EDITED.set(edited);
    token.unwrap_or_else(|| first(draw.allowed, row.len()))
}

fn edit(row: Floats<'_>, draw: &Draw<'_>, edited: &mut Vec<f32>) {
    edited.clear();
    match row {
        Floats::F32(row) => edited.extend_from_slice(row),
        Floats::Bf16(row) => edited.extend(row.iter().map(|x| Element::to_f32(*x))),
        Floats::F16(row) => edited.extend(row.iter().map(|x| Element::to_f32(*x))),
    }
    for edit in draw.edits {
        if let Some(logit) = edited.get_mut(edit.token as usize) {
            *logit = edit.apply(*logit);
        }
    }
    let Some(words) = draw.allowed else { return };
    for (index, part) in edited.chunks_mut(32).enumerate() {
        match words.get(index).copied().unwrap_or(0) {
            0 => part.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            word => {
                for (bit, logit) in part.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

fn first(allowed: Option<&[u32]>, tokens: usize) -> u32 {
    let words = allowed.unwrap_or_default().iter().enumerate();
    let mut ids =
        words.filter(|(_, word)| **word != 0).map(|(i, w)| 32 * i as u32 + w.trailing_zeros());
    ids.next().filter(|id| (*id as usize) < tokens).unwrap_or(0)
}

/// None where there is nothing to draw.
fn choose(cpu: &Cpu<'_>, row: Floats<'_>, draw: &Draw<'_>) -> Option<u32> {
    let Draw { limits, key, .. } = *draw;
    let mut kept = KEPT.take();
    let winner = if limits.temperature <= 0.0 {
        let best = sampling::argmax(cpu, row);
        // Nothing is also said as 0.
        (row.len() > best && row.get(best) > f32::NEG_INFINITY).then_some(best as u32)
    } else if limits.is_open(row.len()) {
        race_of_all(cpu, row, &limits, key, &mut kept)
    } else {
        candidates(cpu, row, &limits, &mut kept);
        let mut race = Race::new(&limits, key, kept.first().copied());
        kept.iter().for_each(|candidate| race.enter(candidate.index, candidate.value));
        race.winner
    };
    KEPT.set(kept);
    winner
}

impl Limits {
    /// Whether nothing but `min_p` limits a draw from so many.
    fn is_open(&self, count: usize) -> bool {
        (self.top_k == 0 || self.top_k >= count) && self.top_p >= 1.0 && self.typical_p >= 1.0
    }

    /// The logarithm of a probability relative to the best one's.
    fn distance(&self, value: f32, best: f32) -> f64 {
        // Two infinities are as likely as each other.
        if value == best {
            0.0
        } else {
            (f64::from(value) - f64::from(best)) / f64::from(self.temperature)
        }
    }
}

/// How many candidates are looked at when no `top_k` says; nearly always enough for a `top_p`.
const FIRST_GUESS: usize = 256;

/// Puts the candidates that `limits` leave into `kept`, with their logits, the likeliest first.
pub fn candidates(cpu: &Cpu<'_>, row: Floats<'_>, limits: &Limits, kept: &mut Vec<Candidate>) {
    let all = row.len();
    if limits.top_k > 0 && limits.top_k < all {
        top_k(cpu, row, limits.top_k, kept);
        cut(kept, limits, None);
        return;
    }
    let (largest, mass) = sampling::mass(cpu, row, 1.0 / limits.temperature);
    let needs_all = limits.typical_p < 1.0 || largest == f32::INFINITY;
    let mut k = if needs_all { all } else { FIRST_GUESS };
    loop {
        top_k(cpu, row, k, kept);
        let mass = (k < all).then_some(f64::from(mass));
        if cut(kept, limits, mass) || k >= all {
            return;
        }
        k *= 8;
    }
}

/// Leaves what `limits` leave of sorted logits, whose weights sum to `mass` with those that are not there. False if the
/// limits might have left more than what is there.
fn cut(kept: &mut Vec<Candidate>, limits: &Limits, mass: Option<f64>) -> bool {
    let Some(&best) = kept.first() else { return true };
    let weight = |candidate: &Candidate| limits.distance(candidate.value, best.value).exp();
    let mut mass = mass.unwrap_or_else(|| kept.iter().map(weight).sum());
    if limits.typical_p < 1.0 {
        mass = keep_typical(kept, mass, limits.typical_p.into(), weight);
    }
    let top = if limits.top_p < 1.0 { f64::from(limits.top_p) * mass } else { f64::INFINITY };
    let least = f64::from(limits.min_p.min(1.0)) * kept.first().map_or(0.0, weight);
    let mut before = 0.0;
    let inside = |candidate: &Candidate| {
        let weight = weight(candidate);
        let inside = before == 0.0 || (weight >= least && before < top);
        before += weight;
        inside
    };
    let count = kept.iter().position(negated(inside));
    if let Some(count) = count {
        kept.truncate(count);
    }
    count.is_some() || before >= top
}

fn negated<T>(mut f: impl FnMut(&T) -> bool) -> impl FnMut(&T) -> bool {
    move |x| !f(x)
}

/// Leaves the fewest whose information is nearest to the expected one and whose share is `share`; their mass.
fn keep_typical(
    kept: &mut Vec<Candidate>,
    mass: f64,
    share: f64,
    weight: impl Fn(&Candidate) -> f64,
) -> f64 {
    let information = |candidate: &Candidate| -(weight(candidate) / mass).ln();
    let part = |candidate: &Candidate| {
        let p = weight(candidate) / mass;
        if p > 0.0 { -p * p.ln() } else { 0.0 }
    };
    let entropy: f64 = kept.iter().map(part).sum();
    let oddness = |candidate: &Candidate| (information(candidate) - entropy).abs();
    kept.sort_by(|a, b| oddness(a).total_cmp(&oddness(b)).then(better(a, b)));
    let mut left = 0.0;
    let enough = |candidate: &Candidate| {
        let enough = left > 0.0 && left >= share * mass;
        if !enough {
            left += weight(candidate);
        }
        enough
    };
    if let Some(count) = kept.iter().position(enough) {
        kept.truncate(count);
    }
    kept.sort_unstable_by(better);
    left
}

/// A token's random number within a draw, in units of 2⁻³²: half a step above this. For one key no two tokens have the
/// same.
#[inline(always)]
pub fn noise(key: u64, token: u32) -> u32 {
    let mut x = token.wrapping_mul(0x9E37_79B1) ^ key as u32;
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_add((key >> 32) as u32);
    x = x.wrapping_mul(0x846C_A68B);
    x ^= x >> 16;
    x
}

struct Race<'a> {
    limits: &'a Limits,
    key: u64,
    best: f32,
    score: f64,
    winner: Option<u32>,
}

impl Race<'_> {
    fn new(limits: &Limits, key: u64, best: Option<Candidate>) -> Race<'_> {
        let best = best.map_or(f32::NEG_INFINITY, |best| best.value);
        Race { limits, key, best, score: f64::NEG_INFINITY, winner: None }
    }

    fn enter(&mut self, token: u32, value: f32) {
        let random = (f64::from(noise(self.key, token)) + 0.5) / 2f64.powi(32);
        let score = self.limits.distance(value, self.best) - (-(-random).ln_1p()).ln();
        if score > self.score || self.winner.is_none() {
            (self.score, self.winner) = (score, Some(token));
        }
    }
}

/// Those whose race is run in any case.
const FAVOURITES: usize = 64;

/// A race of a whole row: after the favourites only those whose random number could still win.
fn race_of_all(
    cpu: &Cpu<'_>,
    row: Floats<'_>,
    limits: &Limits,
    key: u64,
    favourites: &mut Vec<Candidate>,
) -> Option<u32> {
    top_k(cpu, row, FAVOURITES, favourites);
    let mut race = Race::new(limits, key, favourites.first().copied());
    let least = f64::from(limits.min_p.clamp(0.0, 1.0)).ln();
    for candidate in favourites.iter() {
        if limits.distance(candidate.value, race.best) >= least {
            race.enter(candidate.index, candidate.value);
        }
    }
    let Some(last) = favourites.get(FAVOURITES - 1) else { return race.winner };
    let farthest = limits.distance(last.value, race.best);
    if farthest >= least {
        // -ln(1 - u) < e^(farthest - score) is what the others need at least.
        let needed = -(-(farthest - race.score).exp()).exp_m1() * 2f64.powi(32);
        let rest = Rest {
            x: row.into(),
            count: row.len(),
            key,
            needed: needed as u32,
            last: *last,
            least,
            race: &mut race,
        };
        // SAFETY: the body reads `row.len()` values, and `cpu.isa` was chosen for this processor.
        unsafe { on(cpu.isa, rest) };
    }
    race.winner
}

/// The race of those after the favourites.
struct Rest<'a, 'b> {
    x: Source,
    count: usize,
    key: u64,
    /// Above this no random number wins.
    needed: u32,
    last: Candidate,
    /// By `min_p`, relative to the best.
    least: f64,
    race: &'a mut Race<'b>,
}

/// Random numbers looked at together.
const TOGETHER: usize = 64;

impl Body for Rest<'_, '_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let mut numbers = [0; TOGETHER];
        for start in (0..self.count).step_by(TOGETHER) {
            let mut lowest = u32::MAX;
            for (offset, number) in numbers.iter_mut().enumerate() {
                *number = noise(self.key, (start + offset) as u32);
                lowest = lowest.min(*number);
            }
            if lowest > self.needed {
                continue;
            }
            let count = TOGETHER.min(self.count - start);
            for (offset, number) in numbers[..count].iter().enumerate() {
                if *number > self.needed {
                    continue;
                }
                let index = (start + offset) as u32;
                // SAFETY: as in `vector`.
                let value = unsafe { self.x.get(start + offset) };
                let favourite = better(&Candidate { index, value }, &self.last).is_le();
                let distance = self.race.limits.distance(value, self.race.best);
                if value > f32::NEG_INFINITY && !favourite && distance >= self.least {
                    self.race.enter(index, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::{Pool, isa};

    const OPEN: Limits =
        Limits { temperature: 1.0, top_k: 0, typical_p: 1.0, top_p: 1.0, min_p: 0.0 };

    fn drawing(limits: Limits, key: u64) -> Draw<'static> {
        Draw { row: 0, limits, key, edits: &[], allowed: None, logprobs: None }
    }

    fn token(row: &[f32], draw: Draw<'_>) -> u32 {
        let pool = Pool::new(1);
        let tokens: Vec<u32> = isa::available()
            .into_iter()
            .map(|isa| {
                let rows = Rows::new(Floats::F32(row), 1, row.len());
                super::draw(&Cpu { isa, pool: &pool }, &rows, &[draw])[0].token
            })
            .collect();
        assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?} {draw:?}");
        tokens[0]
    }

    fn logits(rng: &mut StdRng, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-9f32..9.0) * rng.random_range(0f32..1.0)).collect()
    }

    /// Ids and weights that the limits leave, plainly.
    fn plainly(row: &[f32], limits: &Limits) -> Vec<(u32, f64)> {
        let mut left: Vec<(u32, f64)> =
            row.iter().enumerate().map(|(i, x)| (i as u32, f64::from(*x))).collect();
        left.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        left.truncate(if limits.top_k == 0 { row.len() } else { limits.top_k });
        let best = left[0].1;
        left.iter_mut().for_each(|w| w.1 = ((w.1 - best) / f64::from(limits.temperature)).exp());
        normalise(&mut left);
        if limits.typical_p < 1.0 {
            let entropy: f64 = left.iter().map(|w| -w.1 * w.1.max(1e-300).ln()).sum();
            let odd = |w: &(u32, f64)| (-w.1.ln() - entropy).abs();
            left.sort_by(|a, b| odd(a).total_cmp(&odd(b)));
            shorten(&mut left, limits.typical_p);
            left.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            normalise(&mut left);
        }
        if limits.top_p < 1.0 {
            shorten(&mut left, limits.top_p);
        }
        let least = left[0].1 * f64::from(limits.min_p);
        left.retain(|w| w.1 >= least);
        normalise(&mut left);
        left
    }

    fn normalise(left: &mut [(u32, f64)]) {
        let mass: f64 = left.iter().map(|w| w.1).sum();
        left.iter_mut().for_each(|w| w.1 /= mass);
    }

    fn shorten(left: &mut Vec<(u32, f64)>, share: f32) {
        let mut before = 0.0;
        let mut count = 0;
        for w in left.iter() {
            if count > 0 && before >= f64::from(share) {
                break;
            }
            before += w.1;
            count += 1;
        }
        left.truncate(count);
    }

    #[test]
    fn what_limits_leave() {
        let mut rng = StdRng::seed_from_u64(9);
        let pool = Pool::new(1);
        for round in 0..120 {
            let count = rng.random_range(1..4000);
            let row: Vec<bf16> = logits(&mut rng, count).into_iter().map(bf16::from_f32).collect();
            let plain: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
            let limits = Limits {
                temperature: rng.random_range(0.3..3.0),
                top_k: if round % 2 == 0 { 0 } else { rng.random_range(1..300) },
                typical_p: if round % 7 < 4 { 1.0 } else { rng.random_range(0.01..0.999) },
                top_p: if round % 3 == 0 { 1.0 } else { rng.random_range(0.01..0.999) },
                min_p: if round % 5 == 0 { 0.0 } else { rng.random_range(0.0..0.3) },
            };
            let want = plainly(&plain, &limits);
            for isa in isa::available() {
                let mut kept = Vec::new();
                candidates(&Cpu { isa, pool: &pool }, Floats::Bf16(&row), &limits, &mut kept);
                let ids: Vec<u32> = kept.iter().map(|c| c.index).collect();
                let wanted: Vec<u32> = want.iter().map(|w| w.0).collect();
                // The mass of a whole row is a sum in f32: the last one may just be over the line.
                let near = ids.len().abs_diff(wanted.len()) <= 1;
                let common = ids.len().min(wanted.len());
                assert!(
                    near && ids[..common] == wanted[..common],
                    "{limits:?} {} {}",
                    ids.len(),
                    wanted.len()
                );
            }
        }
    }

    /// The race of all against a race in which everybody runs.
    #[test]
    fn who_could_not_win_need_not_run() {
        let mut rng = StdRng::seed_from_u64(3);
        for round in 0..300 {
            let count = rng.random_range(1..3000);
            // From one that wins nearly always to all alike.
            let spread = [0.0, 0.1, 1.0, 4.0][round % 4];
            let mut row = logits(&mut rng, count);
            row.iter_mut().for_each(|x| *x *= spread);
            if round % 3 == 0 {
                row[rng.random_range(0..count)] = f32::NAN;
                row[rng.random_range(0..count)] = f32::NEG_INFINITY;
            }
            let limits = Limits {
                temperature: rng.random_range(0.2..2.0),
                min_p: if round % 5 == 0 { 0.1 } else { 0.0 },
                ..OPEN
            };
            let key = rng.random();
            let best =
                row.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
            let mut race = Race::new(&limits, key, Some(Candidate { index: 0, value: best }));
            for (i, &x) in row.iter().enumerate() {
                let weight = limits.distance(x, best).exp();
                if x > f32::NEG_INFINITY && weight >= f64::from(limits.min_p) {
                    race.enter(i as u32, x);
                }
            }
            assert_eq!(token(&row, drawing(limits, key)), race.winner.unwrap_or(0), "{limits:?}");
        }
    }

    /// χ² of draws with successive keys as an engine makes them, against what they should be.
    #[track_caller]
    fn check_shares(row: &[f32], limits: Limits, draws: u64) {
        let want = plainly(row, &limits);
        let mut counts = vec![0u64; row.len()];
        let pool = Pool::new(1);
        let cpu = Cpu { isa: isa::current().isa, pool: &pool };
        let rows = Rows::new(Floats::F32(row), 1, row.len());
        for index in 0..draws {
            // SplitMix64.
            let mut z = index.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(5);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let drawn = super::draw(&cpu, &rows, &[drawing(limits, z ^ (z >> 31))]);
            counts[drawn[0].token as usize] += 1;
        }
        let total: u64 = want.iter().map(|w| counts[w.0 as usize]).sum();
        assert_eq!(total, draws, "something else was drawn");
        let chi: f64 = want
            .iter()
            .map(|(id, p)| {
                let expected = p * draws as f64;
                (counts[*id as usize] as f64 - expected).powi(2) / expected
            })
            .sum();
        let freedom = (want.len() - 1) as f64;
        assert!(
            chi < freedom + 4.0 * (2.0 * freedom).sqrt() + 4.0,
            "χ² {chi} of {freedom}: {limits:?}"
        );
    }

    #[test]
    fn tokens_come_as_often_as_they_should() {
        let mut rng = StdRng::seed_from_u64(4);
        let row = logits(&mut rng, 300);
        check_shares(&row, Limits { temperature: 3.0, ..OPEN }, 200_000);
        check_shares(&row, Limits { temperature: 2.0, top_k: 30, ..OPEN }, 100_000);
        check_shares(&row, Limits { temperature: 2.0, top_p: 0.7, ..OPEN }, 100_000);
        check_shares(&row, Limits { temperature: 2.0, typical_p: 0.5, ..OPEN }, 100_000);
        check_shares(&row, Limits { temperature: 2.0, min_p: 0.1, ..OPEN }, 100_000);
        check_shares(&[0.0; 1000], OPEN, 300_000);
    }

    /// Random numbers of neighbouring tokens, or of any two, have nothing in common over a request's draws.
    #[test]
    fn noise_of_two_tokens_is_independent() {
        const DRAWS: u64 = 200_000;
        let mut rng = StdRng::seed_from_u64(5);
        let keys: Vec<u64> = (0..DRAWS).map(|_| rng.random()).collect();
        for (a, b) in [(0, 1), (1, 2), (7, 1007), (5, 5 + (1 << 16)), (100, 101), (2, 151_935)] {
            let mut cells = [[0u32; 16]; 16];
            for key in &keys {
                cells[(noise(*key, a) >> 28) as usize][(noise(*key, b) >> 28) as usize] += 1;
            }
            let expected = DRAWS as f64 / 256.0;
            let chi: f64 =
                cells.iter().flatten().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
            assert!((chi - 255.0).abs() < 5.0 * (2.0f64 * 255.0).sqrt(), "{a} {b}: χ² {chi}");
        }
    }

    #[test]
    fn a_row_draws_alone_what_it_draws_among_others() {
        let mut rng = StdRng::seed_from_u64(6);
        let pool = Pool::new(3);
        let isa = isa::current().isa;
        let columns = 5000;
        let data: Vec<f32> = (0..9).flat_map(|_| logits(&mut rng, columns)).collect();
        let rows = Rows::new(Floats::F32(&data), 9, columns);
        let edits: Vec<Edit> = (0..40)
            .map(|token| Edit { token: token * 3, bias: 0.5, repeat: 1.2, minus: 0.1 })
            .collect();
        let draws: Vec<Draw<'_>> = (0..27)
            .map(|index| Draw {
                row: index % 9,
                limits: Limits {
                    top_k: [0, 40][index % 2],
                    top_p: [1.0, 0.9, 0.5][index / 9],
                    ..OPEN
                },
                edits: if index % 4 == 0 { &edits } else { &[] },
                logprobs: (index % 3 == 0).then_some(index % 6),
                ..drawing(OPEN, rng.random())
            })
            .collect();
        let together = super::draw(&Cpu { isa, pool: &pool }, &rows, &draws);
        for (draw, drawn) in draws.iter().zip(&together) {
            let row = &data[draw.row * columns..(draw.row + 1) * columns];
            let alone = super::draw(
                &Cpu { isa, pool: &Pool::new(1) },
                &Rows::new(Floats::F32(row), 1, columns),
                &[Draw { row: 0, ..*draw }],
            );
            assert_eq!((alone[0].token, &alone[0].top), (drawn.token, &drawn.top));
            assert_eq!(alone[0].logprob.to_bits(), drawn.logprob.to_bits());
        }
    }

    #[test]
    fn what_is_at_the_edges() {
        let row = [1.0, 3.0, 3.0, f32::NAN, 2.0];
        let greedy = Limits { temperature: 0.0, ..OPEN };
        assert_eq!(token(&row, drawing(greedy, 1)), 1, "ties go to the lower number");
        for key in 0..50 {
            for limits in [
                Limits { min_p: 1.0, ..OPEN },
                Limits { top_p: 0.0, top_k: 2, ..OPEN },
                Limits { temperature: 1e-9, ..OPEN },
                Limits { temperature: 1e-9, top_k: 4, ..OPEN },
                Limits { temperature: 1e-9, top_p: 0.5, ..OPEN },
            ] {
                assert!([1, 2].contains(&token(&row, drawing(limits, key))), "{limits:?}");
            }
            let alone = [Limits { top_k: 1, ..OPEN }, Limits { top_p: 0.0, ..OPEN }];
            for limits in alone {
                assert_eq!(token(&row, drawing(limits, key)), 1, "{limits:?}");
            }
            let wide = Limits { top_k: 1_000_000, min_p: -1.0, top_p: 7.0, typical_p: 2.0, ..OPEN };
            assert_ne!(token(&row, drawing(wide, key)), 3, "not a number");
            // One of the infinities wins under any limits.
            let row = [1.0, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY, f32::MAX];
            for limits in [
                OPEN,
                greedy,
                wide,
                Limits { top_p: 0.9, ..OPEN },
                Limits { top_k: 3, ..OPEN },
                Limits { typical_p: 0.5, ..OPEN },
                Limits { min_p: 0.5, ..OPEN },
            ] {
                assert!([1, 3].contains(&token(&row, drawing(limits, key))), "{limits:?}");
            }
        }
        let nothing = [f32::NEG_INFINITY, f32::NAN, f32::NEG_INFINITY];
        for limits in [OPEN, greedy, Limits { top_p: 0.5, ..OPEN }, Limits { top_k: 2, ..OPEN }] {
            assert_eq!(token(&nothing, drawing(limits, 1)), 0);
            assert_eq!(token(&nothing, Draw { allowed: Some(&[0b100]), ..drawing(limits, 1) }), 2);
            assert_eq!(token(&row, Draw { allowed: Some(&[0]), ..drawing(limits, 1) }), 0);
            assert_eq!(token(&row, Draw { allowed: Some(&[]), ..drawing(limits, 1) }), 0);
            assert_eq!(token(&row, Draw { allowed: Some(&[1 << 9]), ..drawing(limits, 1) }), 0);
            assert_eq!(token(&row, Draw { allowed: Some(&[0b10000]), ..drawing(limits, 1) }), 4);
        }
    }

    #[test]
    fn edits_come_before_everything() {
        let greedy = Limits { temperature: 0.0, ..OPEN };
        let check = |row: &[f32], edits: &[Edit], expected: u32| {
            assert_eq!(token(row, Draw { edits, ..drawing(greedy, 1) }), expected, "{edits:?}");
            // Nobody else is within one in 10^8.
            let cold = Limits { temperature: 0.01, top_k: 2, ..OPEN };
            assert_eq!(token(row, Draw { edits, ..drawing(cold, 1) }), expected, "{edits:?}");
        };
        let none = Edit { token: 0, bias: 0.0, repeat: 1.0, minus: 0.0 };
        check(&[1.0, 0.0], &[none], 0);
        check(&[1.0, 0.0], &[Edit { bias: -2.0, ..none }], 1);
        check(&[1.0, 0.6], &[Edit { repeat: 2.0, ..none }], 1);
        check(&[-0.6, -1.0], &[Edit { repeat: 2.0, ..none }], 1);
        check(&[1.0, 0.0], &[Edit { minus: 1.5, ..none }], 1);
        check(&[1.0, 0.0], &[Edit { token: 1, minus: -1.5, ..none }], 1);
        // The bias comes before the division.
        check(&[-1.0, 1.4], &[Edit { bias: 4.0, repeat: 2.0, ..none }], 0);
        check(
            &[1.0, 0.0],
            &[Edit { token: 2, bias: 100.0, ..none }, Edit { token: u32::MAX, ..none }],
            0,
        );
        assert_eq!(none.apply(f32::NEG_INFINITY), f32::NEG_INFINITY);
    }
}
