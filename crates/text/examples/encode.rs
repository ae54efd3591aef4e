//! How fast a tokenizer is: `cargo run --release -p text --example encode -- FOLDER TEXT [RUNS]` encodes the file TEXT
//! with the tokenizer whose files lie in FOLDER, on one thread, and prints the median of RUNS (7) in megabytes a second.
//! `crates/text/tests/reference/speed.py` says the same of the Python package `tokenizers`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use text::{Files, Specials, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err("give a tokenizer's folder and a text".into());
    };
    let runs = arguments.next().map_or(Ok(7), |runs| runs.parse())?;
    let files: BTreeMap<String, PathBuf> = std::fs::read_dir(&folder)?
        .map(|file| {
            let file = file?;
            Ok((file.file_name().to_string_lossy().into_owned(), file.path()))
        })
        .collect::<Result<_, std::io::Error>>()?;
    let start = Instant::now();
    let tokenizer = Tokenizer::load(&Files::open(&files)?)?;
    let loading = start.elapsed();
    let text = std::fs::read_to_string(text)?;
    let ids = tokenizer.encode(&text, false)?;
    let whole = median(runs, || drop(tokenizer.encode(&text, false)));
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let by_lines = median(runs, || {
        lines.iter().for_each(|line| drop(tokenizer.encode(line, false)));
    });
    let decoding = median(runs, || drop(tokenizer.decode(&ids, Specials::Show)));
    let rate = |time: Duration| text.len() as f64 / 1e6 / time.as_secs_f64();
    println!("{folder}: loaded in {loading:.1?}, {} bytes are {} tokens", text.len(), ids.len());
    println!("  at once {:.2} MB/s", rate(whole));
    println!("  by line {:.2} MB/s", rate(by_lines));
    println!("  decoding {:.1} MB/s", rate(decoding));
    Ok(())
}

fn median(runs: usize, mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..runs.max(1))
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}
