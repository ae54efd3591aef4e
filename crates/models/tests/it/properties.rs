//! What must hold for every architecture, whatever its answers: how a sequence is cut into passes, what else is in the
//! batch, and what was tried and taken back leave no trace.
//!
//! All in f32. Where the same rows go through products of other sizes, sums may run in another order: the bound is
//! [`REORDERED`]. Where shapes are equal, so are the results, bit for bit.

use fixtures::Reference;
use mlx::Dtype;
use models::{Batch, Slot};

use crate::support::{Checkpoint, DECODERS, Rows, Session, difference};

/// Of log-probabilities. The fixtures say that a relative noise of 1e-5 in all weights moves them by up to 6e-4
/// (`noise_1e5`); sums over some 64 terms in another order have 5e-7, so 3e-5. (MLX's CPU kernels keep the order: 0.)
/// A position off by one, a key too many or too few moves log-probabilities by more than 1e-2.
const REORDERED: f32 = 5e-5;

/// As [`REORDERED`] is to 6e-4: for fixtures that a noise moves further (qwen3-next: 4e-3).
const REORDERED_PER_NOISE: f32 = 1.0 / 12.0;

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| 3 + (i * 37 + i * i * 11) % 500).collect()
}

/// Each as it is here, in pages, and one of each kind of memory as on a GPU.
fn for_each_model(check: impl Fn(&str, &mut Session)) {
    for name in DECODERS {
        check(name, &mut Session::new(Checkpoint::of(name).load(Some(Dtype::F32))));
    }
    for name in ["qwen3", "gemma3", "qwen3-next"] {
        let mut in_lanes = Session::new(Checkpoint::of(name).load(Some(Dtype::F32)));
        in_lanes.memory = in_lanes.model.memory().in_lanes();
        check(&format!("{name} in lanes"), &mut in_lanes);
    }
}

/// `what` begins with the name of the fixture.
fn assert_close(what: &str, found: &Rows, expected: &Rows) {
    let fixture = what.split([' ', ',']).next().unwrap();
    let noise = Reference::read(&fixtures::arch(fixture)).unwrap().noise_1e5.unwrap();
    let (bound, difference) =
        (REORDERED.max(noise * REORDERED_PER_NOISE), difference(found, expected));
    assert!(difference <= bound, "{what}: log-probabilities differ by {difference}, not {bound}");
}

/// Longer than a step of the cache's capacity, so that it grows within the test.
#[test]
fn chunked_prefill_is_the_whole_prefill() {
    for_each_model(|name, session| {
        let tokens = tokens(300);
        let whole = session.alone(&tokens);
        for chunk in [7, 128, 256, 299] {
            let slot = session.memory.open();
            let rows: Rows =
                tokens.chunks(chunk).flat_map(|part| session.step(&[(slot, part)])).collect();
            assert_close(&format!("{name} in chunks of {chunk}"), &rows, &whole);
            assert_eq!(session.memory.length(slot), 300);
            session.memory.close(slot);
        }
    });
}

#[test]
fn decoding_is_prefill() {
    for_each_model(|name, session| {
        let tokens = tokens(40);
        let whole = session.alone(&tokens);
        let slot = session.memory.open();
        let rows: Rows =
            tokens.iter().flat_map(|token| session.step(&[(slot, &[*token])])).collect();
        assert_close(name, &rows, &whole);
    });
}

/// Prefill chunks beside decoding rows, sequences that come and go, rows in another order than their slots.
#[test]
fn a_row_of_a_ragged_batch_is_the_row_alone() {
    for_each_model(|name, session| {
        let texts = [tokens(31), tokens(57)[9..].to_vec(), tokens(90)[40..].to_vec()];
        let alone: Vec<Rows> = texts.iter().map(|text| session.alone(text)).collect();
        let slots: Vec<Slot> = texts.iter().map(|_| session.memory.open()).collect();
        let mut done = [0; 3];
        let mut found: Vec<Rows> = vec![Vec::new(); 3];
        let steps: [&[(usize, usize)]; 7] = [
            &[(0, 5)],
            &[(1, 20), (0, 1)],
            &[(0, 1), (2, 9), (1, 1)],
            &[(2, 1), (1, 1), (0, 1)],
            &[(2, 6), (0, 2)],
            &[(1, 1), (2, 1)],
            &[(0, 21), (1, 25), (2, 33)],
        ];
        for step in steps {
            let parts: Vec<(Slot, &[u32])> = step
                .iter()
                .map(|&(text, length)| (slots[text], &texts[text][done[text]..done[text] + length]))
                .collect();
            let mut rows = session.step(&parts).into_iter();
            for &(text, length) in step {
                found[text].extend(rows.by_ref().take(length));
                done[text] += length;
            }
        }
        assert_eq!(done, [31, 48, 50]);
        for (text, rows) in found.iter().enumerate() {
            assert_close(&format!("{name}, sequence {text}"), rows, &alone[text]);
        }
    });
}

/// Sequences of equal length share their keys' memory as long as they go in step; one that leaves takes its own along.
#[test]
fn sequences_in_step_do_not_mix() {
    for_each_model(|name, session| {
        let texts: Vec<Vec<u32>> = (0..3).map(|i| tokens(300 + i)[i..].to_vec()).collect();
        let alone: Vec<Rows> = texts.iter().map(|text| session.alone(text)).collect();
        let slots: Vec<Slot> = texts.iter().map(|_| session.memory.open()).collect();
        let mut check = |members: &[usize], from: usize, to: usize| {
            let parts: Vec<_> = members.iter().map(|&i| (slots[i], &texts[i][from..to])).collect();
            let rows = session.step(&parts);
            for (&text, rows) in members.iter().zip(rows.chunks(to - from)) {
                let what = format!("{name}, sequence {text} of {members:?}, {from}..{to}");
                assert_close(&what, &rows.to_vec(), &alone[text][from..to].to_vec());
            }
        };
        check(&[0, 1, 2], 0, 250);
        for position in 250..260 {
            check(&[0, 1, 2], position, position + 1);
        }
        check(&[1], 260, 261); // one goes ahead alone,
        check(&[2, 0], 260, 261); // the others in another order,
        check(&[0, 1, 2], 261, 280); // and all together again
        check(&[0, 2], 280, 281);
        check(&[1], 280, 281);
        check(&[2, 1, 0], 281, 300);
    });
}

#[test]
fn a_rewound_sequence_was_never_there() {
    for_each_model(|name, session| {
        let (tokens, other) = (tokens(290), tokens(340)[300..].to_vec());
        let slot = session.memory.open();
        let first = session.step(&[(slot, &tokens[..250])]);
        let expected = session.step(&[(slot, &tokens[250..])]);
        // Back across a growth of the cache, another way, back again.
        session.memory.rewind(slot, 250);
        session.step(&[(slot, &other)]);
        session.memory.rewind(slot, 250);
        assert_eq!(session.step(&[(slot, &tokens[250..])]), expected, "{name} from 250");
        session.memory.rewind(slot, 0);
        assert_eq!(session.memory.length(slot), 0);
        assert_eq!(session.step(&[(slot, &tokens[..250])]), first, "{name} from 0");
    });
}

#[test]
fn forks_do_not_see_each_other() {
    for_each_model(|name, session| {
        let (tokens, other) = (tokens(80), tokens(200)[120..].to_vec());
        let expected = session.alone(&tokens);
        let trunk = session.memory.open();
        session.step(&[(trunk, &tokens[..50])]);
        // Before its last pass, which is as far back as a state of fixed size goes.
        session.step(&[(trunk, &tokens[50..60])]);
        let held = session.memory.bytes();
        let fork = session.memory.fork(trunk, 50);
        assert_eq!(session.memory.bytes(), held, "{name}: a fork holds nothing of its own");
        assert_eq!((session.memory.length(trunk), session.memory.length(fork)), (60, 50));
        session.step(&[(fork, &other)]);
        assert!(session.memory.bytes() > held, "{name}: a fork that grew does");
        let rest = session.step(&[(trunk, &tokens[60..])]);
        assert_close(name, &rest, &expected[60..].to_vec());
        session.memory.rewind(fork, 50);
        session.memory.close(trunk);
        let rest = session.step(&[(fork, &tokens[50..])]);
        assert_close(name, &rest, &expected[50..].to_vec());
    });
}

/// Another sequence that begins with whole pages of this one, and with its state there, goes on as this one did.
#[test]
fn pages_and_a_state_are_a_beginning() {
    for_each_model(|name, session| {
        let (tokens, length) = (tokens(150), session.memory.page_tokens());
        let slot = session.memory.open();
        session.step(&[(slot, &tokens[..length])]);
        let state = session.memory.state(slot);
        let pages = session.memory.pages(slot).to_vec();
        pages.iter().for_each(|page| session.memory.hold(*page));
        let expected = session.step(&[(slot, &tokens[length..])]);
        session.memory.close(slot);
        assert!(session.memory.is_resumable(&pages, length, state.as_ref()), "{name}");
        let stateless = session.memory.is_resumable(&pages, length, None);
        assert_eq!(stateless, session.memory.state_bytes() == 0, "{name}");
        for _ in 0..2 {
            let again = session.memory.open_on(&pages, length, state.as_ref());
            assert_eq!(session.step(&[(again, &tokens[length..])]), expected, "{name}");
            session.memory.close(again);
        }
        pages.iter().for_each(|page| session.memory.release(*page));
        assert_eq!((session.memory.pages_in_use(), session.memory.bytes()), (0, 0), "{name}");
    });
}

/// What a recurrence remembers does not depend on how its tokens came.
#[test]
fn states_of_chunks_are_states_of_tokens() {
    let mut session = Session::new(Checkpoint::of("qwen3-next").load(Some(Dtype::F32)));
    let tokens = tokens(130);
    let slots = [130, 50, 1].map(|chunk| {
        let slot = session.memory.open();
        for part in tokens.chunks(chunk) {
            session.step(&[(slot, part)]);
        }
        slot
    });
    let mut states = slots.iter().map(|slot| session.memory.state(*slot).unwrap().arrays());
    let whole = states.next().unwrap();
    assert_eq!(whole.len(), 3 * 2);
    for (index, state) in states.enumerate() {
        for (found, expected) in state.iter().zip(&whole) {
            let size = expected.abs().max(&[], false).item::<f32>().unwrap();
            let off = (found - expected).abs().max(&[], false).item::<f32>().unwrap();
            assert!(size > 0.1 && off <= 1e-5 * size, "chunks {index}: {off} of {size}");
        }
    }
}

/// Memory of slots is given back, and a slot that is opened again begins empty.
#[test]
fn a_closed_slot_leaves_nothing() {
    for_each_model(|name, session| {
        let expected = session.alone(&tokens(20));
        let slot = session.memory.open();
        session.step(&[(slot, &tokens(50)[25..])]);
        assert!(session.memory.bytes() > 0 && !session.memory.arrays(slot).is_empty());
        session.memory.close(slot);
        assert_eq!(session.memory.bytes(), 0, "{name}");
        assert_eq!(session.memory.open(), slot);
        assert_eq!(session.step(&[(slot, &tokens(20))]), expected, "{name}");
    });
}

/// A pass that was built and never evaluated, and one that failed: rewound, the sequence goes on as if neither had been.
#[test]
fn an_abandoned_pass_is_taken_back_by_a_rewind() {
    for_each_model(|name, session| {
        let expected = session.alone(&tokens(30));
        let slot = session.memory.open();
        session.step(&[(slot, &tokens(30)[..20])]);
        drop(session.hidden(&[(slot, &tokens(90)[80..])]));
        assert_eq!(session.memory.length(slot), 30, "{name}");
        session.memory.rewind(slot, 20);

        let no_indices = mlx::zeros(&[4], Dtype::F32);
        let batch = Batch::new(no_indices, &[(slot, 4)], &session.memory);
        let failure = mlx::catch(|| session.model.forward(batch, &mut session.memory));
        assert!(failure.is_err(), "{name}");
        session.memory.rewind(slot, 20);
        let rows = session.step(&[(slot, &tokens(30)[20..])]);
        assert_close(name, &rows, &expected[20..].to_vec());
    });
}
