//! `bench compare`: `ollmlx bench` and llama.cpp's `llama-bench` in turn, over checkpoints of one shape with random weights
//! and equal bits: affine 4-bit in groups of 64 beside Q4_0, 8-bit in groups of 32 beside Q8_0.
//!
//! Samples can be collected in a file over several calls, for machines that are quiet only now and then.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, bail};
use fixtures::Blocks;

use super::report::report;
use super::sample::{Pair, Sample, Setting};
use super::{checkpoint, commit, encoding, shape, take};
use crate::build::{program, root};

const USAGE: &str = "cargo xtask bench compare --llama-bench PATH [--shape NAME|all] [--bits 4|8] [--rounds 5] [--threads N]
       [--prompt 512] [--decode 128] [--depth 0] [--busy N] [--program PATH] [--commit NAME] [--append FILE]
   or: cargo xtask bench compare --report FILE";

/// The shapes of `--shape all`.
const SHAPES: [&str; 4] = ["qwen3-0.6b", "llama-3.2-1b", "qwen3-4b", "qwen3-moe-1b"];

/// What `--busy` runs in processes of their own.
pub const SPIN: &str = "spin";

struct Wish {
    llama_bench: PathBuf,
    shapes: Vec<String>,
    rounds: usize,
    /// A program that is there already, in place of building.
    program: Option<PathBuf>,
    /// What was built, where that is not this tree.
    commit: String,
    append: Option<PathBuf>,
    /// All but the shape.
    setting: Setting,
}

pub fn run(args: &[String]) -> anyhow::Result<()> {
    let mut rest = args.to_vec();
    if let Some(file) = take(&mut rest, "--report")? {
        print!("{}", report(&read(Path::new(&file))?));
        return Ok(());
    }
    let wish = wish(&mut rest)?;
    if let Some(unknown) = rest.first() {
        bail!("unknown `{unknown}`; usage: {USAGE}");
    }
    let program = match &wish.program {
        Some(program) => program.clone(),
        None => program()?,
    };
    let mut samples = Vec::new();
    for shape in &wish.shapes {
        let setting = Setting { shape: shape.clone(), ..wish.setting.clone() };
        samples.extend(samples_of(&wish, &program, &setting)?);
    }
    print!("{}", report(&samples));
    Ok(())
}

fn wish(args: &mut Vec<String>) -> anyhow::Result<Wish> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let llama_bench = take(args, "--llama-bench")?.with_context(|| format!("usage: {USAGE}"))?;
    let shapes = match take(args, "--shape")?.as_deref() {
        Some("all") => SHAPES.map(str::to_owned).to_vec(),
        Some(one) => vec![one.to_owned()],
        None => vec![SHAPES[0].to_owned()],
    };
    Ok(Wish {
        llama_bench: llama_bench.into(),
        shapes,
        rounds: number(args, "--rounds", 5)?.max(1),
        program: take(args, "--program")?.map(PathBuf::from),
        commit: take(args, "--commit")?.unwrap_or_else(commit),
        append: take(args, "--append")?.map(PathBuf::from),
        setting: Setting {
            shape: String::new(),
            bits: number(args, "--bits", 4)? as u32,
            threads: number(args, "--threads", cores)?.max(1),
            prompt: number(args, "--prompt", 512)?.max(1),
            decode: number(args, "--decode", 128)?.max(1),
            depth: number(args, "--depth", 0)?,
            busy: number(args, "--busy", 0)?,
        },
    })
}

fn number(args: &mut Vec<String>, name: &str, default: usize) -> anyhow::Result<usize> {
    let Some(text) = take(args, name)? else { return Ok(default) };
    text.parse().with_context(|| format!("{name} {text}: not a number"))
}

fn samples_of(wish: &Wish, program: &Path, setting: &Setting) -> anyhow::Result<Vec<Sample>> {
    let bits = setting.bits.to_string();
    let pair = Pair {
        ollmlx: program,
        llama_bench: &wish.llama_bench,
        checkpoint: &checkpoint(&setting.shape, &bits)?,
        gguf: &gguf(&setting.shape, &bits)?,
        bytes_per_token: fixtures::bytes_per_token(&shape(&setting.shape)?, encoding(&bits)?)?,
        commit: &wish.commit,
    };
    let _spinning = Spinning::start(setting.busy)?;
    let mut samples = Vec::new();
    for round in 1..=wish.rounds {
        let sample = pair.measure(setting)?;
        eprintln!(
            "{} {round}/{}: prefill {:.1} : {:.1}, decode {:.1} : {:.1}, foreign cores {:.2}",
            setting.shape,
            wish.rounds,
            sample.ours.prefill,
            sample.theirs.prefill,
            sample.ours.decode,
            sample.theirs.decode,
            sample.foreign_cores
        );
        if let Some(file) = &wish.append {
            append(file, &sample)?;
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// The GGUF file with equal bits, made if it is not there.
pub fn gguf(name: &str, bits: &str) -> anyhow::Result<PathBuf> {
    let blocks = match bits {
        "4" => Blocks::Q4_0,
        "8" => Blocks::Q8_0,
        other => bail!("--bits {other}: 4 or 8"),
    };
    let path = root().join("target/bench").join(format!("{name}-{bits}.gguf"));
    if !path.exists() {
        eprintln!("making {} (once)", path.display());
        let unfinished = path.with_extension("unfinished");
        fixtures::random_gguf(&shape(name)?, 1, &unfinished, blocks)?;
        std::fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

fn append(file: &Path, sample: &Sample) -> anyhow::Result<()> {
    let line = serde_json::to_string(sample)? + "\n";
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    Ok(file.write_all(line.as_bytes())?)
}

fn read(file: &Path) -> anyhow::Result<Vec<Sample>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Foreign processes that compute, until dropped.
struct Spinning(Vec<Child>);

impl Spinning {
    fn start(count: usize) -> anyhow::Result<Spinning> {
        let mut spinning = Spinning(Vec::new());
        for _ in 0..count {
            let child = Command::new(std::env::current_exe()?).args(["bench", SPIN]).spawn()?;
            spinning.0.push(child);
        }
        Ok(spinning)
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn spin() -> ! {
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn wishes() -> anyhow::Result<()> {
        let mut args = words(
            "--llama-bench /x --shape all --bits 8 --rounds 3 --threads 4 --depth 9 --busy 1 more",
        );
        let wish = wish(&mut args)?;
        assert_eq!((wish.shapes.len(), wish.rounds, args), (SHAPES.len(), 3, words("more")));
        let Setting { bits, threads, prompt, decode, depth, busy, .. } = wish.setting;
        assert_eq!((bits, threads, prompt, decode, depth, busy), (8, 4, 512, 128, 9, 1));
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_told() {
        let check = |args: &str, expected: &str| {
            let error =
                run(&words(args)).map_or_else(|error| format!("{error:#}"), |()| String::new());
            assert!(error.contains(expected), "{args}: {error}");
        };
        check("", "--llama-bench PATH");
        check("--llama-bench /x --rounds many", "--rounds many: not a number");
        check("--llama-bench /x --what", "unknown `--what`");
        check("--llama-bench /x --shape", "--shape needs a value");
        check("--report /nowhere/at/all", "/nowhere/at/all");
    }

    #[test]
    fn every_shape_has_its_file() {
        for name in SHAPES {
            assert!(shape(name).is_ok_and(|text| text.contains("architectures")), "{name}");
        }
    }
}
