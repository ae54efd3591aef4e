//! A run: one file of consecutive pages. Little endian:
//!
//! - a head: magic, version, the identity of what made the pages;
//! - the records' bytes, each page's and then its state's, one after the other;
//! - the table: for each record its name, its parent's, both lengths, a checksum of its bytes, its tokens;
//! - a foot: how many records there are, the table's bytes, a checksum of head and table, magic.
//!
//! So a run is written in one go, and its table is read without its pages. Written under another name and renamed when it
//! is whole; it is not synced, as its checksums tell what a failing machine left.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::persist::{Chain, Identity, Record};

/// Names of runs end in this, those of unfinished ones in [`UNFINISHED`].
pub(super) const RUN: &str = "run";
pub(super) const UNFINISHED: &str = "tmp";

const MAGIC: [u8; 8] = *b"ollmlxKV";
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 8 + 4 + 32;
/// Without its tokens.
const ENTRY_BYTES: usize = 2 * Chain::BYTES + 8 + 8 + 32 + 4;
const FOOT_BYTES: usize = 4 + 4 + 32 + 8;

/// Records of one run. Price: a table of 84 bytes each, and 4 for each token, is read for every run when a model is loaded.
pub(super) const RECORDS_MAX: usize = 4096;

/// A longer table is none of ours. Price: what a damaged file makes us read.
const TABLE_BYTES_MAX: usize = 16 << 20;

/// What is read at once and checked while the processor still has it.
const PIECE_BYTES: u64 = 256 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub page: Chain,
    pub parent: Chain,
    /// Behind the parent's: all of a page, or less.
    pub tokens: Vec<u32>,
    pub page_bytes: u64,
    /// 0: it has none.
    pub state_bytes: u64,
    checksum: [u8; 32],
}

/// Where a record lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub path: PathBuf,
    pub offset: u64,
    pub entry: Entry,
}

/// A file that is not what it should be, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("{0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A run on its way.
pub(super) struct NewRun {
    file: File,
    unfinished: PathBuf,
    head: [u8; HEAD_BYTES],
    entries: Vec<Entry>,
    bytes: u64,
}

impl NewRun {
    pub fn create(unfinished: PathBuf, identity: &Identity) -> io::Result<NewRun> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&unfinished)?;
        let head = head(identity);
        let begun = file.write_all(&head);
        let run = NewRun { file, unfinished, head, entries: Vec::new(), bytes: HEAD_BYTES as u64 };
        begun.map(|()| run)
    }

    pub fn push(&mut self, parent: Chain, page: Chain, record: &Record) -> io::Result<()> {
        let state = record.state.as_deref().unwrap_or_default();
        let tokens = record.tokens.clone();
        self.file.write_all(&record.page)?;
        self.file.write_all(state)?;
        let (page_bytes, state_bytes) = (record.page.len() as u64, state.len() as u64);
        let checksum = checksum(&[&record.page, state]);
        self.entries.push(Entry { page, parent, tokens, page_bytes, state_bytes, checksum });
        self.bytes += page_bytes + state_bytes;
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn pages(&self) -> impl Iterator<Item = Chain> {
        self.entries.iter().map(|entry| entry.page)
    }

    pub fn last(&self) -> Option<Chain> {
        self.entries.last().map(|entry| entry.page)
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() == RECORDS_MAX
    }

    /// Gives the run its name; what it holds is then there for everybody.
    pub fn finish(mut self, path: &Path) -> io::Result<Vec<Place>> {
        let table: Vec<u8> = self.entries.iter().flat_map(Entry::encode).collect();
        self.file.write_all(&table)?;
        self.file.write_all(&foot(self.entries.len(), &self.head, &table))?;
        std::fs::rename(&self.unfinished, path)?;
        Ok(places(path, std::mem::take(&mut self.entries)))
    }
}

impl Drop for NewRun {
    fn drop(&mut self) {
        // After `finish` there is nothing of this name.
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

/// What a run holds, by its table; its pages are not looked at.
pub(super) fn read_table(path: &Path, identity: &Identity) -> Result<Vec<Place>, RunError> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let damaged = |what| Err(RunError::Damaged(what));
    if length < (HEAD_BYTES + FOOT_BYTES) as u64 {
        return damaged("it is too short");
    }
    let found: [u8; HEAD_BYTES] = read_array(&mut file)?;
    let wanted = head(identity);
    if found[..8] != wanted[..8] {
        return damaged("it is no run of pages");
    }
    if found[8..12] != wanted[8..12] {
        return damaged("its version is another");
    }
    if found != wanted {
        return damaged("another model made it");
    }
    file.seek(SeekFrom::End(-(FOOT_BYTES as i64)))?;
    let end: [u8; FOOT_BYTES] = read_array(&mut file)?;
    let number =
        |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| end[at + byte])) as usize;
    let (count, table_bytes) = (number(0), number(4));
    let is_long = table_bytes > TABLE_BYTES_MAX || count > RECORDS_MAX;
    if is_long || length < (HEAD_BYTES + table_bytes + FOOT_BYTES) as u64 {
        return damaged("its end is missing");
    }
    file.seek(SeekFrom::End(-((table_bytes + FOOT_BYTES) as i64)))?;
    let mut table = vec![0; table_bytes];
    file.read_exact(&mut table)?;
    if end != foot(count, &wanted, &table) {
        return damaged("its table is damaged");
    }
    let mut rest = &table[..];
    let entries: Option<Vec<Entry>> = (0..count).map(|_| Entry::decode(&mut rest)).collect();
    let Some(entries) = entries.filter(|_| rest.is_empty()) else {
        return damaged("its table is no table");
    };
    if entries.iter().any(|entry| entry.parent.then(&entry.tokens) != entry.page) {
        return damaged("its pages have other names");
    }
    let records: u64 = entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.bytes()));
    if records.saturating_add((HEAD_BYTES + table_bytes + FOOT_BYTES) as u64) != length {
        return damaged("its length is not that of its records");
    }
    Ok(places(path, entries))
}

impl Place {
    /// `buffer` is memory to use, whatever is in it.
    pub fn read(&self, mut buffer: Vec<u8>) -> Result<Record, RunError> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut hasher = blake3::Hasher::new();
        let mut state = Vec::new();
        read_hashed(&mut file, self.entry.page_bytes, &mut buffer, &mut hasher)?;
        read_hashed(&mut file, self.entry.state_bytes, &mut state, &mut hasher)?;
        if *hasher.finalize().as_bytes() != self.entry.checksum {
            return Err(RunError::Damaged("its checksum is wrong"));
        }
        let state = (self.entry.state_bytes > 0).then_some(state);
        Ok(Record { tokens: self.entry.tokens.clone(), page: buffer, state })
    }
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.page_bytes.saturating_add(self.state_bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRY_BYTES + 4 * self.tokens.len());
        bytes.extend_from_slice(self.page.bytes());
        bytes.extend_from_slice(self.parent.bytes());
        bytes.extend_from_slice(&self.page_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.state_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.checksum);
        bytes.extend_from_slice(&(self.tokens.len() as u32).to_le_bytes());
        bytes.extend(self.tokens.iter().flat_map(|token| token.to_le_bytes()));
        bytes
    }

    /// Takes one from the front, if there is one.
    fn decode(rest: &mut &[u8]) -> Option<Entry> {
        let (page, parent) = (Chain::from_bytes(take(rest)?), Chain::from_bytes(take(rest)?));
        let page_bytes = u64::from_le_bytes(take(rest)?);
        let state_bytes = u64::from_le_bytes(take(rest)?);
        let checksum = take(rest)?;
        let count = u32::from_le_bytes(take(rest)?) as usize;
        let (tokens, after) = rest.split_at_checked(count.checked_mul(4)?)?;
        *rest = after;
        let tokens = tokens.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        Some(Entry { page, parent, tokens: tokens.collect(), page_bytes, state_bytes, checksum })
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = from.split_first_chunk::<N>()?;
    *from = tail;
    Some(*head)
}

fn places(path: &Path, entries: Vec<Entry>) -> Vec<Place> {
    let mut offset = HEAD_BYTES as u64;
    let place = |entry: Entry| {
        let at = offset;
        offset += entry.bytes();
        Place { path: path.to_owned(), offset: at, entry }
    };
    entries.into_iter().map(place).collect()
}

fn head(identity: &Identity) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..].copy_from_slice(identity.bytes());
    head
}

fn foot(count: usize, head: &[u8], table: &[u8]) -> [u8; FOOT_BYTES] {
    let mut foot = [0; FOOT_BYTES];
    foot[..4].copy_from_slice(&(count as u32).to_le_bytes());
    foot[4..8].copy_from_slice(&(table.len() as u32).to_le_bytes());
    foot[8..40].copy_from_slice(&checksum(&[head, table]));
    foot[40..].copy_from_slice(&MAGIC);
    foot
}

fn checksum(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

fn read_array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map(|()| bytes)
}

/// Into a buffer that is emptied first; without writing zeros.
fn read_hashed(
    file: &mut File,
    length: u64,
    buffer: &mut Vec<u8>,
    hasher: &mut blake3::Hasher,
) -> Result<(), RunError> {
    buffer.clear();
    // A length that lies ends where the file does.
    buffer.reserve_exact(length.min(file.metadata()?.len()) as usize);
    while (buffer.len() as u64) < length {
        let before = buffer.len();
        file.take(PIECE_BYTES.min(length - before as u64)).read_to_end(buffer)?;
        if buffer.len() == before {
            return Err(RunError::Damaged("it is too short"));
        }
        hasher.update(&buffer[before..]);
    }
    Ok(())
}
