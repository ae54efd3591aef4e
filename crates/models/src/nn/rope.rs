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
        let parameters = config.section("rope_parameters")?;
        let old = parameters.is_none();
        let section = parameters.unwrap_or(*config);
        let theta = section.positive_or("rope_theta", config.positive_or("rope_theta", THETA)?)?;
        let dims = rotated_dims(&section, config, head_dim)?;
        let scaling = if old { config.section("rope_scaling")? } else { parameters };
        match scaling {
            Some(scaling) => Rope::scaled(&scaling, config, theta, dims),
            None => Ok(Rope::plain(theta, dims)),
        }
    }

    fn plain(theta: f32, dims: i32) -> Rope {
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
