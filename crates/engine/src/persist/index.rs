//! Which pages are on disk, and where. Kept in memory, made of the runs' tables; other processes write and remove runs at
//! any time, so what it says is a hint: reading decides.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::persist::run::{self, Entry, Place, RunError};
use crate::persist::{Chain, Identity, Match};
use crate::prefix::shared;

/// How often what other processes wrote is looked for, at most. Price: one listing of the folder.
const SCAN_PAUSE: Duration = Duration::from_secs(1);

/// How often a run that is used is marked so, at most.
const TOUCH_PAUSE: Duration = Duration::from_secs(60);

pub(super) struct Index {
    folder: PathBuf,
    identity: Identity,
    pages: HashMap<Chain, Known>,
    /// Pages on disk by the one before them.
    children: HashMap<Chain, Vec<Chain>>,
    runs: HashMap<PathBuf, Vec<Chain>>,
    /// The folder's own time at the last scan, and when that was.
    scanned: Option<(SystemTime, Instant)>,
    touched: HashMap<PathBuf, Instant>,
}

enum Known {
    /// Given to the writer.
    Expected,
    At(Place),
}

impl Index {
    pub fn new(folder: PathBuf, identity: Identity) -> Index {
        Index {
            folder,
            identity,
            pages: HashMap::new(),
            children: HashMap::new(),
            runs: HashMap::new(),
            scanned: None,
            touched: HashMap::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Takes in the runs that are new in the folder.
    pub fn scan(&mut self) {
        let time = self.folder.metadata().and_then(|found| found.modified());
        self.scanned = time.ok().map(|time| (time, Instant::now()));
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_run = path.extension().is_some_and(|extension| extension == run::RUN);
            if !is_run || self.runs.contains_key(&path) {
                continue;
            }
            match run::read_table(&path, &self.identity) {
                Ok(places) => self.add(path, places),
                Err(error) => self.lose(&path, &error),
            }
        }
    }

    pub fn add(&mut self, path: PathBuf, places: Vec<Place>) {
        self.runs.insert(path, places.iter().map(|place| place.entry.page).collect());
        for place in places {
            let Entry { page, parent, tokens, .. } = &place.entry;
            let (page, parent, tokens) = (*page, *parent, tokens.clone());
            self.pages.insert(page, Known::At(place));
            let children = self.children.entry(parent).or_default();
            if !children.contains(&page) {
                children.push(page);
            }
            self.drop_parts_of(parent, &tokens);
        }
    }

    /// A page that is filled in part goes when another has all of its tokens and more, unless a state comes with it. It
    /// lies in a run of its own.
    fn drop_parts_of(&mut self, parent: Chain, tokens: &[u32]) {
        let is_less = |entry: &Entry, tokens: &[u32]| {
            entry.tokens.len() < tokens.len() && tokens.starts_with(&entry.tokens)
        };
        let has_more = self.places(parent).any(|place| {
            place.entry.tokens.len() > tokens.len() && place.entry.tokens.starts_with(tokens)
        });
        let goes = |entry: &Entry| {
            let is_covered = is_less(entry, tokens) || (has_more && entry.tokens == tokens);
            is_covered && entry.state_bytes == 0
        };
        let gone = self.places(parent).filter(|place| goes(&place.entry));
        let paths: Vec<PathBuf> = gone.map(|place| place.path.clone()).collect();
        for path in paths {
            if self.runs.get(&path).is_some_and(|pages| pages.len() == 1) {
                self.forget(&path);
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Those on disk that follow a page.
    fn places(&self, parent: Chain) -> impl Iterator<Item = &Place> {
        let children = self.children.get(&parent).into_iter().flatten();
        children.filter_map(|page| match self.pages.get(page) {
            Some(Known::At(place)) => Some(place),
            _ => None,
        })
    }

    pub fn covers(&self, parent: Chain, tokens: &[u32]) -> bool {
        self.places(parent).any(|place| place.entry.tokens.starts_with(tokens))
    }

    pub fn closest(&self, parent: Chain, tokens: &[u32], with_state: bool) -> Option<Match> {
        let share = |place: &Place| {
            let Entry { page, tokens: own, state_bytes, .. } = &place.entry;
            let shared_tokens = shared(own, tokens);
            let is_usable = !with_state || (*state_bytes > 0 && shared_tokens == own.len());
            is_usable.then_some(Match { page: *page, shared_tokens })
        };
        let matches = self.places(parent).filter_map(share);
        matches.max_by_key(|found| found.shared_tokens).filter(|found| found.shared_tokens > 0)
    }

    pub fn has(&self, page: Chain, with_state: bool) -> bool {
        match self.pages.get(&page) {
            None => false,
            Some(Known::Expected) => true,
            Some(Known::At(place)) => place.entry.state_bytes > 0 || !with_state,
        }
    }

    pub fn is_readable(&mut self, page: Chain) -> bool {
        if !self.pages.contains_key(&page) && self.is_stale() {
            self.scan();
        }
        matches!(self.pages.get(&page), Some(Known::At(_)))
    }

    /// Where to read it; its run counts as used.
    pub fn place(&mut self, page: Chain) -> Option<Place> {
        let Some(Known::At(place)) = self.pages.get(&page) else { return None };
        let place = place.clone();
        self.touch(&place.path);
        Some(place)
    }

    /// Notes that it is on its way. False if it is already, or there.
    pub fn expect(&mut self, page: Chain) -> bool {
        let is_coming = matches!(self.pages.get(&page), Some(Known::Expected));
        if !is_coming {
            self.pages.insert(page, Known::Expected);
        }
        !is_coming
    }

    /// It was not written.
    pub fn give_up(&mut self, page: Chain) {
        if matches!(self.pages.get(&page), Some(Known::Expected)) {
            self.pages.remove(&page);
        }
    }

    /// Marks the runs that lead to `page` as used, the first one last: so the end of a conversation goes before its
    /// beginning, without which it is useless.
    pub fn touch_before(&mut self, page: Chain) {
        let mut at = page;
        let mut seen = HashSet::new();
        while let Some(Known::At(place)) = self.pages.get(&at) {
            let (path, parent) = (place.path.clone(), place.entry.parent);
            if !seen.insert(at) {
                return;
            }
            self.touch(&path);
            at = parent;
        }
    }

    /// Forgets a run that somebody removed.
    pub fn forget(&mut self, path: &Path) {
        for page in self.runs.remove(path).unwrap_or_default() {
            let Some(Known::At(place)) = self.pages.get(&page) else { continue };
            if place.path != path {
                continue;
            }
            let parent = place.entry.parent;
            self.pages.remove(&page);
            if let Some(children) = self.children.get_mut(&parent) {
                children.retain(|child| *child != page);
                if children.is_empty() {
                    self.children.remove(&parent);
                }
            }
        }
        self.touched.remove(path);
    }

    /// Forgets a run that cannot be read, and removes it if it is not what it says.
    pub fn lose(&mut self, path: &Path, error: &RunError) {
        self.forget(path);
        match error {
            RunError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            RunError::Io(error) => {
                tracing::warn!(path = %path.display(), %error, "pages on disk cannot be read");
            }
            RunError::Damaged(what) => {
                tracing::warn!(path = %path.display(), "pages on disk are ignored and removed: {what}");
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn is_stale(&self) -> bool {
        let Some((time, at)) = self.scanned else { return true };
        let now = || self.folder.metadata().and_then(|found| found.modified());
        at.elapsed() >= SCAN_PAUSE && now().map_or(true, |now| now != time)
    }

    fn touch(&mut self, path: &Path) {
        let now = Instant::now();
        let is_fresh = |at: &Instant| now.duration_since(*at) < TOUCH_PAUSE;
        if self.touched.get(path).is_some_and(is_fresh) {
            return;
        }
        self.touched.insert(path.to_owned(), now);
        if let Ok(file) = std::fs::File::open(path) {
            let _ = file.set_modified(SystemTime::now());
        }
    }
}
