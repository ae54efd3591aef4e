//! Both paths against one plain reference in f64, which does what the documents say and nothing cleverly.

use mlx::{Array, Dtype, Edit, Limits};

use super::graph;

const OPEN: Limits = Limits { temperature: 1.0, top_k: 0, typical_p: 1.0, top_p: 1.0, min_p: 0.0 };

const NONE: Edit = Edit { token: 0, bias: 0.0, repeat: 1.0, minus: 0.0 };

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.bits() >> 11) as usize % limit
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }
}

fn plain(limits: Limits, key: u64) -> mlx::Draw {
    mlx::Draw { row: 0, limits, key, edits: [].into(), allowed: None, logprobs: None }
}

/// Logits after bias, penalties and form.
fn edited(row: &[f32], draw: &mlx::Draw) -> Vec<f64> {
    let allows = |id: usize| {
        draw.allowed
            .as_ref()
            .is_none_or(|words| words.get(id / 32).is_some_and(|w| w >> (id % 32) & 1 == 1))
    };
    let edited = |(id, logit): (usize, &f32)| {
        let mut x = f64::from(*logit);
        if let Some(edit) = draw.edits.iter().find(|edit| edit.token as usize == id) {
            x += f64::from(edit.bias);
            x = if x > 0.0 { x / f64::from(edit.repeat) } else { x * f64::from(edit.repeat) };
            x -= f64::from(edit.minus);
        }
        if allows(id) { x } else { f64::NEG_INFINITY }
    };
    row.iter().enumerate().map(edited).collect()
}

/// What may be drawn, with its probability; the likeliest first.
fn left(row: &[f32], draw: &mlx::Draw) -> Vec<(u32, f64)> {
    let Limits { temperature, top_k, typical_p, top_p, min_p } = draw.limits;
    let logits = edited(row, draw);
    let mut left: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(id, x)| (id as u32, *x))
        .filter(|(_, x)| x.is_finite())
        .collect();
    left.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if temperature <= 0.0 {
        left.truncate(1);
        return left.into_iter().map(|(id, _)| (id, 1.0)).collect();
    }
    left.truncate(if top_k == 0 { left.len() } else { top_k });
    let Some(best) = left.first().map(|(_, x)| *x) else { return left };
    left.iter_mut().for_each(|(_, x)| *x = ((*x - best) / f64::from(temperature)).exp());
    normalise(&mut left);
    if typical_p < 1.0 {
        let entropy: f64 = left.iter().map(|(_, p)| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum();
        left.sort_by(|a, b| (-a.1.ln() - entropy).abs().total_cmp(&(-b.1.ln() - entropy).abs()));
        shorten(&mut left, typical_p.into());
        left.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        normalise(&mut left);
    }
    if top_p < 1.0 {
        shorten(&mut left, top_p.into());
    }
    let least = left[0].1 * f64::from(min_p);
    left.retain(|(_, p)| *p >= least);
    normalise(&mut left);
    left
}

fn normalise(left: &mut [(u32, f64)]) {
    let sum: f64 = left.iter().map(|(_, p)| p).sum();
    left.iter_mut().for_each(|(_, p)| *p /= sum);
}

/// Keeps while what came before is below `share`, and the first in any case.
fn shorten(left: &mut Vec<(u32, f64)>, share: f64) {
    let mut before = 0.0;
    let mut count = 0;
    for (_, p) in left.iter() {
        if count > 0 && before >= share {
            break;
        }
        (before, count) = (before + p, count + 1);
    }
    left.truncate(count);
}

/// The race among what is left: who wins, and how far ahead of the second.
fn race(row: &[f32], draw: &mlx::Draw) -> (u32, f64) {
    let mut scores: Vec<(u32, f64)> = left(row, draw)
        .into_iter()
        .map(|(id, p)| {
            let random = (f64::from(mlx::noise(draw.key, id)) + 0.5) / 2f64.powi(32);
            (id, p.ln() - (-(1.0 - random).ln()).ln())
        })
        .collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    match scores[..] {
        [] => (0, 0.0),
        [(id, _)] => (id, f64::INFINITY),
        [(id, first), (_, second), ..] => (id, first - second),
    }
}

/// The paths there are, each with its name.
fn paths(logits: &Array, draws: &[mlx::Draw]) -> Vec<(&'static str, mlx::Draws)> {
    let ours = mlx::draw(logits, draws).map(|drawn| ("kernel", drawn));
    ours.into_iter().chain([("graph", graph::draw(logits, draws))]).collect()
}

fn tokens(drawn: &mlx::Draws) -> Vec<u32> {
    drawn.tokens.to_vec().unwrap()
}

fn random_draw(dice: &mut Dice, rows: usize, columns: usize) -> mlx::Draw {
    let one_in = |dice: &mut Dice, n| dice.below(n) == 0;
    let limits = Limits {
        temperature: if one_in(dice, 5) { 0.0 } else { dice.between(0.2, 2.0) },
        top_k: if one_in(dice, 2) { 0 } else { 1 + dice.below(60) },
        typical_p: if one_in(dice, 4) { dice.between(0.05, 0.99) } else { 1.0 },
        top_p: if one_in(dice, 2) { dice.between(0.05, 0.99) } else { 1.0 },
        min_p: if one_in(dice, 3) { dice.between(0.0, 0.3) } else { 0.0 },
    };
    let edits = match one_in(dice, 2) {
        true => Vec::new(),
        // The last is of a token that there is not.
        false => (0..30)
            .map(|i| Edit {
                token: (i * (columns + 7) / 30) as u32,
                bias: dice.between(-3.0, 3.0),
                repeat: dice.between(0.5, 2.0),
                minus: dice.between(-1.0, 1.0),
            })
            .chain([Edit { token: u32::MAX, bias: 9.0, ..NONE }])
            .collect(),
    };
    let mut words =
        || (0..columns.div_ceil(32) + 1).map(|_| dice.bits() as u32 & dice.bits() as u32).collect();
    let words: Vec<u32> = words();
    let allowed = one_in(dice, 3).then(|| words.into());
    let (row, key) = (dice.below(rows), dice.bits());
    mlx::Draw { row, limits, key, edits: edits.into(), allowed, logprobs: None }
}

#[test]
fn both_paths_draw_what_the_reference_draws() {
    mlx::open().unwrap();
    let mut dice = Dice(1);
    let (mut sure, mut other) = (0, 0);
    for round in 0..60 {
        let (rows, columns) = (1 + dice.below(6), 40 + dice.below(600));
        let spread = [1.0, 4.0, 12.0][round % 3];
        let data: Vec<f32> = (0..rows * columns).map(|_| dice.between(-spread, spread)).collect();
        let logits = Array::from_slice(&data, &[rows as i32, columns as i32]);
        let draws: Vec<mlx::Draw> =
            (0..1 + dice.below(8)).map(|_| random_draw(&mut dice, rows, columns)).collect();
        for (path, drawn) in paths(&logits, &draws) {
            for (draw, token) in draws.iter().zip(tokens(&drawn)) {
                let row = &data[draw.row * columns..(draw.row + 1) * columns];
                let (expected, lead) = race(row, draw);
                // Who is on the line of a limit is a matter of rounding.
                sure += 1;
                if token != expected {
                    assert!(
                        lead < 1e-3 || is_at_a_limit(row, draw),
                        "{path}: {token} {expected} {draw:?}"
                    );
                    other += 1;
                }
            }
        }
    }
    // A GPU has one path, the CPU two.
    let least = if mlx::device() == mlx::Device::Cpu { 400 } else { 200 };
    assert!(sure > least && other * 100 < sure, "{other} of {sure} differ");
}

/// Whether slightly other limits leave something else.
fn is_at_a_limit(row: &[f32], draw: &mlx::Draw) -> bool {
    let with = |factor: f32| {
        let mut near = draw.clone();
        for limit in [&mut near.limits.top_p, &mut near.limits.typical_p, &mut near.limits.min_p] {
            if *limit < 1.0 {
                *limit *= factor;
            }
        }
        left(row, &near).len()
    };
    with(1.0 - 1e-4) != with(1.0 + 1e-4)
}

/// Whoever else is drawn for, and at whichever row: exactly the same, on each path.
#[test]
fn a_draw_does_not_depend_on_the_others() {
    mlx::open().unwrap();
    let mut dice = Dice(2);
    let (rows, columns) = (8, 3000);
    let data: Vec<f32> = (0..rows * columns).map(|_| dice.between(-6.0, 6.0)).collect();
    let logits = Array::from_slice(&data, &[rows as i32, columns as i32]).cast(Dtype::Bf16);
    let draws: Vec<mlx::Draw> = (0..24).map(|_| random_draw(&mut dice, rows, columns)).collect();
    let together = paths(&logits, &draws);
    for (place, draw) in draws.iter().enumerate() {
        let row = logits.narrow(0, draw.row as i32, draw.row as i32 + 1);
        let alone = paths(&row, &[mlx::Draw { row: 0, ..draw.clone() }]);
        for ((path, alone), (_, together)) in alone.iter().zip(&together) {
            assert_eq!(tokens(alone)[0], tokens(together)[place], "{path} {draw:?}");
        }
    }
}

/// How often each is drawn over many draws of one request, against its probability: χ².
#[track_caller]
fn check_shares(row: &[f32], draw: mlx::Draw) {
    const DRAWS: u64 = 8000;
    let logits = Array::from_slice(row, &[1, row.len() as i32]);
    let sampling = crate::sampling::Sampling::new(
        &protocol::Options { seed: Some(3), ..Default::default() },
        0,
        1,
    );
    let draws: Vec<mlx::Draw> =
        (0..DRAWS).map(|index| mlx::Draw { key: sampling.key(index), ..draw.clone() }).collect();
    let want = left(row, &draw);
    for (path, drawn) in paths(&logits, &draws) {
        let mut counts = vec![0.0; row.len()];
        tokens(&drawn).iter().for_each(|token| counts[*token as usize] += 1.0);
        let all: f64 = want.iter().map(|(id, _)| counts[*id as usize]).sum();
        assert_eq!(all, DRAWS as f64, "{path}: something else was drawn");
        let part = |(id, p): &(u32, f64)| {
            let expected = p * DRAWS as f64;
            (counts[*id as usize] - expected).powi(2) / expected
        };
        let chi: f64 = want.iter().map(part).sum();
        let freedom = (want.len() - 1) as f64;
        assert!(chi <= freedom + 4.0 * (2.0 * freedom).sqrt(), "{path}: χ² {chi}, {want:?}");
    }
}

/// Probabilities 0.4, 0.3, 0.2, 0.1, and twelve that are next to nothing; out of order, so that ids matter.
fn four() -> Vec<f32> {
    let mut logits = vec![-40.0f32; 16];
    for (id, probability) in [9, 2, 14, 5].into_iter().zip([0.4f32, 0.3, 0.2, 0.1]) {
        logits[id] = probability.ln();
    }
    logits
}

#[test]
fn tokens_come_as_often_as_they_should() {
    mlx::open().unwrap();
    // The reference itself, where the numbers are plain to see.
    let is = |limits: Limits, expected: &[(u32, f64)]| {
        let got = left(&four(), &plain(limits, 0));
        let near = |(a, b): (&(u32, f64), &(u32, f64))| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6;
        assert!(got.iter().zip(expected).all(near), "{limits:?} {got:?}");
        check_shares(&four(), plain(limits, 0));
    };
    let few = Limits { top_k: 4, ..OPEN };
    is(few, &[(9, 0.4), (2, 0.3), (14, 0.2), (5, 0.1)]);
    is(Limits { top_k: 2, ..OPEN }, &[(9, 4.0 / 7.0), (2, 3.0 / 7.0)]);
    // 0.4 + 0.3 is below 0.75, so the third is still in.
    is(Limits { top_p: 0.75, ..OPEN }, &[(9, 4.0 / 9.0), (2, 3.0 / 9.0), (14, 2.0 / 9.0)]);
    is(Limits { top_p: 0.0, ..OPEN }, &[(9, 1.0)]);
    is(Limits { min_p: 0.6, ..OPEN }, &[(9, 4.0 / 7.0), (2, 3.0 / 7.0)]);
    is(Limits { min_p: 1.0, ..OPEN }, &[(9, 1.0)]);
    // The entropy is 1.28: nearest to it is what has a probability of 0.3, then 0.2 and 0.4.
    is(Limits { typical_p: 0.29, ..few }, &[(2, 1.0)]);
    is(Limits { typical_p: 0.4, ..few }, &[(2, 0.6), (14, 0.4)]);
    // At temperature 1/2 probabilities are squared.
    is(
        Limits { temperature: 0.5, ..few },
        &[(9, 16.0 / 30.0), (2, 9.0 / 30.0), (14, 4.0 / 30.0), (5, 1.0 / 30.0)],
    );
    let edits =
        [Edit { token: 9, bias: -50.0, ..NONE }, Edit { token: 5, minus: -2f32.ln(), ..NONE }];
    check_shares(&four(), mlx::Draw { edits: edits.into(), ..plain(few, 0) });
    check_shares(
        &four(),
        mlx::Draw { allowed: Some([0b100_0000_0010_0100].into()), ..plain(OPEN, 0) },
    );
    check_shares(&(0..50).map(|i| (i % 7) as f32 / 3.0).collect::<Vec<_>>(), plain(OPEN, 0));
}

#[test]
fn what_is_at_the_edges() {
    mlx::open().unwrap();
    let check = |row: &[f32], draw: mlx::Draw, expected: &[u32]| {
        let logits = Array::from_slice(row, &[1, row.len() as i32]);
        for (path, drawn) in paths(&logits, std::slice::from_ref(&draw)) {
            let token = tokens(&drawn)[0];
            assert!(expected.contains(&token), "{path}: {token} {draw:?}");
        }
    };
    let greedy = Limits { temperature: 0.0, ..OPEN };
    let all = [
        OPEN,
        greedy,
        Limits { top_k: 2, ..OPEN },
        Limits { top_p: 0.5, ..OPEN },
        Limits { typical_p: 0.5, ..OPEN },
    ];
    let ties = [1.0, 3.0, 3.0, 0.0];
    check(&ties, plain(greedy, 1), &[1]);
    for key in 0..20 {
        for limits in [
            Limits { temperature: 1e-4, ..OPEN },
            Limits { temperature: 1e-4, top_k: 3, ..OPEN },
            Limits { temperature: 1e-4, top_p: 0.99, ..OPEN },
            Limits { min_p: 1.0, ..OPEN },
            Limits { top_k: 2, ..OPEN },
        ] {
            check(&ties, plain(limits, key), &[1, 2]);
        }
        check(&ties, plain(Limits { top_k: 9_999_999, ..OPEN }, key), &[0, 1, 2, 3]);
        let odd = [1.0, f32::NAN, f32::NEG_INFINITY, 2.0];
        for limits in [OPEN, Limits { top_k: 3, ..OPEN }, Limits { top_p: 0.9, ..OPEN }] {
            check(&odd, plain(limits, key), &[0, 3]);
        }
        for limits in all {
            check(
                &[0.0, f32::INFINITY, 1.0, 2.0],
                mlx::Draw { edits: [NONE].into(), ..plain(limits, key) },
                &[1],
            );
            // A form that leaves nothing with a probability, and one that leaves nothing at all.
            let nothing = [f32::NEG_INFINITY; 4];
            check(
                &nothing,
                mlx::Draw { allowed: Some([0b1100].into()), ..plain(limits, key) },
                &[2],
            );
            check(&ties, mlx::Draw { allowed: Some([0].into()), ..plain(limits, key) }, &[0]);
            check(&ties, mlx::Draw { allowed: Some([].into()), ..plain(limits, key) }, &[0]);
            check(&ties, mlx::Draw { allowed: Some([0b1000].into()), ..plain(limits, key) }, &[3]);
            check(&[f32::NAN; 4], plain(limits, key), &[0, 1, 2, 3]);
        }
    }
}

#[test]
fn logprobs_are_those_of_the_raw_logits() {
    mlx::open().unwrap();
    let row = four();
    let logits = Array::from_slice(&[row.clone(), row.clone(), row].concat(), &[3, 16]);
    let edits: std::sync::Arc<[Edit]> = [Edit { token: 2, bias: 90.0, ..NONE }].into();
    let cold = Limits { temperature: 0.3, top_k: 1, ..OPEN };
    let draws = [
        mlx::Draw { edits: edits.clone(), logprobs: Some(3), ..plain(cold, 1) },
        mlx::Draw { row: 1, ..plain(OPEN, 1) },
        mlx::Draw { row: 2, allowed: Some([1 << 14].into()), logprobs: Some(0), ..plain(cold, 1) },
    ];
    for (path, drawn) in paths(&logits, &draws) {
        let drawn = super::Readings::of(&drawn, logits.dim(-1) as u32)
            .read(&[Some(3), None, Some(0)])
            .unwrap();
        assert_eq!((drawn[0].token, drawn[2].token), (2, 14), "{path}");
        assert!(drawn[1].logprob.is_none());
        let near = |got: f32, expected: f32| {
            assert!((got - expected).abs() < 1e-5, "{path} {got} {expected}")
        };
        let first = drawn[0].logprob.as_ref().unwrap();
        near(first.chosen.logprob, 0.3f32.ln());
        assert_eq!(first.top.iter().map(|choice| choice.id).collect::<Vec<_>>(), [9, 2, 14]);
        for (choice, p) in first.top.iter().zip([0.4f32, 0.3, 0.2]) {
            near(choice.logprob, p.ln());
        }
        let last = drawn[2].logprob.as_ref().unwrap();
        near(last.chosen.logprob, 0.2f32.ln());
        assert!(last.top.is_empty());
    }
}

#[test]
fn logprobs_can_always_be_written_as_json() {
    for odd in [f32::NAN, f32::NEG_INFINITY, -1e9] {
        assert_eq!(super::choice(1, odd).logprob, super::LOGPROB_MIN);
    }
}
