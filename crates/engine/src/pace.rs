//! How much of a prompt goes into a step beside running replies: so much that nobody waits noticeably longer for his next
//! token. The machine tells how much that is, step by step. Pure: it is told times and has no clock.
//!
//! What a row costs grows with its position, for it attends to all before it. So costs are counted in rows at the very
//! beginning of a sequence, and how many tokens of history cost as much as such a row is learned as well.

use std::time::Duration;

use crate::batcher::CHUNK_TOKENS;

/// What a step with a part of a prompt is planned to take. Readers are promised 0.4 s between two tokens; a step that
/// becomes late is parted (`steps::parting`). Less would make prompts slower, for each step has a price of its own.
const PLANNED: Duration = Duration::from_millis(330);

/// The same where steps cannot be parted: a machine may be slower by a third from one step to the next.
const PLANNED_SAFELY: Duration = Duration::from_millis(290);

/// What is counted is what this would take.
const STEP_TIME: Duration = Duration::from_millis(300);

/// Even a slow machine gets on with a prompt.
pub(crate) const ROWS_MIN: usize = 16;

/// Less than this is not worth a chunk.
const CRUMB_ROWS: usize = 4;

/// Tokens of history that cost as much to attend to as all else of a row does, before that was measured: what a model of
/// 0.6B parameters has on two cores. Larger models have more.
const REACH_TOKENS: f64 = 1600.0;

/// Measurements that make no sense teach no more than this.
const REACH_TOKENS_MIN: f64 = 400.0;
const REACH_TOKENS_MAX: f64 = 65_536.0;

/// So many times as much or as little it may become with one measurement: errors of a tenth look like any depth.
const REACH_CHANGE: f64 = 1.25;

/// What a measurement still counts when the next one comes.
const MEMORY: f64 = 0.9;

/// Rows of prompts for each other row in a step that tells about the reach: a token drawn alone costs more than a row of
/// many.
const PROMPT_ROWS_EACH: usize = 16;

/// Rows, and the tokens that they attend to, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub rows: usize,
    pub history_tokens: usize,
}

/// What the prompts of one step may cost, in rows at a beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    cost: f64,
    reach_tokens: f64,
    rows: usize,
    /// The first chunk may have so many, whatever they cost.
    rows_min: usize,
}

/// A step may be as long as two counts allow, of which neither is the truth: costs, which are right as far as the reach is;
/// and rows, as if all cost the same, which is right where the next rows are no deeper than the last ones.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Whether a step that becomes late is parted.
    can_part: bool,
    cost: Most,
    rows: Most,
    reach_tokens: f64,
    seen: Seen,
}

/// What takes `STEP_TIME`; none before anything was measured.
#[derive(Clone, Copy, Debug, Default)]
struct Most(Option<f64>);

/// Sums over what was measured, each measurement divided by its time, so that long steps say no more than short ones.
#[derive(Debug, Default)]
struct Seen {
    rows: f64,
    history: f64,
    rows_rows: f64,
    rows_history: f64,
    history_history: f64,
}

impl Load {
    pub fn add(&mut self, position: usize, rows: usize) {
        self.rows += rows;
        self.history_tokens += rows * position + rows * rows / 2;
    }

    fn cost(self, reach_tokens: f64) -> f64 {
        self.rows as f64 + self.history_tokens as f64 / reach_tokens
    }
}

impl Allowance {
    /// Nobody waits.
    pub fn alone() -> Allowance {
        let cost = f64::INFINITY;
        Allowance { cost, reach_tokens: REACH_TOKENS, rows: CHUNK_TOKENS, rows_min: CHUNK_TOKENS }
    }

    /// No prompt begins or goes on.
    pub fn nothing() -> Allowance {
        Allowance { cost: 0.0, reach_tokens: REACH_TOKENS, rows: 0, rows_min: 0 }
    }

    #[cfg(test)]
    pub fn of_rows(rows: usize) -> Allowance {
        Allowance { rows, rows_min: rows, ..Allowance::alone() }
    }

    /// How many rows of a prompt from this position on, at least one while it is not used up.
    pub fn rows(&self, position: usize) -> usize {
        let reach = self.reach_tokens;
        let first = 1.0 + position as f64 / reach;
        // The cost of n rows is n * first + n * n / (2 * reach).
        let many = reach * ((first * first + 2.0 * self.cost.max(0.0) / reach).sqrt() - first);
        self.rows.min((many as usize).max(self.rows_min).max(usize::from(self.cost >= 1.0)))
    }

    /// Too little is left for another prompt to begin.
    pub fn is_used_up(&self) -> bool {
        self.rows(0) < CRUMB_ROWS
    }

    pub fn take(&mut self, position: usize, rows: usize) {
        let mut load = Load::default();
        load.add(position, rows);
        self.cost -= load.cost(self.reach_tokens);
        self.rows = self.rows.saturating_sub(rows);
        self.rows_min = if self.cost.is_finite() { 0 } else { self.rows };
    }
}

impl Most {
    /// So much took `STEP_TIME` divided by `share`.
    fn took(&mut self, amount: f64, share: f64, is_careful: bool) {
        let fits = amount * share;
        self.0 = Some(match self.0 {
            None => fits,
            Some(_) if share < 1.0 && is_careful => fits,
            // One slow step is no slow machine either.
            Some(most) if share < 1.0 => f64::midpoint(most, fits),
            // A step of few rows says little about one of many: what a step costs anyway is most of it.
            Some(most) if amount < most / 2.0 => most.max(fits),
            // One quick step is no quick machine: half of the way there, and no more than twice as much.
            Some(most) => f64::midpoint(most, fits.min(most * 3.0)),
        });
    }
}

impl Pace {
    pub fn new(can_part: bool) -> Pace {
        let (cost, rows) = (Most::default(), Most::default());
        Pace { can_part, cost, rows, reach_tokens: REACH_TOKENS, seen: Seen::default() }
    }

    /// Beside `running` rows, each of which draws a token, in a step that begins so long after the last one was read.
    pub fn beside(&self, running: Load, waited: Duration) -> Allowance {
        let planned = if self.can_part { PLANNED } else { PLANNED_SAFELY };
        if waited > planned / 2 {
            return Allowance::nothing();
        }
        let (reach_tokens, planned) = (self.reach_tokens, planned - waited);
        let part = planned.as_secs_f64() / STEP_TIME.as_secs_f64();
        let cost = self.cost.0.unwrap_or(0.0) * part - running.cost(reach_tokens);
        let rows = self.rows.0.unwrap_or(0.0) * part - running.rows as f64;
        let rows = (rows as usize).clamp(ROWS_MIN, CHUNK_TOKENS);
        Allowance { cost, reach_tokens, rows, rows_min: ROWS_MIN }
    }

    /// A step with `load`, of which so many rows were of prompts, took so long.
    pub fn took(&mut self, load: Load, prompt_rows: usize, time: Duration) {
        if prompt_rows < ROWS_MIN / 2 || time.is_zero() {
            return;
        }
        tracing::debug!(rows = load.rows, prompt_rows, ?time, "a step with prompts");
        let before = load.cost(self.reach_tokens);
        if (load.rows - prompt_rows) * PROMPT_ROWS_EACH <= prompt_rows {
            self.learn(load, time);
        }
        let cost = load.cost(self.reach_tokens);
        // What was measured so far, in the new measure.
        self.cost.0 = self.cost.0.map(|most| most * cost / before);
        let share = STEP_TIME.as_secs_f64() / time.as_secs_f64();
        self.cost.took(cost, share, !self.can_part);
        self.rows.took(load.rows as f64, share, !self.can_part);
    }

    /// The two prices, of rows and of history, with which the squares of relative errors are least.
    fn learn(&mut self, load: Load, time: Duration) {
        let (rows, history) = (load.rows as f64, load.history_tokens as f64);
        let (rows, history) = (rows / time.as_secs_f64(), history / time.as_secs_f64());
        let Seen { rows: r, history: h, rows_rows, rows_history, history_history } = &mut self.seen;
        let sums = [
            (&mut *r, rows),
            (h, history),
            (rows_rows, rows * rows),
            (rows_history, rows * history),
            (history_history, history * history),
        ];
        sums.into_iter().for_each(|(sum, new)| *sum = *sum * MEMORY + new);
        let Seen { rows: r, history: h, rows_rows, rows_history, history_history } = self.seen;
        let apart = rows_rows * history_history - rows_history * rows_history;
        // Steps at one depth say nothing about others.
        if apart < 0.05 * rows_rows * history_history {
            return;
        }
        let row_price = r * history_history - h * rows_history;
        let history_price = h * rows_rows - r * rows_history;
        let reach = match (row_price > 0.0, history_price > 0.0) {
            (false, _) => REACH_TOKENS_MIN,
            (_, false) => REACH_TOKENS_MAX,
            _ => (row_price / history_price).clamp(REACH_TOKENS_MIN, REACH_TOKENS_MAX),
        };
        let known = self.reach_tokens;
        self.reach_tokens = reach.clamp(known / REACH_CHANGE, known * REACH_CHANGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine: what a step costs, each of its rows, and each token that a row attends to, in seconds.
    #[derive(Clone, Copy)]
    struct Machine(f64, f64, f64);

    impl Machine {
        fn time(self, load: Load) -> Duration {
            let Machine(step, row, history) = self;
            let (rows, tokens) = (load.rows as f64, load.history_tokens as f64);
            Duration::from_secs_f64(step + row * rows + history * tokens)
        }
    }

    fn load(position: usize, rows: usize) -> Load {
        let mut load = Load::default();
        load.add(position, rows);
        load
    }

    /// After a first prompt: how many rows, and what the longest step took.
    #[track_caller]
    fn check(step: f64, row: f64, first_rows: usize, settles_at: std::ops::Range<usize>) {
        let mut pace = Pace::new(true);
        let machine = Machine(step, row, 0.0);
        pace.took(load(0, first_rows), first_rows, machine.time(load(0, first_rows)));
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let rows = pace.beside(Load::default(), Duration::ZERO).rows(0);
            longest = longest.max(machine.time(load(0, rows)));
            pace.took(load(0, rows), rows, machine.time(load(0, rows)));
        }
        let rows = pace.beside(Load::default(), Duration::ZERO).rows(0);
        assert!(settles_at.contains(&rows), "{rows}");
        let promised = Duration::from_millis(400);
        assert!(longest <= machine.time(load(0, ROWS_MIN)).max(promised), "{longest:?}");
    }

    #[test]
    fn it_settles_without_a_long_step() {
        check(0.03, 0.005, 2048, 57..63);
        check(0.03, 0.005, 8, 57..63);
        check(0.01, 0.00002, 600, CHUNK_TOKENS..CHUNK_TOKENS + 1);
        check(0.3, 0.05, 100, ROWS_MIN..ROWS_MIN + 1);
    }

    /// A long prompt alone, and then one in chunks, from the start to where attention is most of the work.
    #[test]
    fn deep_rows_cost_more() {
        // As measured, and machines on which history is dear or costs nothing.
        for machine in [
            Machine(0.02, 0.0018, 1.13e-6),
            Machine(0.02, 0.0018, 4e-6),
            Machine(0.02, 0.0018, 0.0),
            Machine(0.05, 0.008, 2e-6),
        ] {
            let mut pace = Pace::new(true);
            pace.took(load(0, 2040), 2040, machine.time(load(0, 2040)));
            let (mut at, mut times) = (0, Vec::new());
            while at < 12_000 {
                let rows = pace.beside(load(2000, 1), Duration::ZERO).rows(at);
                let mut step = load(at, rows);
                step.add(2000, 1);
                // Less is not possible.
                times.extend((rows > ROWS_MIN).then(|| machine.time(step).as_secs_f64()));
                pace.took(step, rows, machine.time(step));
                at += rows;
            }
            let longest = times.iter().copied().fold(0.0, f64::max);
            assert!(longest <= 0.4, "{longest}");
            let later = &times[4..times.len() - 1];
            assert!(later.iter().all(|time| *time > 0.21), "{times:?}");
        }
    }

    /// What a machine does whose drawn tokens cost ten times as much to attend as rows of prompts: after chats with a long
    /// history comes a short prompt, and then a long one again.
    #[test]
    fn who_draws_does_not_make_the_others_cheap() {
        let machine = Machine(0.02, 0.0018, 1.13e-6);
        let mut pace = Pace::new(true);
        pace.took(load(0, 2040), 2040, machine.time(load(0, 2040)));
        let (mut running, mut longest) = (1, 0.0);
        for position in [2000, 2000, 2000, 2000, 0, 0, 1500, 3000, 0, 2000, 500] {
            let rows = pace.beside(load(2000, running), Duration::ZERO).rows(position);
            let time =
                machine.time(load(position, rows)) + Duration::from_millis(12) * running as u32;
            let mut step = load(position, rows);
            step.add(2000, running);
            longest = time.as_secs_f64().max(longest);
            pace.took(step, rows, time);
            running = 8.min(running + 2);
        }
        assert!(longest <= 0.4, "{longest}");
    }

    #[test]
    fn an_allowance_is_used_up_by_what_was_taken() {
        let mut pace = Pace::new(true);
        pace.took(load(0, 200), 200, STEP_TIME);
        let mut left = pace.beside(Load::default(), PLANNED - STEP_TIME);
        let cost = load(0, 200).cost(REACH_TOKENS);
        assert_eq!(left.rows(0), 200);
        assert_eq!(left.rows(1600), (cost / 2.03) as usize);
        left.take(1600, 50);
        let rest = cost - load(1600, 50).cost(REACH_TOKENS);
        // The rows behind the first attend to those before them.
        let rows = left.rows(0);
        let fits = |rows| load(0, rows).cost(REACH_TOKENS) <= rest + 1.0;
        assert!(fits(rows) && !fits(rows + 2), "{rows} of {rest}");
        left.take(0, 200);
        assert!(left.is_used_up());
        // Somebody always gets on.
        assert_eq!(pace.beside(load(0, 500), Duration::ZERO).rows(9000), ROWS_MIN);
        let mut alone = Allowance::alone();
        assert_eq!(alone.rows(30_000), CHUNK_TOKENS);
        alone.take(0, 48);
        assert_eq!(alone.rows(30_000), CHUNK_TOKENS - 48);
    }
}
