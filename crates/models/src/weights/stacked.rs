//! The networks of a mixture of experts, in the three layouts that checkpoints have: each expert's tensors by
//! themselves (`experts.7.gate_proj.weight`), stacked by projection as mlx-lm saves them (`switch_mlp.gate_proj.weight`),
//! or stacked with gate and up in one (`experts.gate_up_proj`, with or without `.weight`).

use mlx::Array;

use crate::error::{Error, Result};
use crate::nn::{Experts, GateUp, Quantised, Stack};
use crate::weights::Weights;

impl Weights {
    /// `count` networks from `hidden` over `inner` to `hidden`, below where the cursor stands.
    pub fn experts(&self, count: i32, hidden: i32, inner: i32) -> Result<Experts> {
        let twice = inner.checked_mul(2).and_then(|twice| twice.checked_mul(count));
        if twice.is_none() || hidden.checked_mul(count).is_none() {
            let reason = format!("is {count}; so many networks are more than a tensor can hold");
            return Err(crate::error::config("num_experts", reason));
        }
        let stack = |name: &str, shape| self.expert_stack(name, count, shape);
        let joined = ["switch_mlp", "experts"].iter().any(|group| {
            let name = format!("{group}.gate_up_proj");
            self.has(&name) || self.has(&format!("{name}.weight"))
        });
        let gate_up = match joined {
            true => GateUp::Joined(stack("gate_up_proj", [2 * inner, hidden])?),
            false => GateUp::Apart {
                gate: stack("gate_proj", [inner, hidden])?,
                up: stack("up_proj", [inner, hidden])?,
            },
        };
        Ok(Experts { count, gate_up, down: stack("down_proj", [hidden, inner])? })
    }

    fn expert_stack(&self, name: &str, count: i32, [out, input]: [i32; 2]) -> Result<Stack> {
        for group in ["switch_mlp", "experts"] {
            let name = format!("{group}.{name}");
            if self.has(&name) {
                let stack = self.tensor(&name, &[count, out, input])?;
                return Ok(Stack::Dense(stack.flatten(0, 1)));
            }
            let w = self.at(&name);
            if w.has("weight") {
                return w.stacked(count, [out, input]);
            }
        }
        self.gathered_stack(name, count, [out, input])
    }

    /// The cursor stands at a projection whose tensors have an axis of experts.
    fn stacked(&self, count: i32, [out, input]: [i32; 2]) -> Result<Stack> {
        if let Some(weights) = self.quantised_stack(count, [out, input])? {
            return Ok(Stack::Quantised(weights));
        }
        Ok(Stack::Dense(self.tensor("weight", &[count, out, input])?.flatten(0, 1)))
    }

    /// Out of each expert's own tensors, which are let go one projection after the other.
    fn gathered_stack(&self, name: &str, count: i32, [out, input]: [i32; 2]) -> Result<Stack> {
        let taken = self.gathered.borrow().taken.len();
        let w = self.at("experts");
        let one = |expert: i32| w.at(&format!("{expert}.{name}"));
        let quantised: Option<Vec<Quantised>> =
            (0..count).map(|expert| one(expert).quantised([out, input])).collect::<Result<_>>()?;
        let stack =
            match quantised {
                Some(parts) => Stack::Quantised(join(&parts).map_err(|reason| {
                    Error::Quantisation { path: one(0).path("weight"), reason }
                })?),
                None => {
                    let dense = |expert| one(expert).tensor("weight", &[out, input]);
                    let parts = (0..count).map(dense).collect::<Result<Vec<Array>>>()?;
                    Stack::Dense(concatenated(&parts))
                }
            };
        let arrays: Vec<Array> = match &stack {
            Stack::Dense(weights) => vec![weights.clone()],
            Stack::Quantised(q) => q.arrays(),
        };
        mlx::eval(&arrays.iter().collect::<Vec<_>>())?;
        self.gathered.borrow_mut().taken.truncate(taken);
        Ok(stack)
    }
}

fn concatenated(parts: &[Array]) -> Array {
    mlx::concatenate(&parts.iter().collect::<Vec<_>>(), 0)
}

/// All experts' parts, one after the other; the reason where they are not alike.
fn join(parts: &[Quantised]) -> std::result::Result<Quantised, String> {
    let [first, ..] = parts else { return Err("of no experts".into()) };
    let form = |q: &Quantised| (q.scheme, q.biases.is_some(), q.global_scale.is_some());
    if let Some(other) = parts.iter().find(|part| form(part) != form(first)) {
        return Err(format!(
            "is stored as {} and another expert's as {}",
            first.scheme, other.scheme
        ));
    }
    let all = |of: &dyn Fn(&Quantised) -> Option<Array>| -> Option<Array> {
        let parts: Option<Vec<Array>> = parts.iter().map(of).collect();
        parts.map(|parts| concatenated(&parts))
    };
    Ok(Quantised {
        weight: concatenated(&parts.iter().map(|q| q.weight.clone()).collect::<Vec<_>>()),
        scales: concatenated(&parts.iter().map(|q| q.scales.clone()).collect::<Vec<_>>()),
        biases: all(&|q| q.biases.clone()),
        global_scale: all(&|q| q.global_scale.as_ref().map(|scale| scale.reshape(&[1]))),
        scheme: first.scheme,
    })
}
