//! On the CPU a row's logits have the same bits however its sequence is cut into passes and whoever else is in them
//! (`docs/decisions/0013-row-invariance.md`): so a reply is the same from a cold and a cached prompt, alone and beside
//! others. Elsewhere MLX's own products choose their order by the number of rows, and `properties` has a bound.

use mlx::{Device, Dtype};
use models::Model;

use crate::quantised::in_4_bits;
use crate::support::{Checkpoint, DECODERS, Rows, Session};

/// Numbers below a bound, the same ones in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as usize % bound
    }

    fn tokens(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| 3 + self.below(500) as u32).collect()
    }
}

fn check(name: &str, model: Box<dyn Model>) {
    mlx::catch(|| check_all(name, model)).unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn check_all(name: &str, model: Box<dyn Model>) {
    let mut session = Session::new(model);
    let mut random = Random(name.len() as u64);
    let texts = [200, 60, 33].map(|count| random.tokens(count));
    let alone: Vec<Rows> = texts.iter().map(|text| session.alone(text)).collect();
    let all_passes =
        [("one by one", 1), ("in short chunks", 30), ("in chunks", 200), ("in two parts", 90)];
    for (passes, most) in all_passes {
        let slots = [(); 3].map(|()| session.open());
        let mut done = [0; 3];
        while let Some(first) = (0..3).find(|&text| done[text] < texts[text].len()) {
            // The first goes on, others where it falls out so, in another order.
            let goes = |text: usize, random: &mut Random| text == first || random.below(2) == 0;
            let mut parts = Vec::new();
            for text in [2, 0, 1] {
                let left = texts[text].len() - done[text];
                if left > 0 && goes(text, &mut random) {
                    parts.push((text, done[text]..done[text] + left.min(1 + random.below(most))));
                }
            }
            let pass: Vec<_> = parts
                .iter()
                .map(|(text, part)| (slots[*text], &texts[*text][part.clone()]))
                .collect();
            let rows = match passes == "in two parts" && pass.len() > 1 {
                true => {
                    let layers = random.below(1 + session.model.layers());
                    let place = (layers, 1 + random.below(pass.len() - 1));
                    let between = |session: &mut Session| {
                        assert_eq!(session.alone(&texts[2]), alone[2], "{name}, in between");
                    };
                    session.step_in_two(&pass, place, between)
                }
                false => session.step(&pass),
            };
            let mut rows = rows.into_iter();
            for (text, part) in parts {
                done[text] = part.end;
                for position in part {
                    let same = rows.next().as_ref() == Some(&alone[text][position]);
                    assert!(same, "{name}, {passes}: position {position} of sequence {text}");
                }
            }
        }
        slots.iter().for_each(|slot| session.close(*slot));
    }
}

fn on_cpu() -> bool {
    crate::support::open_mlx();
    mlx::device() == Device::Cpu
}

#[test]
fn dense_models_do_not_see_the_other_rows() {
    for name in DECODERS.into_iter().filter(|_| on_cpu()) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            check(name, Checkpoint::of(name).load(Some(dtype)));
        }
    }
}

#[test]
fn quantised_models_do_not_see_the_other_rows() {
    for name in ["llama-bias", "qwen3", "qwen3-moe"].into_iter().filter(|_| on_cpu()) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            check(name, in_4_bits(dtype, name));
        }
    }
}
