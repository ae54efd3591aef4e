//! Where the time of decoding goes, of all rounds together: what share of it each kind of kernel took, and each kernel.

use std::time::Duration;

use engine::measure::Measured;
use mlx::cpu::Part;
use serde_json::{Value, json};

pub struct Parts {
    steps: usize,
    decode: Duration,
    /// Kind, time and calls of each kernel, the most first.
    kernels: Vec<(&'static str, Part, Duration, u64)>,
}

/// The lines of the table, in their order. What no kernel took is a line more.
const KINDS: [(Part, &str); 5] = [
    (Part::Products, "products"),
    (Part::Attention, "attention"),
    (Part::Other, "other kernels"),
    (Part::Between, "between kernels"),
    (Part::Queue, "a GPU's queue"),
];

impl Parts {
    pub fn of(rounds: &[Measured]) -> Parts {
        let mut kernels: Vec<(&'static str, Part, Duration, u64)> = Vec::new();
        for spent in rounds.iter().flat_map(|round| &round.decode_parts) {
            match kernels.iter_mut().find(|(name, ..)| *name == spent.kernel) {
                Some((_, _, time, calls)) => {
                    (*time, *calls) = (*time + spent.time, *calls + spent.calls)
                }
                None => kernels.push((spent.kernel, spent.part, spent.time, spent.calls)),
            }
        }
        kernels.sort_by_key(|(_, _, time, _)| std::cmp::Reverse(*time));
        Parts {
            steps: rounds.iter().map(|round| round.decode_steps).sum(),
            decode: rounds.iter().map(|round| round.decode).sum(),
            kernels,
        }
    }

    /// Of the time of decoding.
    fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.decode.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Kinds with their shares; the last is what no kernel took: our own code, MLX, waiting.
    fn kinds(&self) -> Vec<(&'static str, f64)> {
        let of = |part: Part| {
            self.kernels.iter().filter(|kernel| kernel.1 == part).map(|kernel| kernel.2).sum()
        };
        // Who has a queue has no kernels of ours.
        let has_queue = self.kernels.iter().any(|kernel| kernel.1 == Part::Queue);
        let kinds = KINDS.iter().filter(|(part, _)| has_queue == (*part == Part::Queue));
        let mut kinds: Vec<_> = kinds.map(|&(part, name)| (name, self.share(of(part)))).collect();
        let rest = 1.0 - kinds.iter().map(|(_, share)| share).sum::<f64>();
        kinds.push(("outside", rest.max(0.0)));
        kinds
    }

    fn calls_per_step(&self, calls: u64) -> f64 {
        calls as f64 / self.steps.max(1) as f64
    }

    pub fn text(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let kinds = self.kinds();
        let kinds: Vec<_> =
            kinds.iter().map(|(name, share)| format!("{name} {}", percent(*share))).collect();
        let mut text = format!("  time           {}\n", kinds.join(", "));
        for (name, _, time, calls) in &self.kernels {
            let share = percent(self.share(*time));
            let micros = time.as_secs_f64() * 1e6 / (*calls).max(1) as f64;
            let calls = self.calls_per_step(*calls);
            text +=
                &format!("    {name:<20} {share:>7}, {micros:.1} µs each, {calls:.1} in a step\n");
        }
        text
    }

    pub fn json(&self) -> Value {
        let kernels: Vec<_> = self
            .kernels
            .iter()
            .map(|(name, _, time, calls)| {
                json!({"kernel": name, "share": self.share(*time), "calls_per_step": self.calls_per_step(*calls)})
            })
            .collect();
        let kinds: serde_json::Map<_, _> = self
            .kinds()
            .into_iter()
            .map(|(name, share)| (name.replace(' ', "_"), json!(share)))
            .collect();
        json!({"shares": kinds, "kernels": kernels})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx::cpu::parts::Spent;

    fn round(milliseconds: u64, products: u64, attention: u64) -> Measured {
        let spent = |kernel, part, time| Spent {
            kernel,
            part,
            time: Duration::from_millis(time),
            calls: 28,
        };
        Measured {
            prompt_tokens: 1,
            prefill: Duration::ZERO,
            first_token: Duration::ZERO,
            decode_steps: 7,
            decode: Duration::from_millis(milliseconds),
            decode_inside_mlx: Duration::ZERO,
            decode_mlx_calls: 0,
            decode_parts: vec![
                spent("attention", Part::Attention, attention),
                spent("dense_products", Part::Products, products),
            ],
            peak_bytes: 0,
        }
    }

    #[test]
    fn shares_are_of_the_time_of_decoding_and_add_up() {
        let parts = Parts::of(&[round(100, 60, 20), round(100, 80, 10)]);
        let shares: Vec<_> =
            parts.kinds().iter().map(|(_, share)| (share * 1000.0).round()).collect();
        assert_eq!(shares, [700.0, 150.0, 0.0, 0.0, 150.0]);
        assert_eq!(
            parts.text(),
            "  time           products 70.0 %, attention 15.0 %, other kernels 0.0 %, between kernels 0.0 %, outside 15.0 %\n    \
             dense_products        70.0 %, 2500.0 µs each, 4.0 in a step\n    \
             attention             15.0 %, 535.7 µs each, 4.0 in a step\n"
        );
        assert_eq!(parts.json()["shares"]["other_kernels"], 0.0);
    }
}
