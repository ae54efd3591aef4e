//! Quantised tensors, in both spellings: mlx-lm's (`X.weight`, `X.scales`, `X.biases`, parameters in config.json) and the
//! store's (`X.weight`, `X.weight.scale`, `X.weight.bias`, parameters in the file's metadata).
//!
//! As the layer's size is known, the shapes alone tell bits and group size; the mode follows from the companions. What
//! was declared must agree, because whoever wrote it down would have computed with it.

use std::collections::BTreeMap;
use std::fmt;

use mlx::{Array, Dtype, Mode};

use crate::config::Section;
use crate::error::{Error, Result};
use crate::nn::{Quantised, Scheme};
use crate::weights::Weights;

struct Spelling {
    scales: &'static str,
    biases: &'static str,
    global_scale: &'static [&'static str],
}

const SPELLINGS: [Spelling; 2] = [
    Spelling { scales: "scales", biases: "biases", global_scale: &[] },
    Spelling {
        scales: "weight.scale",
        biases: "weight.bias",
        global_scale: &["weight.global_scale", "weight_scale_2"],
    },
];

/// Where config.json says how the weights are quantised: mlx-lm writes both.
const SECTIONS: [&str; 2] = ["quantization", "quantization_config"];

/// What files say about how tensors are quantised.
#[derive(Default)]
pub(super) struct Declarations {
    everywhere: Option<Declared>,
    /// By the path of the layer.
    layers: BTreeMap<String, Declared>,
}

#[derive(Clone, Copy, Default)]
struct Declared {
    bits: Option<i32>,
    group_size: Option<i32>,
    mode: Option<Mode>,
}

impl Declarations {
    /// From config.json; a layer's own entry stands beside the parameters for all.
    pub(super) fn read(&mut self, config: &Section<'_>) -> Result<()> {
        for name in SECTIONS {
            let Some(section) = config.section(name)? else { continue };
            refuse_foreign(&section)?;
            if section.has("bits") {
                self.everywhere = Some(Declared::read(&section)?);
            }
            // `false` says that a layer is not quantised, which its tensors say as well.
            for path in section.objects() {
                if let Some(own) = section.section(path)? {
                    self.layers.insert(path.to_owned(), Declared::read(&own)?);
                }
            }
        }
        Ok(())
    }

    /// From the metadata of a file of the store: for the file as a whole, or for one of its tensors.
    pub(super) fn of_file<'a>(
        &mut self,
        metadata: &BTreeMap<String, String>,
        names: impl Iterator<Item = &'a str>,
    ) {
        for name in names {
            let find =
                |key: &str| metadata.get(&format!("{name}.{key}")).or_else(|| metadata.get(key));
            let (Some(layer), Some(kind)) = (name.strip_suffix(".weight"), find("quant_type"))
            else {
                continue;
            };
            let mut declared = Declared::of_type(kind);
            let group_size = find("group_size").and_then(|size| size.parse().ok());
            declared.group_size = group_size.or(declared.group_size);
            self.layers.insert(layer.to_owned(), declared);
        }
    }

    fn of_layer(&self, path: &str) -> Option<Declared> {
        self.layers.get(path).copied().or(self.everywhere)
    }
}

impl Declared {
    fn read(section: &Section<'_>) -> Result<Declared> {
        let mode = match section.text("mode")? {
            None => None,
            Some(name) => Some(Mode::from_name(name).ok_or_else(|| {
                section.error(
                    "mode",
                    format!("is `{name}`; the known ones are affine, mxfp4, mxfp8, nvfp4"),
                )
            })?),
        };
        let (bits, group_size) =
            (section.optional_size("bits")?, section.optional_size("group_size")?);
        Ok(Declared { bits, group_size, mode })
    }

    /// The store's names. One it does not know says nothing.
    fn of_type(name: &str) -> Declared {
        let (bits, group_size, mode) = match name.to_ascii_lowercase().as_str() {
            "int4" | "q4" | "fp4" => (4, None, Mode::Affine),
            "int8" | "q8" | "fp8" => (8, None, Mode::Affine),
            "mxfp4" => (4, Some(32), Mode::Mxfp4),
            "mxfp8" => (8, Some(32), Mode::Mxfp8),
            "nvfp4" => (4, Some(16), Mode::Nvfp4),
            _ => return Declared::default(),
        };
        Declared { bits: Some(bits), group_size, mode: Some(mode) }
    }

    fn agrees(&self, found: Scheme) -> bool {
        self.bits.is_none_or(|bits| bits == found.bits)
            && self.group_size.is_none_or(|size| size == found.group_size)
            && self.mode.is_none_or(|mode| mode == found.mode)
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits.map(|bits| format!("{bits} bits"));
        let groups = self.group_size.map(|size| format!("in groups of {size}"));
        let mode = self.mode.map(|mode| format!("({})", mode.name()));
        f.write_str(&[bits, groups, mode].into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// GPTQ, AWQ and others keep their tensors under other names; their missing tensors would tell nobody why.
fn refuse_foreign(section: &Section<'_>) -> Result<()> {
    match section.text("quant_method")? {
        None | Some("mxfp4") => Ok(()),
        Some(other) => {
            let known = "affine, mxfp4, mxfp8 or nvfp4, as mlx-lm writes them";
            Err(section.error(
                "quant_method",
                format!("is `{other}`; weights may be quantised in {known}"),
            ))
        }
    }
}

impl Weights {
    /// The matrix `[out, in]` the cursor stands at, if it is quantised.
    pub(super) fn quantised(&self, shape: [i32; 2]) -> Result<Option<Quantised>> {
        let Some(spelling) = self.spelling() else { return Ok(None) };
        let global_scale = self.global_scale(spelling, 1)?.map(|scale| scale.reshape(&[]));
        let parts = self.quantised_parts(spelling, shape, Ok)?;
        Ok(Some(Quantised { global_scale, ..parts }))
    }

    /// As `quantised`, of `count` experts in tensors with an axis more: one expert's rows after the other's.
    pub(super) fn quantised_stack(
        &self,
        count: i32,
        [out, input]: [i32; 2],
    ) -> Result<Option<Quantised>> {
        let Some(spelling) = self.spelling() else { return Ok(None) };
        let global_scale = self.global_scale(spelling, count)?;
        let flat = |array: Array| match array.shape() {
            [experts, rows, _] if (*experts, *rows) == (count, out) => Ok(array.flatten(0, 1)),
            shape => {
                Err(format!("has shape {shape:?}, the configuration asks for {count} × {out} rows"))
            }
        };
        let parts = self.quantised_parts(spelling, [count * out, input], flat)?;
        Ok(Some(Quantised { global_scale, ..parts }))
    }

    fn spelling(&self) -> Option<&'static Spelling> {
        SPELLINGS.iter().find(|spelling| self.has(spelling.scales))
    }

    fn quantised_parts(
        &self,
        spelling: &Spelling,
        [out, input]: [i32; 2],
        flat: impl Fn(Array) -> std::result::Result<Array, String>,
    ) -> Result<Quantised> {
        let wrong = |reason: String| Error::Quantisation { path: self.path("weight"), reason };
        let part = |name: &str| flat(self.take(name)?).map_err(wrong);
        let (weight, scales) = (part("weight")?, part(spelling.scales)?);
        let biases = self.has(spelling.biases).then(|| part(spelling.biases)).transpose()?;
        let scheme = scheme(&weight, &scales, biases.as_ref(), [out, input]).map_err(wrong)?;
        if let Some(declared) = self.declared()
            && !declared.agrees(scheme)
        {
            return Err(wrong(format!("is stored as {scheme} and declared as {declared}")));
        }
        Ok(Quantised { weight, scales, biases, global_scale: None, scheme })
    }

    fn declared(&self) -> Option<Declared> {
        self.gathered.borrow().declarations.of_layer(&self.prefix)
    }

    /// `[count]`; of one, it may be stored without a dimension.
    fn global_scale(&self, spelling: &Spelling, count: i32) -> Result<Option<Array>> {
        let Some(name) = spelling.global_scale.iter().find(|name| self.has(name)) else {
            return Ok(None);
        };
        let scale = self.take(name)?;
        if scale.size() != count as usize {
            let (path, found) = (self.path(name), scale.shape().to_vec());
            return Err(Error::WrongShape { path, expected: vec![count], found });
        }
        Ok(Some(scale.reshape(&[count]).cast(Dtype::F32)))
    }
}

/// What the shapes and dtypes say; the reason where they say nothing that can be.
fn scheme(
    weight: &Array,
    scales: &Array,
    biases: Option<&Array>,
    [out, input]: [i32; 2],
) -> std::result::Result<Scheme, String> {
    let ([rows, words], [scale_rows, groups]) = (weight.shape(), scales.shape()) else {
        return Err(format!("shapes {:?} and {:?} of scales", weight.shape(), scales.shape()));
    };
    if weight.dtype() != Dtype::U32 {
        return Err(format!("packed weights are uint32, these are {}", weight.dtype()));
    }
    if let Some(biases) = biases
        && biases.shape() != scales.shape()
    {
        return Err(format!(
            "scales have shape {:?} and biases {:?}",
            scales.shape(),
            biases.shape()
        ));
    }
    if (*rows, *scale_rows) != (out, out) {
        return Err(format!(
            "{rows} rows and {scale_rows} rows of scales, the configuration asks for {out}"
        ));
    }
    let divides = |part: i32, whole: i32| part > 0 && whole % part == 0;
    let bits = words.checked_mul(32).filter(|bits| divides(input, *bits)).map(|bits| bits / input);
    let (Some(bits), true) = (bits, divides(*groups, input)) else {
        return Err(format!("{words} words and {groups} groups in a row of {input}"));
    };
    let group_size = input / groups;
    let mode = match (scales.dtype(), biases, bits, group_size) {
        (scales, Some(_), 2..=6 | 8, 32 | 64 | 128) if scales.is_float() => Mode::Affine,
        (Dtype::U8, None, 4, 32) => Mode::Mxfp4,
        (Dtype::U8, None, 8, 32) => Mode::Mxfp8,
        (Dtype::U8, None, 4, 16) => Mode::Nvfp4,
        (scales, biases, ..) => {
            let with = if biases.is_some() { "with" } else { "without" };
            return Err(format!(
                "{bits} bits in groups of {group_size}, scales {scales} {with} biases"
            ));
        }
    };
    Ok(Scheme { bits, group_size, mode })
}
