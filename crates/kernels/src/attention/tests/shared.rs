//! Sequences that begin alike read together what they share, and have the bits that they have alone.

use super::*;

/// A sequence that begins with `shared` tokens (whole pages of them) of another, and queries its last `length`.
#[derive(Clone, Copy, Debug)]
struct Branch {
    of: usize,
    shared: usize,
    tokens: usize,
    length: usize,
    /// Pages that a window gave up.
    dropped: usize,
}

/// Pages of all sequences, each `[kv_heads, page, dim]`, and which of them a sequence has.
struct Forest {
    keys: Vec<Numbers>,
    values: Vec<Numbers>,
    pages: Vec<Vec<usize>>,
}

impl Forest {
    fn grow(rng: &mut StdRng, case: &Case, branches: &[Branch]) -> Forest {
        let mut forest = Forest { keys: vec![], values: vec![], pages: vec![] };
        for branch in branches {
            let before = forest.pages.get(branch.of).map_or(&[][..], Vec::as_slice);
            let wanted = branch.tokens.div_ceil(case.page);
            let shared = (branch.shared / case.page).min(before.len()).min(wanted);
            let mut pages = before[..shared].to_vec();
            for _ in shared..wanted {
                pages.push(forest.keys.len());
                let numbers = case.kv_heads * case.page;
                forest.keys.push(Numbers::random(rng, case.key_type, numbers * case.dim));
                forest.values.push(Numbers::random(rng, case.value_type, numbers * case.value_dim));
            }
            forest.pages.push(pages);
        }
        forest
    }

    fn spans(&self, case: &Case, sequence: usize, branch: &Branch) -> Vec<Span<'_>> {
        let span = |(place, &page): (usize, &usize)| Span {
            keys: Stored::new(self.keys[page].cells(), case.page, case.dim),
            values: Stored::new(self.values[page].cells(), case.page, case.value_dim),
            tokens: case.page.min(branch.tokens - place * case.page),
        };
        self.pages[sequence].iter().enumerate().skip(branch.dropped).map(span).collect()
    }
}

/// The segments of these branches, a row between each two.
fn segments<'a>(case: &Case, branches: &[Branch], spans: &'a [Vec<Span<'a>>]) -> Vec<Segment<'a>> {
    let mut rows = 0;
    let both = branches.iter().zip(spans);
    both.map(|(branch, spans)| {
        let row = rows + 1;
        rows = row + branch.length;
        let history_start = branch.dropped * case.page;
        let position = branch.tokens - branch.length;
        Segment { row, length: branch.length, position, history_start, spans, page: case.page }
    })
    .collect()
}

/// All of them side by side, with one thread and with three, and each alone: the same bits.
fn check(case: &Case, branches: &[Branch]) {
    let mut rng = StdRng::seed_from_u64(branches.len() as u64);
    let Case { heads, kv_heads, dim, value_dim, .. } = *case;
    let forest = Forest::grow(&mut rng, case, branches);
    let spans: Vec<Vec<Span<'_>>> =
        branches.iter().enumerate().map(|(i, branch)| forest.spans(case, i, branch)).collect();
    let all = segments(case, branches, &spans);
    let rows = all.last().map_or(0, |segment| segment.row + segment.length);
    let queries: Vec<f32> = (0..rows * heads * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    let sinks: Vec<f32> = (0..heads).map(|_| rng.random_range(-2.0..2.0)).collect();
    let most = branches.iter().map(|branch| branch.tokens).max().unwrap_or(0);
    let kept: Vec<u8> = (0..rows * most).map(|_| rng.random_range(0..3)).collect();
    let mask = Mask { cells: MaskCells::Keep(&kept), row_stride: most, head_stride: 0 };
    let attend = |isa: Isa, threads: usize, segments: &[Segment<'_>]| {
        let attention = Attention {
            value_dim,
            causal: case.causal,
            window: case.window,
            softcap: case.softcap,
            sinks: case.sinks.then_some(Floats::F32(&sinks)),
            mask: (case.mask > 0).then_some(mask),
            ..Attention::causal(
                Heads::new(Floats::F32(&queries), rows, heads, dim),
                kv_heads,
                segments,
            )
        };
        let mut out = vec![0f32; rows * heads * value_dim];
        let cpu = Cpu { isa, pool: &Pool::new(threads) };
        let to = HeadsMut::new(FloatsMut::F32(&mut out), rows, heads, value_dim);
        super::attend(&cpu, &attention, to);
        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    for isa in vectors() {
        let (one, three) = (attend(isa, 1, &all), attend(isa, 3, &all));
        assert!(one == three, "{} {case:?} {branches:?}: threads", isa.name());
        for (number, segment) in all.iter().enumerate() {
            let alone = attend(isa, 1, std::slice::from_ref(segment));
            let width = heads * value_dim;
            let own = segment.row * width..(segment.row + segment.length) * width;
            let name = isa.name();
            assert!(one[own.clone()] == alone[own], "{name} {case:?} {branches:?}: {number}");
        }
    }
}

#[test]
fn sequences_that_begin_alike() {
    let branch = |of, shared, tokens| Branch { of, shared, tokens, length: 1, dropped: 0 };
    let case = Case { page: 64, ..Case::plain(4, 2, 64, &[]) };
    // A trunk, some that leave it at once, some that go on together, one that shares nothing, one that ends where it
    // shares.
    let branches = [
        branch(0, 0, 700),
        branch(0, 640, 690),
        branch(0, 320, 500),
        branch(2, 448, 470),
        branch(1, 640, 700),
        branch(2, 384, 600),
        branch(9, 0, 300),
        branch(0, 320, 320),
    ];
    check(&case, &branches);
    for kind in TYPES {
        check(&Case { key_type: kind, value_type: kind, ..case.clone() }, &branches);
    }
    check(&Case { mask: 1, ..case.clone() }, &branches);
    check(&Case { window: Some(100), ..case.clone() }, &branches);
    let ragged = branches.map(|b| Branch { length: 1 + b.tokens % 17, ..b });
    check(&case, &ragged);
    let prompts = branches.map(|b| Branch { length: 20 + b.tokens % 43, ..b });
    check(&case, &prompts);
}

/// What one layer gives, in bits; with others of its step, if they have a number.
fn layer(case: &Case, branches: &[Branch], seed: u64, alike: u64, pool: &Pool) -> Vec<u32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let forest = Forest::grow(&mut rng, case, branches);
    let spans: Vec<Vec<Span<'_>>> =
        branches.iter().enumerate().map(|(i, branch)| forest.spans(case, i, branch)).collect();
    let all = segments(case, branches, &spans);
    let rows = all.last().map_or(0, |segment| segment.row + segment.length);
    let width = case.heads * case.dim;
    let queries: Vec<f32> = (0..rows * width).map(|_| rng.random_range(-1.0..1.0)).collect();
    let queries = Heads::new(Floats::F32(&queries), rows, case.heads, case.dim);
    let attention =
        Attention { window: case.window, alike, ..Attention::causal(queries, case.kv_heads, &all) };
    let mut out = vec![0f32; rows * width];
    let to = HeadsMut::new(FloatsMut::F32(&mut out), rows, case.heads, case.dim);
    attend(&Cpu { isa: isa::best(), pool }, &attention, to);
    out.into_iter().map(f32::to_bits).collect()
}

/// What was planned for one layer of a step serves the next, whose numbers lie elsewhere. Layers with windows between them
/// have a number of their own; what has other rows, lengths or heads is planned anew, whatever its number.
#[test]
fn layers_of_a_step_share_their_plan() {
    let branch = |of, shared, tokens| Branch { of, shared, tokens, length: 1, dropped: 0 };
    let case = Case { page: 64, ..Case::plain(4, 2, 64, &[]) };
    let window = Case { window: Some(100), ..case.clone() };
    let other = Case { page: 64, ..Case::plain(4, 1, 64, &[]) };
    let branches = [branch(0, 0, 700), branch(0, 640, 690), branch(0, 320, 500), branch(9, 0, 300)];
    let longer = branches.map(|b| Branch { tokens: b.tokens + 1, ..b });
    for pool in [Pool::new(1), Pool::new(3)] {
        let asked: [(&Case, &[Branch], u64); 9] = [
            (&case, &branches, 1),
            (&case, &branches, 1),
            (&window, &branches, 2),
            (&case, &branches, 1),
            (&window, &branches, 2),
            (&other, &branches, 1),
            (&case, &longer, 1),
            (&case, &longer[1..], 1),
            (&case, &branches, 3),
        ];
        for (seed, (case, branches, alike)) in (0..).zip(asked) {
            let want = layer(case, branches, seed, 0, &pool);
            assert!(want == layer(case, branches, seed, alike, &pool), "{seed}");
        }
        let want: Vec<_> = (0..4).map(|seed| layer(&case, &branches, seed, 0, &pool)).collect();
        let got: Vec<_> = (0..4).map(|seed| layer(&case, &branches, seed, 9, &pool)).collect();
        assert!(want == got);
    }
}

#[test]
fn random_trees() {
    let mut rng = StdRng::seed_from_u64(79);
    for round in 0..24 {
        let page = [16, 32, 48, 64, 128][round % 5];
        let kv_heads = rng.random_range(1..3);
        let window = (round % 3 == 0).then(|| rng.random_range(1..400));
        let branches: Vec<Branch> = (0..rng.random_range(2..9))
            .map(|number| {
                let length = if rng.random() { 1 } else { rng.random_range(1..30) };
                let tokens = length + rng.random_range(1..700);
                let most = if window.is_some() { (tokens - length) / page } else { 0 };
                let (of, shared) = (rng.random_range(0..number.max(1)), rng.random_range(0..800));
                Branch { of, shared, tokens, length, dropped: rng.random_range(0..=most) }
            })
            .collect();
        let case = Case {
            heads: kv_heads * rng.random_range(1..5),
            value_dim: GROUP * rng.random_range(1..4),
            key_type: TYPES[round % TYPES.len()],
            value_type: TYPES[round % 4],
            page,
            causal: round % 7 > 0,
            window,
            softcap: (round % 4 == 1).then_some(2.0),
            sinks: round % 2 == 0,
            mask: u8::from(round % 5 == 2),
            ..Case::plain(kv_heads, kv_heads, GROUP * (1 + round % 3), &[])
        };
        check(&case, &branches);
    }
}

/// A stretch's rows and keys.
type Read = (Range<usize>, Range<usize>);

/// What a plan says of these branches: the rows of each family, and what is read.
fn plan(case: &Case, branches: &[Branch]) -> (Vec<usize>, Vec<Read>) {
    let forest = Forest::grow(&mut StdRng::seed_from_u64(1), case, branches);
    let spans: Vec<Vec<Span<'_>>> =
        branches.iter().enumerate().map(|(i, branch)| forest.spans(case, i, branch)).collect();
    let segments = segments(case, branches, &spans);
    let queries = Heads::new(Floats::F32(&[]), 0, case.heads, case.dim);
    let attention = Attention {
        value_dim: case.value_dim,
        window: case.window,
        ..Attention::causal(queries, case.kv_heads, &segments)
    };
    let mut plan = Plan::default();
    plan.make(&attention, 1);
    // It serves calls like its own, if they have a number.
    assert!(!plan.serves(&attention, 1));
    let numbered = Attention { alike: 7, ..attention };
    plan.make(&numbered, 1);
    assert!(plan.serves(&numbered, 1) && !plan.serves(&numbered, 2));
    assert!(!plan.serves(&attention, 1) && !plan.serves(&Attention { alike: 8, ..attention }, 1));
    assert!(!plan.serves(&Attention { window: Some(7), ..numbered }, 1));
    assert!(!plan.serves(&Attention { segments: &segments[1..], ..numbered }, 1));
    let families = plan.tasks.iter().map(|task| task.rows.len()).collect();
    (families, plan.families.stretches.iter().map(|s| (s.rows.clone(), s.keys.clone())).collect())
}

#[test]
fn what_is_shared_is_read_once() {
    let case = Case { page: 64, ..Case::plain(2, 1, 32, &[]) };
    let branch = |of, shared, tokens| Branch { of, shared, tokens, length: 1, dropped: 0 };
    // Two share 256 tokens, and one of them 128 more with a third that came last; a fourth has nothing in common.
    let branches = [branch(0, 0, 450), branch(0, 256, 300), branch(9, 0, 100), branch(0, 384, 400)];
    let (mut families, stretches) = plan(&case, &branches);
    families.sort_unstable();
    assert_eq!(families, [2, 6]);
    let of_three =
        [(0..6, 0..256), (0..4, 256..384), (4..6, 256..300), (0..2, 384..450), (2..4, 384..400)];
    assert_eq!(stretches[..5], of_three);
    assert_eq!(stretches[5..], [(0..2, 0..100)]);
    // What a window has dropped for one is no longer shared with it; blocks that are shared in part are not.
    let windowed = Case { window: Some(200), ..case.clone() };
    let dropped = |dropped, branch| Branch { dropped, ..branch };
    let two = [dropped(1, branch(0, 0, 300)), dropped(2, branch(0, 256, 340))];
    let keys = [(0..2, 100..128), (0..4, 128..256), (0..2, 256..300), (2..4, 256..340)];
    assert_eq!(plan(&windowed, &two).1, keys);
    let pages = Case { page: 32, ..case };
    let keys = [(0..4, 0..64), (0..2, 64..128), (2..4, 64..100)];
    assert_eq!(plan(&pages, &[branch(0, 0, 128), branch(0, 96, 100)]).1, keys);
}
