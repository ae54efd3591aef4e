//! What is written is found again, by this process and by others, and nothing else is; whatever happens to the files.

use std::path::PathBuf;

use protocol::ModelFiles;

use super::*;

const PAGE: usize = 1000;
const PAGE_TOKENS: usize = 2;

fn identity(layout: &str) -> Identity {
    Identity::new(&ModelFiles::default(), layout)
}

struct Folder {
    folder: tempfile::TempDir,
    bytes_max: u64,
}

impl Folder {
    fn new() -> Folder {
        Folder { folder: tempfile::tempdir().unwrap(), bytes_max: u64::MAX }
    }

    fn cache(&self) -> DiskCache {
        DiskCache { folder: self.folder.path().to_owned(), bytes_max: self.bytes_max }
    }

    /// What a process that starts now finds.
    fn open(&self) -> Disk {
        Disk::open(&self.cache(), &identity("cpu"), PAGE_TOKENS).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let models = std::fs::read_dir(self.folder.path()).unwrap();
        let files = models.flat_map(|model| std::fs::read_dir(model.unwrap().path()).unwrap());
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }

    /// A conversation's pages, written and on disk.
    fn with(conversations: &[u32]) -> Folder {
        let folder = Folder::new();
        let disk = folder.open();
        for conversation in conversations {
            tell(&disk, *conversation, 0..5);
            disk.flush();
        }
        folder
    }
}

/// The names of a conversation's pages.
fn chains(disk: &Disk, conversation: u32) -> Vec<Chain> {
    let mut at = disk.root();
    let pages = (0..8).map(|page| {
        at = at.then(&[conversation, page]);
        at
    });
    pages.collect()
}

fn record(conversation: u32, page: usize) -> Record {
    let seed = conversation as usize * 31 + page * 7;
    let bytes: Vec<u8> = (0..PAGE).map(|at| ((seed + at) * 11 % 251) as u8).collect();
    // Every second page has a state.
    let state = (page % 2 == 1).then(|| bytes[..page + 1].to_vec());
    Record { tokens: vec![conversation, page as u32], page: bytes, state }
}

fn tell(disk: &Disk, conversation: u32, pages: std::ops::Range<usize>) {
    let names = chains(disk, conversation);
    for page in pages {
        let parent = page.checked_sub(1).map_or(disk.root(), |before| names[before]);
        assert!(disk.write(parent, record(conversation, page)));
    }
}

/// How many pages of a conversation can be read, from its beginning; they are what was written.
fn readable(disk: &Disk, conversation: u32) -> usize {
    let names = chains(disk, conversation);
    let whole = names.iter().enumerate().map_while(|(page, name)| {
        let found = disk.is_readable(*name).then(|| disk.read(*name, Vec::new())).flatten()?;
        assert_eq!(found, record(conversation, page), "page {page} of {conversation}");
        Some(())
    });
    whole.count()
}

#[test]
fn a_conversation_is_found_again() {
    let folder = Folder::with(&[1, 2]);
    let disk = folder.open();
    assert_eq!((readable(&disk, 1), readable(&disk, 2), readable(&disk, 3)), (5, 5, 0));
    assert_eq!(folder.files().len(), 2, "a run for each");
    // It goes on, and nothing is written twice.
    let names = chains(&disk, 1);
    assert!(disk.has(names[4], false) && !disk.has(names[5], false));
    assert!(disk.has(names[3], true) && !disk.has(names[4], true), "states are told apart");
    tell(&disk, 1, 5..7);
    assert!(disk.has(names[6], false), "on its way is as good as there");
    disk.flush();
    assert_eq!((readable(&disk, 1), readable(&folder.open(), 1)), (7, 7));
    // Another layout is another model.
    assert_eq!(
        readable(&Disk::open(&folder.cache(), &identity("cuda"), PAGE_TOKENS).unwrap(), 1),
        0
    );
}

#[test]
fn what_was_given_is_written_at_the_end() {
    let folder = Folder::new();
    tell(&folder.open(), 1, 0..3);
    assert_eq!(readable(&folder.open(), 1), 3);
}

#[test]
fn branches_share_their_beginning() {
    let folder = Folder::with(&[1]);
    let disk = folder.open();
    let names = chains(&disk, 1);
    let branch = names[2].then(&[9, 0]);
    disk.write(names[2], record(9, 0));
    disk.flush();
    let disk = folder.open();
    assert_eq!(disk.read(branch, vec![1; 3 * PAGE]), Some(record(9, 0)));
    assert_eq!(readable(&disk, 1), 5);
}

/// Pages of four tokens behind the same one, each with its tokens: which page shares most with `tokens`, and how much.
#[track_caller]
fn check_closest(
    pages: &[(&[u32], bool)],
    tokens: &[u32],
    with_state: bool,
    expected: Option<(&[u32], usize)>,
) {
    let folder = Folder::new();
    let open = || Disk::open(&folder.cache(), &identity("cpu"), 4).unwrap();
    let disk = open();
    let parent = disk.root().then(&[1, 2, 3, 4]);
    for (tokens, has_state) in pages {
        let state = has_state.then(|| vec![7]);
        assert!(disk.write(parent, Record { tokens: tokens.to_vec(), page: vec![1; 9], state }));
        disk.flush();
    }
    let expected =
        expected.map(|(page, shared_tokens)| Match { page: parent.then(page), shared_tokens });
    for disk in [&disk, &open()] {
        assert_eq!(disk.closest(parent, tokens, with_state), expected);
        assert_eq!(disk.closest(disk.root(), tokens, with_state), None);
    }
}

#[test]
fn pages_filled_in_part_are_found_by_their_tokens() {
    let pages: [(&[u32], bool); 3] = [(&[5, 6, 7], false), (&[5, 6, 8, 9], false), (&[8], false)];
    check_closest(&pages, &[5, 6, 7, 1], false, Some((&[5, 6, 7], 3)));
    // In the middle of a page, be it a whole one.
    check_closest(&pages, &[5, 6, 8], false, Some((&[5, 6, 8, 9], 3)));
    check_closest(&pages, &[8, 1, 2], false, Some((&[8], 1)));
    check_closest(&pages, &[7, 8], false, None);
    check_closest(&pages, &[], false, None);
    // A state is known at the end of its tokens only.
    check_closest(&pages, &[5, 6, 7, 1], true, None);
    let pages: [(&[u32], bool); 2] = [(&[5, 6], true), (&[5, 6, 7], true)];
    check_closest(&pages, &[5, 6, 1], true, Some((&[5, 6], 2)));
    check_closest(&pages, &[5, 6, 7, 1], true, Some((&[5, 6, 7], 3)));
}

#[test]
fn a_longer_page_takes_the_place_of_a_shorter_one() {
    let folder = Folder::new();
    let open = || Disk::open(&folder.cache(), &identity("cpu"), 4).unwrap();
    let (disk, other) = (open(), open());
    let root = disk.root();
    let write = |disk: &Disk, tokens: &[u32], state: Option<Vec<u8>>| {
        disk.write(root, Record { tokens: tokens.to_vec(), page: vec![1; 9], state });
        disk.flush();
        folder.files().len()
    };
    assert_eq!(write(&disk, &[1], None), 1);
    assert_eq!(write(&disk, &[2, 2], None), 2, "another one stays");
    assert!(disk.covers(root, &[1]) && !disk.covers(root, &[1, 2]) && !disk.covers(root, &[3]));
    assert_eq!(write(&disk, &[1, 2], None), 2);
    assert!(disk.covers(root, &[1]) && disk.read(root.then(&[1]), Vec::new()).is_none());
    // Of two processes that do not know of each other the next one tidies up.
    assert_eq!(write(&other, &[1], None), 3);
    let third = open();
    assert_eq!(folder.files().len(), 2);
    assert_eq!(third.closest(root, &[1, 2, 3], false).unwrap().shared_tokens, 2);
    // Where a state is known stays known; and pages of a run with others stay.
    assert_eq!(write(&disk, &[2, 2, 2], Some(vec![1])), 2);
    assert_eq!(write(&disk, &[2, 2, 2, 2], None), 3);
    disk.write(root.then(&[2, 2, 2, 2]), Record { tokens: vec![5; 4], ..record(1, 0) });
    disk.flush();
    assert_eq!(open().read(root.then(&[2, 2, 2]), Vec::new()).unwrap().state, Some(vec![1]));
    assert_eq!(open().closest(root, &[2, 2, 2, 9], true).unwrap().shared_tokens, 3);
}

/// Does something to the one file there is: what can still be read, and whether the file stays.
#[track_caller]
fn check(damage: impl Fn(&mut Vec<u8>), before_opening: usize, while_open: usize) {
    let write = |folder: &Folder| {
        let [path] = &folder.files()[..] else { panic!("one run") };
        let mut bytes = std::fs::read(path).unwrap();
        damage(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    };
    let folder = Folder::with(&[1]);
    write(&folder);
    let disk = folder.open();
    assert_eq!(readable(&disk, 1), before_opening);
    assert!(folder.files().is_empty(), "what is damaged is removed");
    // It can be written again.
    tell(&disk, 1, 0..5);
    disk.flush();
    assert_eq!(readable(&folder.open(), 1), 5);

    let folder = Folder::with(&[1]);
    let disk = folder.open();
    write(&folder);
    assert_eq!(readable(&disk, 1), while_open);
}

#[test]
fn damaged_files_are_removed() {
    // A bit of a page: its beginning is used, and then it goes.
    check(|bytes| bytes[44 + 2 * PAGE + 100] ^= 4, 2, 2);
    check(|bytes| bytes[44] ^= 4, 0, 0);
    // The table, which a process that knows it does not read again.
    check(|bytes| *bytes.iter_mut().nth_back(100).unwrap() ^= 1, 0, 5);
    // Magic, version, model.
    for at in [0, 8, 20] {
        check(move |bytes| bytes[at] ^= 1, 0, 5);
    }
    check(Vec::clear, 0, 0);
    check(|bytes| bytes.truncate(30), 0, 0);
    check(|bytes| bytes.truncate(44 + 3 * PAGE), 0, 2);
    check(|bytes| bytes.truncate(bytes.len() - 1), 0, 5);
    check(|bytes| *bytes = b"something else entirely".repeat(400), 0, 0);
    // A foot that promises more than there is.
    check(
        |bytes| {
            let count = bytes.len() - 48;
            bytes[count..count + 4].fill(255);
        },
        0,
        5,
    );
}

#[test]
fn every_flipped_bit_is_noticed() {
    let folder = Folder::with(&[1]);
    let [path] = &folder.files()[..] else { panic!("one run") };
    let whole = std::fs::read(path).unwrap();
    for at in (0..whole.len()).step_by(97).chain(whole.len() - 500..whole.len()) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(path, bytes).unwrap();
        // `readable` compares what is read with what was written.
        assert!(readable(&folder.open(), 1) < 5, "byte {at}");
    }
}

#[test]
fn the_limit_is_kept_and_the_oldest_go_first() {
    let mut folder = Folder::with(&[1, 2, 3]);
    let age = |folder: &Folder, at: usize, seconds: u64| {
        let file = std::fs::File::open(&folder.files()[at]).unwrap();
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
        file.set_modified(time).unwrap();
    };
    let bytes: u64 = folder.files().iter().map(|file| file.metadata().unwrap().len()).sum();
    [300, 200, 100].into_iter().enumerate().for_each(|(at, seconds)| age(&folder, at, seconds));
    folder.bytes_max = bytes;
    let disk = folder.open();
    // The oldest is used, so that the second is the oldest.
    assert_eq!(readable(&disk, 1), 5);
    tell(&disk, 4, 0..5);
    disk.flush();
    for disk in [&disk, &folder.open()] {
        let left: Vec<usize> = (1..5).map(|conversation| readable(disk, conversation)).collect();
        assert_eq!(left, [5, 0, 5, 5]);
    }
    // Nothing fits: nothing is kept, nothing fails.
    folder.bytes_max = 10;
    let disk = folder.open();
    tell(&disk, 5, 0..5);
    disk.flush();
    assert_eq!((readable(&disk, 5), folder.files().len()), (0, 0));
}

#[test]
fn a_conversation_that_goes_on_keeps_its_beginning() {
    let folder = Folder::with(&[1, 2]);
    let disk = folder.open();
    for path in folder.files() {
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
        std::fs::File::open(path).unwrap().set_modified(old).unwrap();
    }
    tell(&disk, 1, 5..7);
    disk.flush();
    let is_young = |path: &PathBuf| path.metadata().unwrap().modified().unwrap().elapsed().unwrap();
    let young = folder.files().iter().filter(|path| is_young(path).as_secs() < 500).count();
    assert_eq!(young, 2, "its first run and its second");
}

#[test]
fn a_disk_that_fails_is_left_alone() {
    let folder = Folder::new();
    let disk = folder.open();
    std::fs::remove_dir_all(folder.cache().folder).unwrap();
    tell(&disk, 1, 0..5);
    disk.flush();
    assert_eq!(readable(&disk, 1), 0);
    assert!(!disk.has(chains(&disk, 1)[0], false), "it may be tried again");
    drop(disk);
    // No folder can be where a file is.
    std::fs::write(folder.folder.path(), "x").unwrap();
    assert!(Disk::open(&folder.cache(), &identity("cpu"), PAGE_TOKENS).is_none());
    std::fs::remove_file(folder.folder.path()).unwrap();
    std::fs::create_dir(folder.folder.path()).unwrap();
}

#[test]
fn a_full_queue_drops() {
    let folder = Folder::new();
    let disk = folder.open();
    let huge = Record { tokens: vec![1], page: vec![0; 300 << 20], state: None };
    assert!(!disk.has_room(huge.page.len()) && disk.has_room(1000));
    let page = disk.root().then(&[1]);
    assert!(!disk.write(disk.root(), huge));
    assert!(!disk.has(page, false));
}

#[test]
fn several_processes_share_a_folder() {
    let folder = Folder::new();
    let (one, two) = (folder.open(), folder.open());
    // Both write the same, at once.
    std::thread::scope(|scope| {
        for disk in [&one, &two] {
            scope.spawn(|| {
                for conversation in 0..20 {
                    tell(disk, conversation, 0..5);
                }
                disk.flush();
            });
        }
    });
    for disk in [&one, &two, &folder.open()] {
        assert!((0..20).all(|conversation| readable(disk, conversation) == 5));
    }
    // What one writes the other finds, a little later.
    tell(&one, 77, 0..2);
    one.flush();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while readable(&two, 77) < 2 {
        assert!(std::time::Instant::now() < deadline, "never seen");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // What one removes the other misses, and writes again.
    folder.files().iter().for_each(|path| std::fs::remove_file(path).unwrap());
    assert_eq!(readable(&two, 77), 0);
    tell(&two, 77, 0..2);
    two.flush();
    assert_eq!(readable(&folder.open(), 77), 2);
}

#[test]
fn the_files_of_others_stay() {
    let mut folder = Folder::with(&[1]);
    let notes = folder.folder.path().join("notes.run");
    std::fs::write(&notes, "mine").unwrap();
    std::fs::create_dir(folder.folder.path().join("mine")).unwrap();
    let others = folder.folder.path().join("mine/a.run");
    std::fs::write(&others, "mine").unwrap();
    folder.bytes_max = 1;
    let disk = Disk::open(&folder.cache(), &identity("cpu"), PAGE_TOKENS).unwrap();
    tell(&disk, 2, 0..1);
    disk.flush();
    assert!(notes.exists() && others.exists());
}

/// `cargo test --release -p engine --lib -- --ignored speed_of_pages --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed_of_pages() {
    let folder = Folder::new();
    let disk = folder.open();
    let (pages, bytes) = (128, 7 << 20);
    let mut at = disk.root();
    let start = std::time::Instant::now();
    for page in 0..pages {
        let next = at.then(&[page, page]);
        let record =
            || Record { tokens: vec![page, page], page: vec![page as u8; bytes], state: None };
        while !disk.has_room(bytes) {
            std::thread::yield_now();
        }
        assert!(disk.write(at, record()));
        at = next;
    }
    disk.flush();
    let megabytes = f64::from(pages) * bytes as f64 / 1e6;
    println!("written: {:.0} MB/s", megabytes / start.elapsed().as_secs_f64());
    let start = std::time::Instant::now();
    let mut at = disk.root();
    let mut buffer = Vec::new();
    for page in 0..pages {
        at = at.then(&[page, page]);
        buffer = disk.read(at, buffer).unwrap().page;
    }
    println!("read: {:.0} MB/s", megabytes / start.elapsed().as_secs_f64());
}
