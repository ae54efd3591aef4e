//! Rotary position embedding, arXiv:2104.09864, with the scalings that stretch a model's context.
//!
//! `config.json` tells it in two spellings: `rope_theta` beside `rope_scaling`, or everything in `rope_parameters`.
//! A scaling is two things: a wavelength for each pair of dimensions, and a factor on queries and keys.

use std::f64::consts::PI;

use mlx::fast::{self, Angles};
use mlx::{Array, Dtype};

use crate::batch::{Batch, Shape};
use crate::config::Section;
use crate::error::Result;

const THETA: f32 = 10_000.0;

#[derive(Clone)]
pub struct Rope {
    /// The leading dimensions of a head that are rotated.
    dims: i32,
    wavelengths: Wavelengths,
    /// What positions are multiplied with.
    scale: f32,
    /// What rotated queries and keys are multiplied with (yarn's attention factor).
    factor: f32,
}

#[derive(Clone)]
enum Wavelengths {
    /// theta^(2i/dims), which MLX's kernel computes itself.
    Plain { theta: f32 },
    /// `[dims / 2]`, f32, in positions per radian.
    Given(Array),
}

impl Rope {
    /// As the configuration tells, for heads of `head_dim` dimensions.
    pub fn read(config: &Section<'_>, head_dim: i32) -> Result<Rope> {
        Rope::read_or(config, THETA, head_dim)
    }

    /// As `read`, where `theta` is what it is if nothing tells it.
    pub fn read_or(config: &Section<'_>, theta: f32, head_dim: i32) -> Result<Rope> {
        if let Some(parameters) = config.section("rope_parameters")? {
            return Rope::of_parameters(&parameters, config, theta, head_dim);
        }
        let theta = config.positive_or("rope_theta", theta)?;
        let dims = rotated_dims(config, config, head_dim)?;
        match config.section("rope_scaling")? {
            Some(scaling) => Rope::scaled(&scaling, config, theta, dims),
            None => Ok(Rope::plain(theta, dims)),
        }
    }

    /// By everything in one section, as `rope_parameters` is one.
    pub fn of_parameters(
        parameters: &Section<'_>,
        config: &Section<'_>,
        theta: f32,
        head_dim: i32,
    ) -> Result<Rope> {
        let theta = config.positive_or("rope_theta", theta)?;
        let theta = parameters.positive_or("rope_theta", theta)?;
        let dims = rotated_dims(parameters, config, head_dim)?;
        Rope::scaled(parameters, config, theta, dims)
    }

    /// Without scaling: wavelengths theta^(2i/dims) for the first `dims` of a head, an even number.
    pub fn plain(theta: f32, dims: i32) -> Rope {
        Rope { dims, wavelengths: Wavelengths::Plain { theta }, scale: 1.0, factor: 1.0 }
    }

    fn scaled(scaling: &Section<'_>, config: &Section<'_>, theta: f32, dims: i32) -> Result<Rope> {
        let field = if scaling.has("rope_type") { "rope_type" } else { "type" };
        let plain = Rope::plain(theta, dims);
        match scaling.text(field)?.unwrap_or("default") {
            "default" => Ok(plain),
            "linear" => Ok(Rope { scale: scaling.positive("factor")?.recip(), ..plain }),
            "llama3" => Ok(Rope { wavelengths: llama3(scaling, theta, dims)?, ..plain }),
            "yarn" => {
                let yarn = Yarn::read(scaling, config)?;
                let wavelengths = yarn.wavelengths(scaling, theta, dims)?;
                Ok(Rope { wavelengths, factor: yarn.factor, ..plain })
            }
            other => {
                let known = "default, linear, llama3, yarn";
                Err(scaling.error(field, format!("is `{other}`; the known ones are {known}")))
            }
        }
    }

    /// Rotates heads by their positions; `x` as `Batch::split_heads` makes it.
    pub fn forward(&self, x: &Array, batch: &Batch) -> Array {
        let angles = match &self.wavelengths {
            Wavelengths::Plain { theta } => Angles::Base(*theta),
            Wavelengths::Given(wavelengths) => Angles::Freqs(wavelengths),
        };
        let Rope { dims, scale, .. } = *self;
        let rope = fast::Rope { dims, traditional: false, angles, scale };
        self.multiplied(match batch.shape() {
            Shape::Uniform { position, .. } => rope.apply(x, position),
            Shape::Ragged => rope.apply_at(x, batch.positions()),
        })
    }

    /// The factor is for the rotated dimensions only. In f32: rounded to bf16 it would tilt all scores one way.
    fn multiplied(&self, x: Array) -> Array {
        let by_factor = |x: &Array| (x.cast(Dtype::F32) * self.factor).cast(x.dtype());
        if self.factor == 1.0 {
            x
        } else if x.dim(-1) == self.dims {
            by_factor(&x)
        } else {
            let parts = x.split_at(&[self.dims], -1);
            mlx::concatenate(&[&by_factor(&parts[0]), &parts[1]], -1)
        }
    }
}

fn rotated_dims(section: &Section<'_>, config: &Section<'_>, head_dim: i32) -> Result<i32> {
    let partial = section
        .positive_or("partial_rotary_factor", config.positive_or("partial_rotary_factor", 1.0)?)?;
    let dims = (head_dim as f32 * partial) as i32;
    if dims % 2 != 0 || dims > head_dim || dims == 0 {
        let reason =
            format!("leaves {dims} of {head_dim} dimensions to rotate: an even number is needed");
        let field = if partial == 1.0 { "head_dim" } else { "partial_rotary_factor" };
        return Err(config.error(field, reason));
    }
    Ok(dims)
}

/// The plain wavelengths theta^(2i/dims), in f64.
fn plain(theta: f32, dims: i32) -> impl Iterator<Item = f64> {
    (0..dims / 2).map(move |i| f64::from(theta).powf(2.0 * f64::from(i) / f64::from(dims)))
}

fn given(scaling: &Section<'_>, wavelengths: impl Iterator<Item = f64>) -> Result<Wavelengths> {
    let wavelengths: Vec<f32> = wavelengths.map(|wavelength| wavelength as f32).collect();
    if !wavelengths.iter().all(|wavelength| wavelength.is_normal() && *wavelength > 0.0) {
        return Err(
            scaling.error("factor", "and its companions give wavelengths that are no numbers")
        );
    }
    Ok(Wavelengths::Given(Array::from_slice(&wavelengths, &[wavelengths.len() as i32])))
}

/// Llama 3.1: long waves are stretched by `factor`, short ones stay, those between are mixed.
fn llama3(scaling: &Section<'_>, theta: f32, dims: i32) -> Result<Wavelengths> {
    let factor = f64::from(scaling.positive("factor")?);
    let low = f64::from(scaling.positive("low_freq_factor")?);
    let high = f64::from(scaling.positive("high_freq_factor")?);
    let original = f64::from(scaling.size("original_max_position_embeddings")?);
    if high <= low {
        let reason = format!("is {high}, not more than the {low} of `low_freq_factor`");
        return Err(scaling.error("high_freq_factor", reason));
    }
    let mix = |wavelength: f64| {
        let turns = original / (2.0 * PI * wavelength);
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        let frequency = (1.0 - kept) / (factor * wavelength) + kept / wavelength;
        frequency.recip()
    };
    given(scaling, plain(theta, dims).map(mix))
}

/// YaRN, arXiv:2309.00071: between `beta_slow` and `beta_fast` turns over the original context, waves go from
/// stretched to kept; queries and keys grow with the logarithm of the stretching.
struct Yarn {
    stretch: f64,
    original: f64,
    beta_fast: f64,
    beta_slow: f64,
    /// Round the ends of the ramp to whole dimensions.
    truncate: bool,
    factor: f32,
}

impl Yarn {
    fn read(scaling: &Section<'_>, config: &Section<'_>) -> Result<Yarn> {
        let stretch = f64::from(scaling.positive("factor")?);
        let original = match scaling.optional_size("original_max_position_embeddings")? {
            Some(original) => original,
            None => config.size("max_position_embeddings")?,
        };
        Ok(Yarn {
            stretch,
            original: f64::from(original),
            beta_fast: f64::from(scaling.positive_or("beta_fast", 32.0)?),
            beta_slow: f64::from(scaling.positive_or("beta_slow", 1.0)?),
            truncate: scaling.flag("truncate", true)?,
            factor: attention_factor(scaling, stretch)?,
        })
    }

    fn wavelengths(&self, scaling: &Section<'_>, theta: f32, dims: i32) -> Result<Wavelengths> {
        let (low, high) = self.ramp(theta, dims);
        let mix = |(index, wavelength): (usize, f64)| {
            let stretched = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let frequency =
                stretched / (self.stretch * wavelength) + (1.0 - stretched) / wavelength;
            frequency.recip()
        };
        given(scaling, plain(theta, dims).enumerate().map(mix))
    }

    /// Between which pairs of dimensions the ramp lies.
    fn ramp(&self, theta: f32, dims: i32) -> (f64, f64) {
        let (theta, dims) = (f64::from(theta), f64::from(dims));
        let pair =
            |turns: f64| dims * (self.original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dims - 1.0));
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}

/// `attention_factor` itself, or by DeepSeek's `mscale` pair, or the paper's 0.1 ln(stretch) + 1.
fn attention_factor(scaling: &Section<'_>, stretch: f64) -> Result<f32> {
    if let Some(factor) = scaling.optional_positive("attention_factor")? {
        return Ok(factor);
    }
    let growth = |mscale: f64| if stretch <= 1.0 { 1.0 } else { 0.1 * mscale * stretch.ln() + 1.0 };
    let over = scaling.optional_positive("mscale")?;
    let under = scaling.optional_positive("mscale_all_dim")?;
    Ok(match (over, under) {
        (Some(over), Some(under)) => growth(over.into()) / growth(under.into()),
        _ => growth(1.0),
    } as f32)
}

#[cfg(test)]
mod tests {
    use crate::cache::Memory;
    use crate::config::parse;

    use super::*;

    const HEAD_DIM: i32 = 16;

    /// A head of ones in the first half of the rotated dimensions and zeros elsewhere, rotated at `position`: cosines
    /// and sines of all angles, times the factor.
    fn rotated(config: &str, position: usize) -> Vec<f32> {
        mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
        let fields = parse(config).unwrap();
        let rope = Rope::read(&Section::whole(&fields), HEAD_DIM).unwrap();
        let mut memory = Memory::new(Dtype::F32, []);
        let slot = memory.open();
        let tokens = mlx::zeros(&[position as i32 + 1], Dtype::U32);
        let batch = Batch::new(tokens, &[(slot, position + 1)], &memory);
        let head: Vec<f32> = (0..HEAD_DIM).map(|i| f32::from(i < rope.dims / 2)).collect();
        let x = Array::from_slice(&head.repeat(position + 1), &[position as i32 + 1, HEAD_DIM]);
        let out = batch.merge_heads(&rope.forward(&batch.split_heads(&x, 1), &batch));
        out.to_vec().unwrap()[position * HEAD_DIM as usize..].to_vec()
    }

    /// `angles` in radians, one per pair.
    fn check(config: &str, position: usize, factor: f64, angles: impl Iterator<Item = f64>) {
        let found = rotated(config, position);
        let angles: Vec<f64> = angles.collect();
        let sines = angles.iter().map(|angle| angle.sin() * factor);
        let turned = angles.iter().map(|angle| angle.cos() * factor).chain(sines);
        let expected = turned.chain(std::iter::repeat(0.0)).take(HEAD_DIM as usize);
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            // Angles reach 100 radians here, which f32 holds to 4e-6.
            assert!(
                (f64::from(*found) - expected).abs() < 2e-5,
                "{config}, dimension {index}: {found}, not {expected}"
            );
        }
    }

    /// position / theta^(2i/dims)
    fn angles(position: f64, theta: f64, dims: i32) -> impl Iterator<Item = f64> {
        (0..dims / 2).map(move |i| position / theta.powf(2.0 * f64::from(i) / f64::from(dims)))
    }

    #[test]
    fn plain_and_linear_in_both_spellings() {
        check("{}", 7, 1.0, angles(7.0, 1e4, 16));
        check(r#"{"rope_theta": 500.0, "rope_scaling": null}"#, 90, 1.0, angles(90.0, 500.0, 16));
        let new = r#"{"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}"#;
        check(new, 90, 1.0, angles(90.0, 500.0, 16));
        let old = r#"{"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}}"#;
        check(old, 90, 1.0, angles(22.5, 500.0, 16));
        let new =
            r#"{"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 500.0}}"#;
        check(new, 90, 1.0, angles(22.5, 500.0, 16));
    }

    #[test]
    fn part_of_a_head() {
        check(r#"{"partial_rotary_factor": 0.5}"#, 30, 1.0, angles(30.0, 1e4, 8));
        let new = r#"{"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 100.0}}"#;
        check(new, 30, 1.0, angles(30.0, 100.0, 8));
    }

    /// So far stretched that every wave is beyond the original context: all are stretched, and llama3 does not scale.
    #[test]
    fn llama3_stretches_long_waves_and_keeps_short_ones() {
        let scaled = |original: i32| {
            format!(
                r#"{{"rope_scaling": {{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": {original}}}}}"#
            )
        };
        check(&scaled(1), 40, 1.0, angles(5.0, 1e4, 16));
        check(&scaled(1 << 22), 40, 1.0, angles(40.0, 1e4, 16));
    }

    /// The factor of 8 has the attention factor 0.1 ln 8 + 1; the rotated dimensions alone grow by it.
    #[test]
    fn yarn_scales_what_it_rotates() {
        let yarn = |more: &str| {
            format!(
                r#"{{"rope_scaling": {{"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 63,
                "beta_fast": 10.0, "beta_slow": 10.0 {more}}}}}"#
            )
        };
        let growth = 0.1 * 8_f64.ln() + 1.0;
        // The first pair makes ten turns in 63 positions: there the ramp ends, and all others are stretched.
        let stretched =
            || angles(40.0, 1e4, 16).enumerate().map(|(i, a)| if i == 0 { a } else { a / 8.0 });
        check(&yarn(""), 40, growth, stretched());
        check(&yarn(r#", "attention_factor": 0.5"#), 40, 0.5, stretched());
        check(&yarn(r#", "mscale": 0.7, "mscale_all_dim": 0.7"#), 40, 1.0, stretched());
        let partial = yarn("").replacen('{', r#"{"partial_rotary_factor": 0.5, "#, 1);
        let stretched =
            angles(40.0, 1e4, 8).enumerate().map(|(i, a)| if i == 0 { a } else { a / 8.0 });
        check(&partial, 40, growth, stretched);
    }
}
