//! Which experts a row goes to: scores of the router's logits, and the best few of them with their weights.

use crate::Cpu;
use crate::element::Floats;
use crate::rows::Rows;
use crate::spread;

/// What a logit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Score {
    /// Over all experts of the row.
    Softmax,
    Sigmoid,
}

/// How rows choose.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// Experts to a row.
    pub each: usize,
    pub score: Score,
    /// Added to the scores for the choice, not for the weights.
    pub bias: Option<Floats<'a>>,
    /// The chosen weights are divided by their sum.
    pub normalised: bool,
    /// Multiplies the weights at last.
    pub scale: f32,
}

/// More experts than any router has; each costs eight bytes of a thread's stack.
const EXPERTS_MAX: usize = 1024;

/// Writes each row's best experts, the best first and of equals the one of the lower number, and their weights:
/// `[rows][each]`. Panics where shapes do not fit.
pub fn route(
    cpu: &Cpu<'_>,
    logits: &Rows<'_>,
    routing: &Routing<'_>,
    experts: &mut [u32],
    weights: &mut [f32],
) {
    logits.check();
    let (rows, count, each) = (logits.rows, logits.columns, routing.each);
    assert!(each <= count && count <= EXPERTS_MAX, "{each} of {count} experts");
    assert_eq!((experts.len(), weights.len()), (rows * each, rows * each), "choices");
    assert!(routing.bias.is_none_or(|bias| bias.len() == count), "a bias for each expert");
    let out = Choices { experts: experts.as_mut_ptr(), weights: weights.as_mut_ptr(), each };
    spread::rows(cpu, rows, (each + 8) * count, &|rows| {
        for row in rows {
            // SAFETY: as long as was checked; this task alone writes this row.
            let (experts, weights) = unsafe { out.row(row) };
            route_row(logits.row(row), routing, experts, weights);
        }
    });
}

#[derive(Clone, Copy)]
struct Choices {
    experts: *mut u32,
    weights: *mut f32,
    each: usize,
}

// SAFETY: threads write rows of their own.
unsafe impl Sync for Choices {}

impl Choices {
    /// # Safety
    /// The row exists, and nobody else touches it.
    unsafe fn row<'a>(&self, row: usize) -> (&'a mut [u32], &'a mut [f32]) {
        let at = row * self.each;
        // SAFETY: the caller's promise.
        unsafe {
            let experts = std::slice::from_raw_parts_mut(self.experts.add(at), self.each);
            (experts, std::slice::from_raw_parts_mut(self.weights.add(at), self.each))
        }
    }
}

fn route_row(logits: Floats<'_>, routing: &Routing<'_>, experts: &mut [u32], weights: &mut [f32]) {
    let (mut scores, mut ranks) = ([0f32; EXPERTS_MAX], [0f32; EXPERTS_MAX]);
    let count = logits.len();
    let (scores, ranks) = (&mut scores[..count], &mut ranks[..count]);
    fill_scores(logits, routing.score, scores);
    for (i, (rank, score)) in ranks.iter_mut().zip(&*scores).enumerate() {
        let sum = score + routing.bias.map_or(0.0, |bias| bias.get(i));
        // What is no number is chosen last; its weight stays what it is.
        *rank = if sum.is_nan() { f32::MIN } else { sum.max(f32::MIN) };
    }
    for (expert, weight) in experts.iter_mut().zip(&mut *weights) {
        let best = argmax(ranks);
        (*expert, *weight) = (best as u32, scores[best]);
        ranks[best] = f32::NEG_INFINITY;
    }
    let sum: f32 = weights.iter().sum();
    let factor = if routing.normalised { routing.scale / sum } else { routing.scale };
    weights.iter_mut().for_each(|weight| *weight *= factor);
}

fn fill_scores(logits: Floats<'_>, score: Score, scores: &mut [f32]) {
    for (i, score) in scores.iter_mut().enumerate() {
        *score = logits.get(i);
    }
    match score {
        Score::Sigmoid => scores.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
        Score::Softmax => {
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|x| *x = (*x - max).exp());
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|x| *x /= sum);
        }
    }
}

/// The first of the largest.
fn argmax(ranks: &[f32]) -> usize {
    let mut best = 0;
    for (i, rank) in ranks.iter().enumerate() {
        if *rank > ranks[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::{Pool, isa};

    /// Against sorting, in f64.
    fn check(logits: &[bf16], rows: usize, routing: &Routing<'_>) {
        let (count, each) = (logits.len() / rows, routing.each);
        let (mut experts, mut weights) = (vec![9; rows * each], vec![9f32; rows * each]);
        let pool = Pool::new(2);
        let cpu = Cpu { isa: isa::best(), pool: &pool };
        let x = Rows::new(Floats::Bf16(logits), rows, count);
        route(&cpu, &x, routing, &mut experts, &mut weights);
        for (row, logits) in logits.chunks_exact(count).enumerate() {
            let logits: Vec<f64> = logits.iter().map(|x| x.to_f32().into()).collect();
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            let score = |x: &f64| match routing.score {
                Score::Softmax => x.exp() / sum,
                Score::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            };
            let scores: Vec<f64> = logits.iter().map(score).collect();
            let rank = |i: usize| scores[i] + routing.bias.map_or(0.0, |b| f64::from(b.get(i)));
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)));
            order.truncate(each);
            let sum: f64 = order.iter().map(|&i| scores[i]).sum();
            let factor = f64::from(routing.scale) / if routing.normalised { sum } else { 1.0 };
            for (choice, expert) in order.into_iter().enumerate() {
                let at = row * each + choice;
                assert_eq!(experts[at] as usize, expert, "row {row}, choice {choice}");
                let want = scores[expert] * factor;
                assert!((f64::from(weights[at]) - want).abs() < 1e-6 * want, "{want}");
            }
        }
    }

    #[test]
    fn the_best_are_chosen() {
        let mut rng = StdRng::seed_from_u64(6);
        for (rows, count, each) in [(1, 128, 8), (300, 32, 8), (3, 6, 2), (2, 5, 5), (2, 3, 0)] {
            // All different, so that f32 and f64 agree on the order.
            let mut logits: Vec<bf16> = Vec::new();
            for _ in 0..rows {
                let mut row: Vec<usize> = (0..count).collect();
                (1..count).for_each(|i| row.swap(i, rng.random_range(0..=i)));
                logits.extend(row.iter().map(|&i| bf16::from_f32(i as f32 / 16.0 - 2.0)));
            }
            let bias: Vec<f32> = (0..count).map(|i| (i % 7) as f32 * 0.37).collect();
            for score in [Score::Softmax, Score::Sigmoid] {
                let plain = Routing { each, score, bias: None, normalised: true, scale: 1.0 };
                check(&logits, rows, &plain);
                check(&logits, rows, &Routing { normalised: false, scale: 2.5, ..plain });
                check(&logits, rows, &Routing { bias: Some(Floats::F32(&bias)), ..plain });
            }
        }
    }

    #[test]
    fn equals_and_numbers_that_are_none() {
        let pool = Pool::new(1);
        let cpu = Cpu { isa: isa::best(), pool: &pool };
        let routing =
            Routing { each: 2, score: Score::Sigmoid, bias: None, normalised: false, scale: 1.0 };
        let choose = |logits: &[f32]| {
            let (mut experts, mut weights) = ([9; 2], [0.0; 2]);
            let x = Rows::new(Floats::F32(logits), 1, logits.len());
            route(&cpu, &x, &routing, &mut experts, &mut weights);
            experts
        };
        assert_eq!(choose(&[1.0, 2.0, 2.0, 2.0]), [1, 2]);
        assert_eq!(choose(&[f32::NAN, -3.0, f32::NAN, -9.0]), [1, 3]);
        assert_eq!(choose(&[f32::NAN; 3]), [0, 1]);
    }
}
