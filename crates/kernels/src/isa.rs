//! Which instruction set the kernels use, chosen once at run time.
//!
//! The names form two ladders, one per architecture, each starting at `scalar`; a rung implies those below it except
//! that `avx-vnni` (the 256-bit form) and the AVX-512 rungs are siblings a processor may have one without the other.
//! `OLLMLX_CPU_ISA` forces a rung; one that this processor lacks falls back to the best supported rung below it, with
//! a warning for the caller to show.

use std::sync::OnceLock;

/// Sorted: later is better on the same architecture.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Isa {
    /// Portable Rust; the reference.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// As `Avx2`, with 256-bit `vpdpbusd`.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ (and the AVX2 set).
    Avx512,
    /// As `Avx512`, with `vpdpbusd`.
    Avx512Vnni,
    /// As `Avx512Vnni`, with `vdpbf16ps`.
    Avx512Bf16,
    /// As `Avx512Bf16`, with tiles of bytes and of bf16, which Linux must have granted (`crate::simd::amx`).
    Amx,
    /// arm64's base.
    Neon,
    /// As `Neon`, with `sdot`.
    Dotprod,
    /// As `Dotprod`, with `smmla` and `usdot`.
    I8mm,
}

/// The instruction set in use, and what the user should hear about the choice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    pub isa: Isa,
    pub warning: Option<String>,
}

impl Isa {
    pub const ALL: [Isa; 10] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Bf16,
        Isa::Amx,
        Isa::Neon,
        Isa::Dotprod,
        Isa::I8mm,
    ];

    /// The name in `OLLMLX_CPU_ISA` and in `doctor`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
        }
    }

    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name.trim()))
    }

    /// Whether this processor (and operating system) can run it.
    pub fn supported(self) -> bool {
        supported(self)
    }

    /// 512-bit registers may be used.
    pub fn has_avx512(self) -> bool {
        (Isa::Avx512..=Isa::Amx).contains(&self)
    }

    /// 256-bit registers with FMA and F16C may be used (all x86 rungs but `scalar`).
    pub fn has_avx2(self) -> bool {
        (Isa::Avx2..=Isa::Amx).contains(&self)
    }

    /// Lanes of 32 bits in the registers used.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Scalar => 1,
            Isa::Avx2 | Isa::AvxVnni => 8,
            Isa::Neon | Isa::Dotprod | Isa::I8mm => 4,
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => 16,
        }
    }

    /// `vdpbf16ps` may be used.
    pub fn has_avx512_bf16(self) -> bool {
        (Isa::Avx512Bf16..=Isa::Amx).contains(&self)
    }

    /// 128-bit NEON registers may be used.
    pub fn has_neon(self) -> bool {
        self >= Isa::Neon
    }
}

/// All rungs this processor can run, `scalar` first.
pub fn available() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.supported()).collect()
}

/// The best rung.
pub fn best() -> Isa {
    best_below(None)
}

/// Follows a user's wish as far as the processor allows.
pub fn choose(forced: Option<&str>) -> Choice {
    let Some(name) = forced.filter(|name| !name.trim().is_empty()) else {
        return Choice { isa: best(), warning: None };
    };
    let Some(wish) = Isa::from_name(name) else {
        let names: Vec<&str> = available().into_iter().map(Isa::name).collect();
        let warning = format!(
            "OLLMLX_CPU_ISA: no instruction set is called `{name}`; using {}, this processor has {}",
            best().name(),
            names.join(", ")
        );
        return Choice { isa: best(), warning: Some(warning) };
    };
    if wish.supported() {
        return Choice { isa: wish, warning: None };
    }
    let isa = best_below(Some(wish));
    let warning = format!("OLLMLX_CPU_ISA: {} cannot run here; using {}", wish.name(), isa.name());
    Choice { isa, warning: Some(warning) }
}

/// The process's choice, from `OLLMLX_CPU_ISA` at first use.
pub fn current() -> &'static Choice {
    static CHOICE: OnceLock<Choice> = OnceLock::new();
    CHOICE.get_or_init(|| choose(std::env::var("OLLMLX_CPU_ISA").ok().as_deref()))
}

fn best_below(limit: Option<Isa>) -> Isa {
    let mut found = Isa::Scalar;
    for isa in Isa::ALL {
        if limit.is_none_or(|limit| isa < limit) && isa.supported() {
            found = isa;
        }
    }
    found
}

#[cfg(target_arch = "x86_64")]
fn supported(isa: Isa) -> bool {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("fma") && has!("f16c");
    let avx512 =
        avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq");
    match isa {
        Isa::Scalar => true,
        Isa::Avx2 => avx2,
        Isa::AvxVnni => avx2 && has!("avxvnni"),
        Isa::Avx512 => avx512,
        Isa::Avx512Vnni => avx512 && has!("avx512vnni"),
        Isa::Avx512Bf16 => avx512 && has!("avx512vnni") && has!("avx512bf16"),
        Isa::Amx => Isa::Avx512Bf16.supported() && crate::simd::amx::available(),
        Isa::Neon | Isa::Dotprod | Isa::I8mm => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn supported(isa: Isa) -> bool {
    use std::arch::is_aarch64_feature_detected as has;
    match isa {
        Isa::Scalar => true,
        Isa::Neon => has!("neon"),
        Isa::Dotprod => has!("neon") && has!("dotprod"),
        Isa::I8mm => has!("neon") && has!("dotprod") && has!("i8mm"),
        _ => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn supported(isa: Isa) -> bool {
    isa == Isa::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(forced: Option<&str>, isa: Isa, warns: bool) {
        let choice = choose(forced);
        assert_eq!((choice.isa, choice.warning.is_some()), (isa, warns), "{forced:?}: {choice:?}");
    }

    #[test]
    fn a_wish_is_followed_or_answered() {
        check(None, best(), false);
        check(Some(" "), best(), false);
        check(Some("SCALAR"), Isa::Scalar, false);
        check(Some("sse9"), best(), true);
        for isa in available() {
            check(Some(isa.name()), isa, false);
        }
    }

    #[test]
    fn a_wish_the_processor_lacks_falls_to_the_rung_below() {
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.supported()) {
            let choice = choose(Some(isa.name()));
            assert!(choice.isa < isa && choice.isa.supported() && choice.warning.is_some());
        }
    }
}
