//! From samples to a table in Markdown: medians with their spread, and ratios two ways: of the medians, and the median of
//! the ratios of each pair, which a machine that changes its pace between pairs disturbs less.

use std::collections::BTreeMap;

use super::sample::{Rates, Sample, Setting};

/// Pairs that others disturbed are left out and counted.
pub fn report(samples: &[Sample]) -> String {
    let mut groups: BTreeMap<&Setting, Vec<&Sample>> = BTreeMap::new();
    let quiet: Vec<Sample> = samples.iter().filter(|sample| sample.is_quiet()).cloned().collect();
    for sample in &quiet {
        groups.entry(&sample.setting).or_default().push(sample);
    }
    let mut out = String::from(
        "| shape | bits | what | pairs | ollmlx, tokens/s | llama.cpp, tokens/s | ratio of medians | median ratio (range) | of read bandwidth |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (setting, samples) in &groups {
        out += &rows(setting, samples);
    }
    out += &origin(&quiet);
    match samples.len() - quiet.len() {
        0 => out,
        count => out + &format!("pairs left out, as other processes computed meanwhile: {count}\n"),
    }
}

/// One row for reading a prompt, one for decoding.
fn rows(setting: &Setting, samples: &[&Sample]) -> String {
    let busy = match setting.busy {
        0 => String::new(),
        count => format!(", {count} foreign busy"),
    };
    let depth = match setting.depth {
        0 => String::new(),
        depth => format!(" after {depth}"),
    };
    let row = |what: String, of: fn(&Rates) -> f64, share: String| {
        let ours = Spread::of(samples.iter().map(|sample| of(&sample.ours)));
        let theirs = Spread::of(samples.iter().map(|sample| of(&sample.theirs)));
        let ratio = Spread::of(samples.iter().map(|s| of(&s.ours) / of(&s.theirs)));
        let Setting { shape, bits, threads, .. } = setting;
        format!(
            "| {shape} | {bits} | {what}, {threads} threads{busy} | {} | {} | {} | {:.2} | {} | {share} |\n",
            samples.len(),
            ours.text(1),
            theirs.text(1),
            ours.middle / theirs.middle,
            ratio.text(2),
        )
    };
    let share = Spread::of(samples.iter().map(|sample| {
        100.0 * sample.ours.decode * sample.bytes_per_token as f64 / sample.memory_all
    }));
    row(format!("prefill {}", setting.prompt), |rates| rates.prefill, "–".to_owned())
        + &row(
            format!("decode {}{depth}", setting.decode),
            |rates| rates.decode,
            format!("{} %", share.text(0)),
        )
}

/// Everything that must be known to doubt the figures.
fn origin(samples: &[Sample]) -> String {
    let all = |of: fn(&Sample) -> String| {
        let names: std::collections::BTreeSet<String> = samples.iter().map(of).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    let one = Spread::of(samples.iter().map(|sample| sample.memory_one / 1e9));
    let many = Spread::of(samples.iter().map(|sample| sample.memory_all / 1e9));
    format!(
        "\n{}; kernels for {}; ollmlx {}, llama.cpp {}; memory reads, one thread {} GB/s, all threads {} GB/s\n",
        all(|sample| sample.processor.clone()),
        all(|sample| sample.instructions.clone()),
        all(|sample| sample.commit.clone()),
        all(|sample| sample.their_commit.clone()),
        one.text(1),
        many.text(1),
    )
}

/// Least, median and largest.
struct Spread {
    least: f64,
    middle: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = match values.len() % 2 {
            0 => (at(values.len().wrapping_sub(2) / 2) + at(values.len() / 2)) / 2.0,
            _ => at(values.len() / 2),
        };
        Spread { least: at(0), middle, most: at(values.len().wrapping_sub(1)) }
    }

    fn text(&self, digits: usize) -> String {
        let Spread { least, middle, most } = self;
        format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ours: f64, theirs: f64) -> Sample {
        let rates = |decode: f64| Rates { prefill: decode * 10.0, decode };
        let setting = Setting {
            shape: "small".into(),
            bits: 4,
            threads: 2,
            prompt: 512,
            decode: 128,
            depth: 0,
            busy: 0,
        };
        Sample {
            setting,
            ours: rates(ours),
            theirs: rates(theirs),
            foreign_cores: 0.02,
            memory_one: 10e9,
            memory_all: 20e9,
            bytes_per_token: 200_000_000,
            instructions: "avx2".into(),
            commit: "abc".into(),
            their_commit: "def".into(),
            processor: "P".into(),
        }
    }

    /// By hand: medians 40 and 20; ratios 2, 1.5 and 4; 200 MB at 40 a second are 8 of 20 GB/s.
    #[test]
    fn medians_ratios_and_share() {
        let text = report(&[sample(40.0, 20.0), sample(30.0, 20.0), sample(60.0, 15.0)]);
        let row = "| small | 4 | decode 128, 2 threads | 3 | 40.0 (30.0–60.0) | 20.0 (15.0–20.0) | 2.00 | 2.00 (1.50–4.00) | 40 (30–60) % |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("prefill 512, 2 threads | 3 | 400.0 (300.0–600.0)"), "{text}");
        let end = "P; kernels for avx2; ollmlx abc, llama.cpp def; memory reads, one thread 10.0 (10.0–10.0) GB/s, all threads 20.0 (20.0–20.0) GB/s\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn settings_are_apart_and_even_counts_have_a_middle() {
        let mut busy = sample(10.0, 5.0);
        (busy.setting.busy, busy.foreign_cores) = (1, 1.05);
        let disturbed = Sample { foreign_cores: 0.5, ..sample(1.0, 1.0) };
        let text = report(&[sample(40.0, 20.0), disturbed, sample(60.0, 20.0), busy]);
        assert!(text.ends_with("meanwhile: 1\n"), "{text}");
        assert!(text.contains("| 2 | 50.0 (40.0–60.0)"), "{text}");
        assert!(text.contains("threads, 1 foreign busy | 1 | 10.0 (10.0–10.0)"), "{text}");
    }
}
