//! Draws as a graph of MLX's operations, for devices that our kernels do not reach. Rows that are alike in kind are
//! drawn together; what differs among them is an array.

use mlx::{Array, Draw, Draws, Dtype, Edit, Logprobs};

/// What a row's limits ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The best token.
    Best,
    /// All tokens; nothing needs sorting.
    Open,
    /// So many of the best, sorted. Rows with other numbers are none of theirs: whoever is taken of several that are
    /// equal must not depend on the others.
    Few(usize),
    /// All tokens, sorted.
    Sorted,
}

pub(super) fn draw(logits: &Array, draws: &[Draw]) -> Draws {
    let raw = rows(logits, &draws.iter().map(|draw| draw.row).collect::<Vec<_>>());
    let tokens = tokens(&raw, draws);
    let wanted = draws.iter().filter_map(|draw| draw.logprobs).max();
    let logprobs = wanted.map(|alternatives| logprobs(&raw, &tokens, alternatives));
    Draws { tokens, logprobs }
}

fn logprobs(raw: &Array, tokens: &Array, alternatives: usize) -> Logprobs {
    let raw = raw.cast(Dtype::F32);
    let all = &raw - &raw.logsumexp(&[-1], true);
    let chosen = all.take_along_axis(&tokens.expand_dims(&[-1]), -1).squeeze(&[-1]);
    let count = alternatives.min(all.shape()[1] as usize);
    Logprobs { chosen, top: (count > 0).then(|| best(&all, count)) }
}

fn tokens(raw: &Array, draws: &[Draw]) -> Array {
    let columns = raw.shape()[1] as usize;
    let is_plain = |draw: &Draw| draw.edits.is_empty() && draw.allowed.is_none();
    let kinds: Vec<Kind> = draws.iter().map(|draw| kind(draw, columns)).collect();
    if draws.iter().all(is_plain) && kinds.iter().all(|kind| *kind == Kind::Best) {
        return raw.argmax(-1, false).cast(Dtype::U32);
    }
    let logits = edited(&raw.cast(Dtype::F32), draws);
    let (mut parts, mut order) = (Vec::new(), Vec::new());
    for (place, &kind) in kinds.iter().enumerate() {
        if kinds[..place].contains(&kind) {
            continue;
        }
        let places: Vec<usize> = (0..draws.len()).filter(|place| kinds[*place] == kind).collect();
        let members: Vec<&Draw> = places.iter().map(|place| &draws[*place]).collect();
        parts.push(draw_kind(kind, &rows(&logits, &places), &members));
        order.extend(places);
    }
    let drawn = match &parts[..] {
        [one] => one.clone(),
        many => mlx::concatenate(&many.iter().collect::<Vec<_>>(), 0),
    };
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(place, row)| back[*row] = place);
    fallen_back(&logits, &rows(&drawn, &back), draws)
}

fn kind(draw: &Draw, columns: usize) -> Kind {
    let limits = &draw.limits;
    let all = limits.top_k == 0 || limits.top_k >= columns;
    match limits {
        _ if limits.temperature <= 0.0 => Kind::Best,
        _ if !all => Kind::Few(limits.top_k),
        _ if limits.top_p >= 1.0 && limits.typical_p >= 1.0 => Kind::Open,
        _ => Kind::Sorted,
    }
}

/// These rows, in this order.
fn rows(x: &Array, places: &[usize]) -> Array {
    let is_all = places.len() == x.shape()[0] as usize
        && places.iter().enumerate().all(|(place, row)| place == *row);
    if is_all {
        return x.clone();
    }
    let places: Vec<i32> = places.iter().map(|place| *place as i32).collect();
    x.take(&Array::from_slice(&places, &[places.len() as i32]), 0)
}

/// Biases, penalties, masks; no NaN is left and no plus infinity.
fn edited(logits: &Array, draws: &[Draw]) -> Array {
    let mut logits = logits.clone();
    let [count, columns] = [logits.shape()[0], logits.shape()[1]];
    let known =
        |row: usize| move |edit: &Edit| ((edit.token as i32) < columns).then_some((row, *edit));
    let edits: Vec<(usize, Edit)> = draws
        .iter()
        .enumerate()
        .flat_map(|(row, draw)| {
            let known = known(row);
            draw.edits.iter().filter(|edit| edit.token <= i32::MAX as u32).filter_map(known)
        })
        .collect();
    if !edits.is_empty() {
        let place = |(row, edit): &(usize, Edit)| *row as i32 * columns + edit.token as i32;
        let places: Vec<i32> = edits.iter().map(place).collect();
        let places = Array::from_slice(&places, &[places.len() as i32]);
        let numbers = |number: fn(&Edit) -> f32| {
            let numbers: Vec<f32> = edits.iter().map(|(_, edit)| number(edit)).collect();
            Array::from_slice(&numbers, &[numbers.len() as i32])
        };
        let flat = logits.reshape(&[-1]);
        let biased = &flat.take_along_axis(&places, 0) + &numbers(|edit| edit.bias);
        let repeat = numbers(|edit| edit.repeat);
        let repeated =
            mlx::where_(&biased.greater(&scalar(0.0)), &(&biased / &repeat), &(&biased * &repeat));
        let new = &repeated - &numbers(|edit| edit.minus);
        logits = flat.put_along_axis(&places, &new, 0).reshape(&[count, columns]);
    }
    let nothing = scalar(f32::NEG_INFINITY);
    if draws.iter().any(|draw| draw.allowed.is_some()) {
        let all = || vec![1; columns as usize];
        let bytes =
            |draw: &Draw| draw.allowed.as_ref().map_or_else(all, |words| bytes(words, columns));
        let allowed: Vec<u8> = draws.iter().flat_map(bytes).collect();
        let allowed = Array::from_slice(&allowed, &[count, columns]).cast(Dtype::Bool);
        logits = mlx::where_(&allowed, &logits, &nothing);
    }
    logits.nan_to_num(f32::NEG_INFINITY, Some(f32::MAX), Some(f32::NEG_INFINITY))
}

/// A byte for each token: 1 if it may be drawn.
fn bytes(words: &[u32], columns: i32) -> Vec<u8> {
    let columns = columns as usize;
    let mut bytes: Vec<u8> = Vec::with_capacity(columns + 32);
    for word in words.iter().take(columns.div_ceil(32)) {
        for byte in word.to_le_bytes() {
            bytes.extend_from_slice(&SPREAD[byte as usize]);
        }
    }
    // The model may have more logits than the tokenizer has tokens, and the other way round.
    bytes.resize(columns, 0);
    bytes
}

/// The eight bits of a byte, lowest first.
const SPREAD: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            table[byte][bit] = (byte >> bit & 1) as u8;
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// Where a form leaves nothing with a probability, the first token it allows.
fn fallen_back(logits: &Array, drawn: &Array, draws: &[Draw]) -> Array {
    if draws.iter().all(|draw| draw.allowed.is_none()) {
        return drawn.clone();
    }
    let columns = logits.shape()[1] as u32;
    let first = |draw: &Draw| {
        let mut words = draw.allowed.iter().flat_map(|words| words.iter()).enumerate();
        let word = words.find(|(_, word)| **word != 0);
        let id = word.map_or(0, |(index, word)| 32 * index as u32 + word.trailing_zeros());
        if id < columns { id } else { 0 }
    };
    let first: Vec<u32> = draws.iter().map(first).collect();
    let first = Array::from_slice(&first, &[first.len() as i32]);
    let some = logits.max(&[-1], false).greater(&scalar(f32::NEG_INFINITY));
    mlx::where_(&some, drawn, &first)
}

fn draw_kind(kind: Kind, logits: &Array, draws: &[&Draw]) -> Array {
    let columns = logits.shape()[1];
    match kind {
        Kind::Best => logits.argmax(-1, false).cast(Dtype::U32),
        Kind::Open => {
            let ids = mlx::arange(0.0, f64::from(columns), 1.0, Dtype::U32).reshape(&[1, -1]);
            let best = logits.max(&[-1], true);
            let scores = &(logits - &best) / &numbers(draws, |draw| draw.limits.temperature);
            race(&likely(&scores, draws), &ids, draws).argmax(-1, false).cast(Dtype::U32)
        }
        Kind::Few(_) | Kind::Sorted => {
            let count = if let Kind::Few(count) = kind { count } else { columns as usize };
            let (ids, values) = best(logits, count);
            let place = race(&limited(&values, draws), &ids, draws).argmax(-1, true);
            ids.take_along_axis(&place, -1).squeeze(&[-1]).cast(Dtype::U32)
        }
    }
}

/// Log-weights of sorted logits, minus infinity for what the limits leave out.
fn limited(values: &Array, draws: &[&Draw]) -> Array {
    let best = values.narrow(-1, 0, 1);
    let mut scores = &(values - &best) / &numbers(draws, |draw| draw.limits.temperature);
    if draws.iter().any(|draw| draw.limits.typical_p < 1.0) {
        scores = typical(&scores, draws);
    }
    if draws.iter().any(|draw| draw.limits.top_p < 1.0) {
        let probabilities = scores.softmax(&[-1]);
        let before = probabilities.cumsum_before(-1);
        let top = numbers(draws, |draw| share(draw.limits.top_p));
        let inside = before.less(&top).logical_or(&before.less_equal(&scalar(0.0)));
        scores = only(&inside, &scores);
    }
    likely(&scores, draws)
}

/// A limit of cumulative probabilities; none is never reached, whatever rounding does.
fn share(limit: f32) -> f32 {
    if limit < 1.0 { limit } else { 2.0 }
}

/// Keeps the fewest whose information is nearest to the expected one, with that share.
fn typical(scores: &Array, draws: &[&Draw]) -> Array {
    let probabilities = scores.softmax(&[-1]);
    let information = probabilities.maximum(&scalar(f32::MIN_POSITIVE)).log().negative();
    let entropy = (&probabilities * &information).sum(&[-1], true);
    let order = (&information - &entropy).abs().argsort(-1);
    let before = probabilities.take_along_axis(&order, -1).cumsum_before(-1);
    let inside = before.less(&numbers(draws, |draw| share(draw.limits.typical_p)));
    let inside = inside.logical_or(&before.less_equal(&scalar(0.0)));
    let inside = inside.take_along_axis(&order.argsort(-1), -1);
    only(&inside, scores)
}

/// Keeps what is as likely as `min_p` asks.
fn likely(scores: &Array, draws: &[&Draw]) -> Array {
    if draws.iter().all(|draw| draw.limits.min_p <= 0.0) {
        return scores.clone();
    }
    let least =
        &scores.max(&[-1], true) + &numbers(draws, |draw| draw.limits.min_p.clamp(0.0, 1.0).ln());
    only(&scores.greater_equal(&least), scores)
}

/// Scores with everybody's luck: the largest wins.
fn race(scores: &Array, ids: &Array, draws: &[&Draw]) -> Array {
    let halves = |shift: u32| {
        let halves: Vec<u32> = draws.iter().map(|draw| (draw.key >> shift) as u32).collect();
        Array::from_slice(&halves, &[halves.len() as i32, 1])
    };
    let unit = &noise(ids, &halves(0), &halves(32)).cast(Dtype::F32) * 2f32.powi(-32);
    // Not 1, which the cast rounds the largest to.
    let unit = (&unit + 2f32.powi(-33)).minimum(&scalar(1.0f32.next_down()));
    scores - &unit.negative().log1p().negative().log()
}

/// As `mlx::noise`.
fn noise(ids: &Array, low: &Array, high: &Array) -> Array {
    let number = |value: u32| Array::scalar(f64::from(value), Dtype::U32);
    let fold = |x: &Array, bits: u32| x.bitwise_xor(&x.right_shift(&number(bits)));
    let x = ids.multiply(&number(0x9E37_79B1)).bitwise_xor(low);
    let x = fold(&x, 16).multiply(&number(0x7FEB_352D));
    let x = fold(&x, 15).add(high).multiply(&number(0x846C_A68B));
    fold(&x, 16)
}

/// The `count` largest of each row, best first: ids u32 and values.
fn best(logits: &Array, count: usize) -> (Array, Array) {
    let columns = logits.shape()[1] as usize;
    let negated = -logits;
    let ids = if count < columns {
        let part = negated.argpartition(count as i32 - 1, -1).narrow(-1, 0, count as i32);
        let order = negated.take_along_axis(&part, -1).argsort(-1);
        part.take_along_axis(&order, -1)
    } else {
        negated.argsort(-1)
    };
    let values = logits.take_along_axis(&ids, -1);
    (ids.cast(Dtype::U32), values)
}

fn only(kept: &Array, scores: &Array) -> Array {
    mlx::where_(kept, scores, &scalar(f32::NEG_INFINITY))
}

/// One number for each row, [rows, 1].
fn numbers(draws: &[&Draw], number: impl Fn(&Draw) -> f32) -> Array {
    let numbers: Vec<f32> = draws.iter().map(|draw| number(draw)).collect();
    Array::from_slice(&numbers, &[numbers.len() as i32, 1])
}

fn scalar(value: f32) -> Array {
    Array::scalar(f64::from(value), Dtype::F32)
}
