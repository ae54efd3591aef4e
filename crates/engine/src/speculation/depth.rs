//! How many tokens to draft: as many as pay, by what was accepted and by what steps took. Pure; times come from outside.
//!
//! A drafted token is worth the likelihood that it and all before it are accepted; it costs a row of the verifying step
//! and a turn of the drafter. Rows are added where they are worth most, over the whole batch, while tokens a second grow.
//! What does not pay is parked: then a sequence is plain, and a short draft now and then, ever more rarely, tells whether
//! that is still right.

use std::time::Duration;

use crate::speculation::times::Times;

/// Tokens drafted at once for one sequence. Price: so many rows that may all be for nothing.
pub(crate) const DEPTH_MAX: usize = 8;

/// Rows of one step with drafts. More would no longer be read from memory only once, on any device known.
pub(crate) const ROWS_MAX: usize = 48;

/// Drafting has to promise this much more than plain decoding; less is within what measuring misses.
const GAIN_MIN: f64 = 1.03;

/// Tokens of a probe, and of the first draft of all.
const PROBE_DEPTH: usize = 2;

/// Tokens of a sequence between two probes: twice as many after each that failed.
const PAUSE_MIN: u32 = 24;
const PAUSE_MAX: u32 = 768;

/// The first pause of a sequence is longer where drafts for others were bad, up to this. Price: so much later a sequence for
/// which they are good is found out.
const PAUSE_FIRST_MAX: u32 = 96;

/// The part of all time that probes may cost. With what the first drafts cost: the price of drafts that never pay.
const PROBING: f64 = 0.01;

/// After so many steps with drafts there are some plain ones, so that what those take is known: soon where drafts have only
/// begun to pay, and half as often each time that they still do. Drafts that begin anew are those after `PLAIN_LONG`.
const PLAIN_AFTER_MIN: u32 = 16;
const PLAIN_AFTER_MAX: u32 = 256;
const PLAIN_STEPS: u32 = 5;
const PLAIN_LONG: u32 = 16;

/// So many tried tokens ago a result counts half.
const HALF_LIFE_TOKENS: f64 = 48.0;

/// What a drafter reads of a sequence before it can draft pays if it has paid after so many steps.
const REPAID_STEPS: f64 = 64.0;

/// What is thought of a sequence's drafts before any was tried, and how much experience that thought is worth.
const ACCEPTED_FIRST: f64 = 0.7;
const TRIED_FIRST: f64 = 4.0;

/// Tokens that were verified, and how many of them were right; older ones count less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Record {
    tried: f64,
    accepted: f64,
}

impl Record {
    /// Of a sequence that nothing is known of, where those before it had `likelihood`.
    fn presumed(likelihood: f64) -> Record {
        Record { tried: TRIED_FIRST, accepted: TRIED_FIRST * likelihood }
    }

    fn add(&mut self, drafted: usize, accepted: usize) {
        // Behind the first wrong token nothing was tried.
        let tried = (accepted + 1).min(drafted);
        let fade = 0.5f64.powf(tried as f64 / HALF_LIFE_TOKENS);
        self.tried = self.tried * fade + tried as f64;
        self.accepted = self.accepted * fade + accepted as f64;
    }

    /// Of one token, given that those before it were right.
    fn likelihood(&self) -> f64 {
        (self.accepted / self.tried.max(1.0)).clamp(0.0, 0.99)
    }
}

/// What drafts of one sequence have brought.
#[derive(Clone, Debug)]
pub(crate) struct History {
    record: Record,
    /// Plain tokens since the last draft, and how many there are to be until a probe.
    plain: u32,
    pause: u32,
    /// Tokens, all in all.
    pub drafted: u64,
    pub accepted: u64,
}

impl History {
    pub fn add_plain(&mut self) {
        self.plain = self.plain.saturating_add(1);
    }
}

/// A sequence of the next step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub history: &'a History,
    /// Drafts are of no use beyond; 0: none at all.
    pub depth_max: usize,
    /// Tokens that the drafter has to read first.
    pub unread_tokens: usize,
}

/// What all sequences taught: times of steps, and what to expect of a new sequence.
#[derive(Debug)]
pub(crate) struct Pace {
    times: Times,
    all: Record,
    /// Steps with drafts since there were some plain ones, and how many there may be.
    verified: u32,
    verified_max: u32,
    /// Plain steps since the last one with drafts.
    plain: u32,
}

impl Pace {
    pub fn new() -> Pace {
        let all = Record::presumed(ACCEPTED_FIRST);
        Pace { times: Times::new(), all, verified: 0, verified_max: PLAIN_AFTER_MIN, plain: 0 }
    }

    pub fn start(&self) -> History {
        let likelihood = self.all.likelihood();
        let pause = f64::from(PAUSE_MIN) / likelihood.max(f64::EPSILON);
        let pause = (pause as u32).min(PAUSE_FIRST_MAX);
        let record = Record::presumed(likelihood);
        History { record, plain: 0, pause, drafted: 0, accepted: 0 }
    }

    /// Without a time where that says nothing about others.
    pub fn add_plain(&mut self, rows: usize, time: Option<Duration>) {
        time.into_iter().for_each(|time| self.times.add_plain(rows, time));
        self.plain = self.plain.saturating_add(1);
        if self.plain == PLAIN_STEPS {
            if self.verified >= self.verified_max {
                self.verified_max = (2 * self.verified_max).min(PLAIN_AFTER_MAX);
            }
            self.verified = 0;
        }
        if self.plain == PLAIN_LONG {
            self.verified_max = PLAIN_AFTER_MIN;
        }
    }

    pub fn add_verifying(&mut self, rows: usize, time: Duration) {
        self.times.add_verifying(rows, time);
        self.verified = self.verified.saturating_add(1);
        self.plain = 0;
    }

    /// `depth` is that of the longest draft.
    pub fn add_drafting(&mut self, depth: usize, time: Duration) {
        self.times.add_drafting(depth, time);
    }

    pub fn add_reading(&mut self, tokens: usize, time: Duration) {
        self.times.add_reading(tokens, time);
    }

    fn reading_time(&self, member: &Member<'_>) -> f64 {
        self.times.reading() * member.unread_tokens as f64
    }

    /// What came of a draft.
    pub fn add_result(&mut self, history: &mut History, drafted: usize, accepted: usize) {
        history.record.add(drafted, accepted);
        history.drafted += drafted as u64;
        history.accepted += accepted as u64;
        self.all.add(drafted, accepted);
        if accepted == drafted {
            history.pause = PAUSE_MIN;
        } else if history.plain >= history.pause {
            history.pause = (history.pause * 2).min(PAUSE_MAX);
        }
        history.plain = 0;
    }

    /// How many tokens to draft for each member of the next step.
    pub fn depths(&self, members: &[Member<'_>]) -> Vec<usize> {
        let mut depths = vec![0; members.len()];
        // Without a plain step of this size there is nothing to compare with.
        let Some(plain) = self.times.plain(members.len()) else { return depths };
        if self.verified >= self.verified_max {
            return depths;
        }
        if self.times.has_verified() {
            let best = self.best(members, plain);
            if best.iter().any(|depth| *depth > 0) {
                return best;
            }
        }
        // One at a time: others are due in the next steps.
        let due =
            |member: &Member<'_>| member.depth_max > 0 && self.is_due(member, members.len(), plain);
        if let Some(at) = members.iter().position(due).filter(|_| members.len() < ROWS_MAX) {
            let room = ROWS_MAX - members.len();
            depths[at] = PROBE_DEPTH.min(members[at].depth_max).min(room);
        }
        depths
    }

    /// A probe costs all members time, and all members make them.
    fn is_due(&self, member: &Member<'_>, count: usize, plain: f64) -> bool {
        if !self.times.has_verified() {
            return true;
        }
        let probe = self.times.verifying(count + PROBE_DEPTH, count, plain);
        let history = member.history;
        let drafting = PROBE_DEPTH as f64 * self.times.drafting() + self.reading_time(member);
        let lost_tokens = (probe + drafting - plain).max(0.0) / plain;
        let pause = f64::from(history.pause).max(lost_tokens * count as f64 / PROBING);
        f64::from(history.plain) >= pause
    }

    fn best(&self, members: &[Member<'_>], plain: f64) -> Vec<usize> {
        let count = members.len();
        let mut depths = vec![0; count];
        let (mut best, mut best_rate) = (depths.clone(), count as f64 / plain * GAIN_MIN);
        let mut tokens = count as f64;
        // What the next drafted token of each member is worth.
        let mut worth: Vec<f64> =
            members.iter().map(|member| member.history.record.likelihood()).collect();
        for rows in count + 1..=ROWS_MAX {
            let open = (0..count).filter(|at| depths[*at] < members[*at].depth_max.min(DEPTH_MAX));
            let Some(at) = open.max_by(|a, b| worth[*a].total_cmp(&worth[*b])) else { break };
            tokens += worth[at];
            worth[at] *= members[at].history.record.likelihood();
            depths[at] += 1;
            let turns = depths.iter().copied().max().unwrap_or(0) as f64;
            let reads = (0..count).filter(|at| depths[*at] > 0);
            let reading: f64 = reads.map(|at| self.reading_time(&members[at])).sum();
            let drafting = turns * self.times.drafting() + reading / REPAID_STEPS;
            let time = self.times.verifying(rows, count, plain) + drafting;
            if tokens / time > best_rate {
                (best, best_rate) = (depths.clone(), tokens / time);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device, and a drafter with a certain luck.
    #[derive(Clone, Copy, Debug)]
    struct World {
        sequences: usize,
        likelihood: f64,
        /// Milliseconds of a step, of each of its rows, of drafting a token.
        step: f64,
        row: f64,
        draft: f64,
    }

    fn milliseconds(time: f64) -> Duration {
        Duration::from_secs_f64(time / 1000.0)
    }

    /// How many times as fast as plain decoding it comes out, over so many steps, by what these take on average. The
    /// policy sees what `luck` of the machine makes of it.
    fn gain(world: World, steps: usize, mut machine: impl FnMut() -> f64) -> f64 {
        let World { sequences, likelihood, step, row, draft } = world;
        let mut pace = Pace::new();
        let mut histories: Vec<History> = (0..sequences).map(|_| pace.start()).collect();
        let (mut time, mut tokens) = (0.0, 0.0);
        let mut luck = dice(1);
        for _ in 0..steps {
            let members: Vec<Member<'_>> = histories
                .iter()
                .map(|history| Member { history, depth_max: DEPTH_MAX, unread_tokens: 0 })
                .collect();
            let depths = pace.depths(&members);
            let rows = sequences + depths.iter().sum::<usize>();
            assert!(rows <= ROWS_MAX.max(sequences));
            let took = step + row * rows as f64;
            let turns = depths.iter().copied().max().unwrap_or(0);
            time += took + turns as f64 * draft;
            if turns == 0 {
                pace.add_plain(rows, Some(milliseconds(took * machine())));
            } else {
                pace.add_verifying(rows, milliseconds(took * machine()));
                pace.add_drafting(turns, milliseconds(turns as f64 * draft * machine()));
            }
            for (history, depth) in histories.iter_mut().zip(depths) {
                let accepted = (0..depth).take_while(|_| luck() < likelihood).count();
                tokens += 1.0 + accepted as f64;
                match depth {
                    0 => history.add_plain(),
                    _ => pace.add_result(history, depth, accepted),
                }
            }
        }
        let plain = sequences as f64 / (step + row * sequences as f64);
        tokens / time / plain
    }

    /// From 0 to 1.
    fn dice(seed: u64) -> impl FnMut() -> f64 {
        let mut dice = seed;
        move || {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (dice >> 40) as f64 / (1u64 << 24) as f64
        }
    }

    /// Each step takes up to a quarter more or less, one in a hundred ten times as long, and every now and then all of them
    /// become faster or slower by up to a quarter.
    fn unsteady(seed: u64) -> impl FnMut() -> f64 {
        let (mut luck, mut speed) = (dice(seed), 1.0);
        move || {
            if luck() < 0.02 {
                speed = 0.75 + luck() / 2.0;
            }
            let hiccup = if luck() < 0.01 { 10.0 } else { 1.0 };
            hiccup * speed * (0.75 + luck() / 2.0)
        }
    }

    #[track_caller]
    fn check(world: World, at_least: f64) {
        let gain = gain(world, 1000, || 1.0);
        assert!(gain >= at_least, "{gain}");
    }

    /// So much is known of steps of these sizes as is needed.
    fn after_plain(sizes: &[usize]) -> Pace {
        let mut pace = Pace::new();
        for rows in sizes {
            (0..8).for_each(|_| pace.add_plain(*rows, Some(milliseconds(10.0))));
        }
        pace
    }

    const PLAIN: World = World { sequences: 1, likelihood: 0.8, step: 10.0, row: 0.5, draft: 0.5 };

    #[test]
    fn good_drafts_are_used() {
        // With certain drafts: nine tokens for a step of nine rows and eight turns, 14.5 + 4 instead of 94.5.
        check(World { likelihood: 1.0, ..PLAIN }, 4.5);
        check(PLAIN, 2.0);
        check(World { sequences: 8, ..PLAIN }, 1.4);
        check(World { likelihood: 0.5, ..PLAIN }, 1.3);
    }

    #[test]
    fn bad_drafts_cost_next_to_nothing() {
        for sequences in [1, 2, 8, 16, 60] {
            for likelihood in [0.0, 0.05, 0.2] {
                // Rows that cost as much as steps, drafts that cost as much as tokens, and both.
                for (step, row, draft) in
                    [(10.0, 0.5, 0.5), (1.0, 10.0, 0.5), (10.0, 0.1, 10.0), (1.0, 10.0, 10.0)]
                {
                    check(World { sequences, likelihood, step, row, draft }, 0.97);
                }
            }
        }
        // Right nearly always, and too dear all the same.
        check(World { likelihood: 0.95, row: 20.0, step: 1.0, draft: 5.0, sequences: 1 }, 0.97);
    }

    /// Bad drafts and good ones on a machine that is like this one.
    #[test]
    fn an_unsteady_machine_deceives_nobody() {
        let mean = |world| {
            let gains: Vec<f64> = (0..40).map(|seed| gain(world, 1000, unsteady(seed))).collect();
            let least = gains.iter().copied().fold(f64::MAX, f64::min);
            assert!(least >= 0.95, "{least}");
            gains.iter().sum::<f64>() / gains.len() as f64
        };
        for sequences in [1, 4] {
            // As measured with Qwen3-0.6B's shape on two cores, with prompt lookup and with a draft model; and others.
            for (step, row, draft) in [
                (16.0, 5.5, 0.0),
                (16.0, 5.5, 2.0),
                (10.0, 0.5, 0.5),
                (1.0, 10.0, 0.5),
                (10.0, 0.1, 10.0),
            ] {
                for likelihood in [0.0, 0.1, 0.2] {
                    let world = World { sequences, likelihood, step, row, draft };
                    let gain = mean(world);
                    assert!(gain >= 0.97, "{gain}: {world:?}");
                }
            }
            let world = World { sequences, ..PLAIN };
            let (steady, unsteady) = (gain(world, 1000, || 1.0), mean(world));
            assert!(unsteady >= 0.9 * steady, "{unsteady}, not {steady}");
        }
    }

    #[test]
    fn a_short_reply_pays_little_for_trying() {
        // A new sequence after others that went badly starts plain.
        let mut pace = after_plain(&[1]);
        for _ in 0..50 {
            let mut history = pace.start();
            pace.add_result(&mut history, 4, 0);
        }
        pace.add_verifying(3, milliseconds(15.0));
        let history = pace.start();
        assert_eq!(
            pace.depths(&[Member { history: &history, depth_max: 8, unread_tokens: 0 }]),
            [0]
        );
    }

    #[test]
    fn luck_that_comes_back_is_noticed() {
        let mut pace = after_plain(&[1]);
        let mut history = pace.start();
        for _ in 0..50 {
            pace.add_result(&mut history, 4, 0);
            pace.add_verifying(5, milliseconds(11.0));
        }
        let mut plain = 0;
        for _ in 0..4000 {
            match pace.depths(&[Member { history: &history, depth_max: 8, unread_tokens: 0 }])[0] {
                0 => {
                    plain += 1;
                    history.add_plain();
                    pace.add_plain(1, Some(milliseconds(10.0)));
                }
                depth => {
                    pace.add_verifying(1 + depth, milliseconds(11.0));
                    pace.add_result(&mut history, depth, depth);
                }
            }
        }
        assert!(plain < 1500, "{plain} of 4000 steps were plain");
    }

    #[test]
    fn limits_are_kept() {
        let mut pace = after_plain(&[2, 1]);
        let history = pace.start();
        let member = |depth_max| Member { history: &history, depth_max, unread_tokens: 0 };
        assert_eq!(pace.depths(&[member(0), member(9)]), [0, PROBE_DEPTH], "the first of all");
        pace.add_verifying(3, milliseconds(10.0));
        assert_eq!(pace.depths(&[member(0), member(3)]), [0, 3]);
        assert_eq!(pace.depths(&[member(0), member(99)]), [0, DEPTH_MAX]);
        assert_eq!(pace.depths(&[member(0)]), [0]);
        assert_eq!(pace.depths(&[member(1), member(1), member(1)]), [0, 0, 0], "not measured");
    }

    /// What a drafter reads once is not what each draft costs, but has to pay too.
    #[test]
    fn reading_a_long_prompt_pays_in_the_long_run_or_is_left() {
        let mut pace = after_plain(&[1]);
        pace.add_verifying(3, milliseconds(11.0));
        pace.add_drafting(2, milliseconds(1.0));
        let history = pace.start();
        let member = |unread_tokens| Member { history: &history, depth_max: 8, unread_tokens };
        assert!(pace.depths(&[member(2000)])[0] > 1, "nobody knows what reading costs");
        pace.add_reading(1000, milliseconds(100.0));
        assert!(pace.depths(&[member(2000)])[0] > 1, "200 ms are soon gained");
        pace.add_reading(1000, milliseconds(100_000.0));
        assert_eq!(pace.depths(&[member(2000)]), [0]);
        assert!(pace.depths(&[member(0)])[0] > 1);
    }
}
