//! One row of activations: bound by memory, so few instructions count.

use super::{Lines, Turned, blocks};
use crate::quantized::activations::Row;
use crate::quantized::codec::Codec;
use crate::simd::{Dot, Simd, each};

/// One row of activations. Lanes run along the weight rows, and the integers are turned: fewer instructions than to turn
/// the codes, as long as nobody else needs them.
#[inline(always)]
pub(super) unsafe fn product<V: Simd, D: Dot<V>, C: Codec, const S: usize>(
    lines: &Lines,
    columns: usize,
    turned: Turned,
    x: &Row,
) -> V::F {
    // Lanes of a span, and of what `part_sums` gives.
    let (span, part) = const { (S / 4 / C::PLANES, if S / 4 / C::PLANES < 4 { 2 } else { 4 }) };
    let step = const { blocks::<V, C>() };
    // SAFETY: as in `crate::simd`; activations are padded to whole blocks.
    unsafe {
        let mut sum = [V::zero()];
        let mut dots = [V::zero_ints(); 16];
        // Parts of all blocks.
        let mut parts = [V::zero_ints(); 16];
        for first in (0..lines.blocks::<V, C>()).step_by(step) {
            for block in 0..step {
                let b = first + block;
                let x: [V::B; 4] = each(|plane| match plane < C::PLANES {
                    true => V::load_bytes(x.codes.add((b * C::PLANES + plane) * V::BYTES)),
                    false => V::splat_byte(0),
                });
                for (r, to) in dots.iter_mut().enumerate().take(V::LANES) {
                    let planes = C::split::<V>(lines.load::<V, C>(r, b));
                    let mut dot = V::zero_ints();
                    for (&codes, &x) in planes.iter().zip(&x).take(C::PLANES) {
                        dot = D::dot(dot, D::prepare(codes), x);
                    }
                    *to = D::widen(dot);
                }
                V::part_sums(dots.as_mut_ptr(), part == 2);
                let count = const { V::LANES / if S / 4 / C::PLANES < 4 { 2 } else { 4 } };
                parts[block * count..][..count].copy_from_slice(&dots[..count]);
            }
            let start = first * C::block::<V>();
            let left = columns - start;
            for s in 0..left.min(step * C::block::<V>()) / S {
                let mut dots = *parts.get_unchecked(s * span / part);
                for more in 1..span / part {
                    dots = V::add_ints(dots, *parts.get_unchecked(s * span / part + more));
                }
                turned.add::<V, C, 1, 1>([&raw mut sum], &[[dots]], &[*x], start + s * S);
            }
        }
        sum[0]
    }
}
