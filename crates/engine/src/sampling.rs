//! How one request's tokens are drawn: its options resolved to plain numbers, its randomness, and what they do to the
//! logits of single tokens. The order in which all that takes effect is the sampler's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mlx::{Edit, Limits};
use protocol::{Options, Seed};
use text::constraint::Mask;

/// Options of one request, resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampling {
    pub limits: Limits,
    pub penalties: Penalties,
    /// What is added to single tokens' logits, as edits that do nothing else.
    pub bias: Arc<[Edit]>,
    pub seed: u64,
}

/// What it costs a token to have been there already.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Penalties {
    /// 1: off.
    pub repeat: f32,
    pub presence: f32,
    pub frequency: f32,
    /// How many tokens count, from the last one back, those of the prompt among them. 0: off.
    pub window_tokens: usize,
}

/// What is done to a row of logits before anything is drawn from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edits {
    /// At most one for each token.
    pub tokens: Arc<[Edit]>,
    /// What the reply's form allows.
    pub mask: Option<Mask>,
}

impl Sampling {
    /// `random` is the seed of a request that names none.
    pub fn new(options: &Options, random: u64, context_tokens: usize) -> Sampling {
        Sampling {
            limits: limits(options),
            penalties: Penalties::new(options, context_tokens),
            bias: bias(options),
            seed: match options.seed() {
                Seed::Fixed(seed) => seed,
                Seed::Random => random,
            },
        }
    }

    /// The key of one draw: a function of (seed, index) alone, so a reply does not depend on who else is in the batch.
    pub fn key(&self, index: u64) -> u64 {
        mix(self.seed, index)
    }

    /// None where no token's past matters.
    pub fn window(&self, prompt: &[u32]) -> Option<Window> {
        self.penalties.are_on().then(|| Window::new(self.penalties.window_tokens, prompt))
    }

    /// For the draw after the tokens that `window` has seen.
    pub fn edits(&self, window: Option<&Window>, mask: Option<Mask>) -> Edits {
        let tokens = match window {
            None => Arc::clone(&self.bias),
            Some(window) => self.with_penalties(window),
        };
        Edits { tokens, mask }
    }

    fn with_penalties(&self, window: &Window) -> Arc<[Edit]> {
        let Penalties { repeat, presence, frequency, .. } = self.penalties;
        let penalty = |(token, count): (&u32, &u32)| Edit {
            token: *token,
            bias: self.bias_of(*token),
            repeat,
            minus: presence + frequency * *count as f32,
        };
        let unseen = self.bias.iter().filter(|edit| !window.counts.contains_key(&edit.token));
        window.counts.iter().map(penalty).chain(unseen.copied()).collect()
    }

    fn bias_of(&self, token: u32) -> f32 {
        let found = self.bias.binary_search_by_key(&token, |edit| edit.token);
        found.map_or(0.0, |place| self.bias[place].bias)
    }
}

/// Below this a temperature is none: the best token wins anyway, but for exact ties.
const TEMPERATURE_MIN: f32 = 1e-4;

fn limits(options: &Options) -> Limits {
    let temperature = clean(options.temperature, 0.8);
    Limits {
        temperature: if temperature < TEMPERATURE_MIN { 0.0 } else { temperature },
        top_k: usize::try_from(options.top_k.unwrap_or(40)).unwrap_or(0),
        typical_p: clean(options.typical_p, 1.0).max(0.0),
        top_p: clean(options.top_p, 0.9).max(0.0),
        min_p: clean(options.min_p, 0.0).clamp(0.0, 1.0),
    }
}

fn clean(value: Option<f32>, default: f32) -> f32 {
    value.filter(|v| v.is_finite()).unwrap_or(default)
}

/// Sorted by token.
fn bias(options: &Options) -> Arc<[Edit]> {
    let entries = options.logit_bias.iter().flatten().filter(|(_, bias)| bias.is_finite());
    entries
        .map(|(token, bias)| Edit { token: *token, bias: *bias, repeat: 1.0, minus: 0.0 })
        .collect()
}

impl Penalties {
    fn new(options: &Options, context_tokens: usize) -> Penalties {
        let last = options.repeat_last_n.unwrap_or(64);
        Penalties {
            // A factor that is not above 0 has no meaning.
            repeat: Some(clean(options.repeat_penalty, 1.0)).filter(|p| *p > 0.0).unwrap_or(1.0),
            presence: clean(options.presence_penalty, 0.0),
            frequency: clean(options.frequency_penalty, 0.0),
            window_tokens: usize::try_from(last).unwrap_or(context_tokens),
        }
    }

    fn are_on(&self) -> bool {
        (self.repeat, self.presence, self.frequency) != (1.0, 0.0, 0.0) && self.window_tokens > 0
    }
}

/// The tokens that penalties look at, counted.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    tokens_max: usize,
    tokens: VecDeque<u32>,
    counts: HashMap<u32, u32>,
}

impl Window {
    /// Seeded with the end of the prompt.
    fn new(tokens_max: usize, prompt: &[u32]) -> Window {
        let mut window = Window { tokens_max, tokens: VecDeque::new(), counts: HashMap::new() };
        let tail = &prompt[prompt.len().saturating_sub(tokens_max)..];
        tail.iter().for_each(|token| window.push(*token));
        window
    }

    pub fn push(&mut self, token: u32) {
        if self.tokens.len() == self.tokens_max
            && let Some(first) = self.tokens.pop_front()
            && let Some(count) = self.counts.get_mut(&first)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&first);
            }
        }
        self.tokens.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }
}

/// SplitMix64 over both numbers: neighbouring seeds and draws have nothing in common.
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(options: Options) -> Sampling {
        Sampling::new(&options, 1, 1000)
    }

    /// Which tokens are edited after these, and how.
    #[track_caller]
    fn check(options: Options, prompt: &[u32], replied: &[u32], expected: &[(u32, [f32; 3])]) {
        let sampling = sampling(options);
        let mut window = sampling.window(prompt);
        replied.iter().for_each(|token| window.iter_mut().for_each(|window| window.push(*token)));
        let edits = sampling.edits(window.as_ref(), None).tokens;
        let mut got: Vec<(u32, [f32; 3])> =
            edits.iter().map(|e| (e.token, [e.bias, e.repeat, e.minus])).collect();
        got.sort_by_key(|edit| edit.0);
        assert_eq!(got, expected);
    }

    #[test]
    fn penalties_look_at_the_last_tokens_of_prompt_and_reply() {
        let repeat = Options { repeat_penalty: Some(1.5), ..Options::default() };
        let last = |count| Options { repeat_last_n: Some(count), ..repeat.clone() };
        let hit = |token| (token, [0.0, 1.5, 0.0]);
        check(repeat.clone(), &[1, 2], &[3], &[hit(1), hit(2), hit(3)]);
        check(last(2), &[1, 2], &[3], &[hit(2), hit(3)]);
        check(last(2), &[1, 2, 2], &[], &[hit(2)]);
        check(last(3), &[1, 2, 1], &[4, 5], &[hit(1), hit(4), hit(5)]);
        check(last(0), &[1, 2], &[3], &[]);
        let all: Vec<u32> = (0..1000).collect();
        check(last(-1), &all, &[], &all.iter().map(|token| hit(*token)).collect::<Vec<_>>());
        check(last(-1), &all, &[1000], &(1..1001).map(hit).collect::<Vec<_>>());
        check(repeat, &all, &[], &(936..1000).map(hit).collect::<Vec<_>>());
    }

    #[test]
    fn presence_counts_once_and_frequency_each_time() {
        let both = Options {
            presence_penalty: Some(0.5),
            frequency_penalty: Some(-0.25),
            ..Options::default()
        };
        check(both.clone(), &[7], &[7, 8, 7], &[(7, [0.0, 1.0, -0.25]), (8, [0.0, 1.0, 0.25])]);
        let off = Options { presence_penalty: Some(0.0), ..Options::default() };
        check(off, &[7], &[7], &[]);
        for nonsense in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            check(
                Options { repeat_penalty: Some(nonsense), ..Options::default() },
                &[7],
                &[7],
                &[],
            );
        }
    }

    #[test]
    fn a_bias_and_penalties_of_one_token_are_one_edit() {
        let bias = [(3, -100.0), (9, 4.0), (10, f32::NAN)].into_iter().collect();
        let options = Options {
            logit_bias: Some(bias),
            repeat_penalty: Some(2.0),
            presence_penalty: Some(1.0),
            ..Options::default()
        };
        let expected = [(3, [-100.0, 1.0, 0.0]), (5, [0.0, 2.0, 1.0]), (9, [4.0, 2.0, 1.0])];
        check(options.clone(), &[5], &[9], &expected);
        let only = Options { repeat_penalty: None, presence_penalty: None, ..options };
        check(only, &[5], &[9], &[(3, [-100.0, 1.0, 0.0]), (9, [4.0, 1.0, 0.0])]);
    }

    #[test]
    fn options_are_brought_into_their_range() {
        let check = |options: Options, expected: [f32; 4], top_k: usize| {
            let Limits { temperature, typical_p, top_p, min_p, .. } =
                sampling(options.clone()).limits;
            assert_eq!([temperature, typical_p, top_p, min_p], expected);
            assert_eq!(sampling(options).limits.top_k, top_k);
        };
        check(Options::default(), [0.8, 1.0, 0.9, 0.0], 40);
        let odd = Options {
            temperature: Some(1e-9),
            typical_p: Some(f32::NAN),
            top_p: Some(-3.0),
            min_p: Some(2.0),
            top_k: Some(-5),
            ..Options::default()
        };
        check(odd, [0.0, 1.0, 0.0, 1.0], 0);
        let large = Options {
            temperature: Some(f32::INFINITY),
            top_k: Some(i64::MAX),
            ..Options::default()
        };
        check(large, [0.8, 1.0, 0.9, 0.0], i64::MAX as usize);
    }
}
