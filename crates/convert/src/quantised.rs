//! Weights that MLX has quantised: `X.weight` packed into 32-bit words, `X.scales`, and `X.biases` where zero is not in
//! the middle. How coarse they are stands in `config.json`, per layer where it differs, and must agree with the shapes.

use protocol::Failure;
use serde_json::Value;

use crate::bad_model;
use crate::source::{Source, SourceTensor};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantisation {
    /// `int4`, `mxfp8` …
    pub kind: String,
    pub bits: u64,
    pub group_size: u64,
}

/// A packed weight and what belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    pub weight: &'a SourceTensor,
    pub scales: &'a SourceTensor,
    pub biases: Option<&'a SourceTensor>,
}

const BITS: [u64; 6] = [2, 3, 4, 5, 6, 8];

impl<'a> Packed<'a> {
    /// The parts of layer `X`, if it is quantised: words of 32 bits, or a config that says so.
    pub fn find(source: &'a Source, layer: &str) -> Option<Packed<'a>> {
        let part = |name: &str| source.tensors.get(&format!("{layer}.{name}"));
        let (weight, scales) = (part("weight")?, part("scales")?);
        let is_quantised = weight.stored.dtype == "U32" || told(&source.config, layer).is_some();
        is_quantised.then(|| Packed { weight, scales, biases: part("biases") })
    }

    /// How it is quantised, once everything about it has been found to agree.
    pub fn quantisation(&self, source: &Source, layer: &str) -> Result<Quantisation, Failure> {
        let told = told(&source.config, layer).ok_or_else(|| {
            bad_model(format!(
                "`{layer}` has scales, and `config.json` does not say how it is quantised"
            ))
        })?;
        let found = self.fitting(&told, is_mixed(&source.config));
        let found = found.ok_or_else(|| self.disagreement(layer, &told))?;
        self.check_types(layer, &found)?;
        Ok(found)
    }

    /// What was told, if the shapes agree. Else, where layers differ, the one number of bits that they allow: some
    /// configs tell of a layer under another name than the files.
    fn fitting(&self, told: &Quantisation, is_mixed: bool) -> Option<Quantisation> {
        let (packed, scales) = (self.weight.shape(), self.scales.shape());
        let (&packed_row, &scales_row) = (packed.last()?, scales.last()?);
        if packed.len() < 2 || packed[..packed.len() - 1] != scales[..scales.len() - 1] {
            return None;
        }
        let bits_in = packed_row.checked_mul(32)?;
        let fits = |bits: &u64| scales_row.checked_mul(told.group_size * bits) == Some(bits_in);
        if fits(&told.bits) {
            return Some(told.clone());
        }
        let bits = BITS.into_iter().filter(|_| is_mixed && told.is_affine()).find(fits)?;
        Some(Quantisation { kind: format!("int{bits}"), bits, ..told.clone() })
    }

    fn disagreement(&self, layer: &str, told: &Quantisation) -> Failure {
        bad_model(format!(
            "`{layer}` cannot be {} in groups of {}: its weight is {:?} and its scales are {:?}",
            told.kind,
            told.group_size,
            self.weight.shape(),
            self.scales.shape()
        ))
    }

    fn check_types(&self, layer: &str, found: &Quantisation) -> Result<(), Failure> {
        let is =
            |tensor: &SourceTensor, types: &[&str]| types.contains(&tensor.stored.dtype.as_str());
        let wrong = |part: &str, tensor: &SourceTensor, wanted: &str| {
            let got = &tensor.stored.dtype;
            Err(bad_model(format!("`{layer}.{part}` is {got}, and {} needs {wanted}", found.kind)))
        };
        if !is(self.weight, &["U32"]) {
            return wrong("weight", self.weight, "U32");
        }
        let floats = ["F32", "F16", "BF16"];
        match (found.is_affine(), self.biases) {
            (false, None) if is(self.scales, &["U8"]) => Ok(()),
            (false, None) => wrong("scales", self.scales, "U8"),
            (false, Some(_)) => {
                Err(bad_model(format!("`{layer}` has biases, and {} has none", found.kind)))
            }
            (true, None) => {
                Err(bad_model(format!("`{layer}.biases` is missing, which {} needs", found.kind)))
            }
            (true, Some(_)) if !is(self.scales, &floats) => wrong("scales", self.scales, "a float"),
            (true, Some(biases)) if biases.stored.dtype != self.scales.stored.dtype => {
                wrong("biases", biases, &self.scales.stored.dtype)
            }
            (true, Some(biases)) if biases.shape() != self.scales.shape() => Err(bad_model(
                format!("the biases of `{layer}` have another shape than its scales"),
            )),
            (true, Some(_)) => Ok(()),
        }
    }
}

impl Quantisation {
    fn is_affine(&self) -> bool {
        self.kind.starts_with("int")
    }

    fn parse(told: &Value, fallback: Option<&Quantisation>) -> Option<Quantisation> {
        let number = |key: &str| told.get(key).and_then(Value::as_u64);
        let bits =
            number("bits").or(fallback.map(|all| all.bits)).filter(|bits| BITS.contains(bits))?;
        let group_size = number("group_size").or(fallback.map(|all| all.group_size));
        let group_size = group_size.filter(|size| [16, 32, 64, 128].contains(size))?;
        let kind = match told.get("mode").and_then(Value::as_str) {
            None | Some("affine") => format!("int{bits}"),
            Some(mode @ ("mxfp4" | "nvfp4" | "mxfp8")) => mode.to_owned(),
            Some(_) => return None,
        };
        Some(Quantisation { kind, bits, group_size })
    }
}

fn of_all(config: &Value) -> Option<&Value> {
    ["quantization", "quantization_config"].iter().find_map(|key| config.get(key))
}

fn is_mixed(config: &Value) -> bool {
    let all = of_all(config).and_then(Value::as_object);
    all.is_some_and(|all| all.values().any(Value::is_object))
}

/// What `config.json` says about a layer.
fn told(config: &Value, layer: &str) -> Option<Quantisation> {
    let all = of_all(config)?;
    let general = Quantisation::parse(all, None);
    match all.get(layer).filter(|own| own.is_object()) {
        Some(own) => Quantisation::parse(own, general.as_ref()),
        None => general,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceTensor;
    use serde_json::json;
    use store::StoredTensor;

    fn tensor(dtype: &str, shape: &[u64]) -> SourceTensor {
        let stored = StoredTensor {
            name: String::new(),
            dtype: dtype.into(),
            shape: shape.into(),
            data: 0..0,
        };
        SourceTensor { shard: 0, stored }
    }

    /// A layer of 128 columns; `Ok` is the kind and the group.
    fn check(told_: Value, weight: &[u64], scales: &[u64], expected: Result<(&str, u64), &str>) {
        let config = json!({ "quantization": told_ });
        let (weight, scales) = (tensor("U32", weight), tensor("BF16", scales));
        let packed = Packed { weight: &weight, scales: &scales, biases: Some(&scales) };
        let told = told(&config, "l").expect("told");
        let found =
            packed.fitting(&told, is_mixed(&config)).ok_or_else(|| packed.disagreement("l", &told));
        let found = found.and_then(|found| packed.check_types("l", &found).map(|()| found));
        match (found, expected) {
            (Ok(found), Ok((kind, group))) => {
                assert_eq!((found.kind.as_str(), found.group_size), (kind, group));
            }
            (Err(failure), Err(text)) => assert!(failure.message.contains(text), "{failure}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn every_width_and_group() {
        for bits in BITS {
            for group in [32, 64, 128] {
                let told = json!({"bits": bits, "group_size": group});
                let kind = format!("int{bits}");
                check(told, &[8, 128 * bits / 32], &[8, 128 / group], Ok((&kind, group)));
            }
        }
    }

    #[test]
    fn layers_of_their_own() {
        let own = json!({"bits": 4, "group_size": 64, "l": {"bits": 8, "group_size": 32}});
        check(own, &[8, 32], &[8, 4], Ok(("int8", 32)));
        let partly = json!({"bits": 4, "group_size": 64, "l": {"bits": 6}});
        check(partly, &[8, 24], &[8, 2], Ok(("int6", 64)));
        // Told under another name: the shapes allow only this.
        let other = json!({"bits": 4, "group_size": 64, "model.l": {"bits": 8, "group_size": 64}});
        check(other, &[8, 32], &[8, 2], Ok(("int8", 64)));
    }

    #[test]
    fn what_does_not_agree() {
        let told = || json!({"bits": 4, "group_size": 64});
        check(told(), &[8, 32], &[8, 2], Err("cannot be int4 in groups of 64"));
        check(told(), &[8, 17], &[8, 2], Err("cannot be int4 in groups of 64"));
        check(told(), &[8, 16], &[9, 2], Err("its weight is [8, 16] and its scales are [9, 2]"));
        check(told(), &[16], &[2], Err("cannot be int4"));
        check(
            json!({"bits": 4, "group_size": 32, "mode": "mxfp4"}),
            &[8, 16],
            &[8, 4],
            Err("has biases"),
        );
        assert_eq!(told_of(json!({"bits": 7, "group_size": 64})), None);
        assert_eq!(told_of(json!({"bits": 4, "group_size": 48})), None);
        assert_eq!(told_of(json!({"quant_method": "gptq", "bits": "4"})), None);
        assert_eq!(told_of(json!({"bits": 4, "group_size": 64, "mode": "new"})), None);
    }

    fn told_of(all: Value) -> Option<Quantisation> {
        told(&json!({ "quantization_config": all }), "l")
    }
}
