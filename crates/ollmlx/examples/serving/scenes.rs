//! What is played, and what is read off it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use futures::future::try_join_all;
use tokio::sync::Notify;

use super::client::{Reply, ask, longest_gap};
use super::server::{Server, wait_until_up};

pub struct Figure {
    pub what: &'static str,
    pub unit: &'static str,
    pub value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scene {
    /// One chat, then seven more with the same system prompt.
    Chats,
    /// A long prompt comes while two replies run.
    LongPrompt,
    /// Four chats at once with an unseen beginning.
    Four,
    /// A conversation goes on after a restart.
    Restart,
}

const CHATS: usize = 8;
const SYSTEM_TOKENS: usize = 2000;
/// A short question behind the system prompt, and a longer one.
const OWN_TOKENS: usize = 16;
const OWN_TOKENS_MORE: usize = 40;
const REPLY_TOKENS: usize = 64;
const LONG_PROMPT: usize = 800;
/// Long prompts alone and beside replies, in turn; restarts. Single ones say little on a machine that others use too.
const LONG_PROMPTS: usize = 9;
const RESTARTS: usize = 3;
const UNSEEN_SHARED: usize = 300;
const UNSEEN_OWN: usize = 16;

/// Scenes on a fresh server.
pub async fn play(
    server: &mut dyn Server,
    scenes: &[Scene],
    round: u32,
    vocabulary: u32,
) -> anyhow::Result<Vec<Figure>> {
    // A connection for each request: a server may close one that waits just when it is taken again.
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
    let mut stage = Stage { client, words: Words(u64::from(round) + 1, vocabulary) };
    server.start()?;
    wait_until_up(server)?;
    stage.warm_up(&*server).await?;
    let mut figures = Vec::new();
    for scene in scenes {
        let played = match scene {
            Scene::Chats => stage.one_system_prompt(&*server).await,
            Scene::LongPrompt => stage.long_prompts_arrive(&*server).await,
            Scene::Four => stage.four_at_once(&*server).await,
            Scene::Restart => stage.restarts(server).await,
        };
        figures.extend(played.with_context(|| format!("{scene:?}"))?);
    }
    server.stop();
    Ok(figures)
}

struct Stage {
    client: reqwest::Client,
    words: Words,
}

/// Prompts nobody has seen: SplitMix64.
struct Words(u64, u32);

impl Words {
    fn prompt(&mut self, length: usize) -> Vec<u32> {
        (0..length).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        // The first words may mean something to a configuration.
        8192 + ((z ^ (z >> 27)) >> 33) as u32 % (self.1 - 8192)
    }
}

impl Stage {
    async fn reply(
        &self,
        server: &dyn Server,
        prompt: &[u32],
        length: usize,
        seed: usize,
    ) -> anyhow::Result<Reply> {
        self.reply_telling(server, prompt, length, seed, |_| {}).await
    }

    async fn reply_telling(
        &self,
        server: &dyn Server,
        prompt: &[u32],
        length: usize,
        seed: usize,
        on_token: impl FnMut(usize),
    ) -> anyhow::Result<Reply> {
        let question = server.question(prompt, length, seed as u32);
        ask(&self.client, &question.url, &question.body, question.has_text, on_token).await
    }

    /// Until the model is loaded and its weights are in memory.
    async fn warm_up(&mut self, server: &dyn Server) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let prompt = self.words.prompt(64);
            match self.reply(server, &prompt, 8, 0).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// One chat, then seven more with the same long beginning; when all are done, seven with longer questions.
    async fn one_system_prompt(&mut self, server: &dyn Server) -> anyhow::Result<Vec<Figure>> {
        let alone = self.words.prompt(SYSTEM_TOKENS + OWN_TOKENS);
        let alone = self.reply(server, &alone, REPLY_TOKENS, 1).await?;
        let system = self.words.prompt(SYSTEM_TOKENS);
        let prompts: Vec<Vec<u32>> =
            (0..CHATS).map(|_| [system.clone(), self.words.prompt(OWN_TOKENS)].concat()).collect();
        let started = Arc::new(Notify::new());
        let tell = Arc::clone(&started);
        let first = self.reply_telling(server, &prompts[0], 4 * REPLY_TOKENS, 1, move |count| {
            if count == 1 {
                tell.notify_one();
            }
        });
        let others = async {
            started.notified().await;
            let replies = prompts[1..].iter().enumerate();
            try_join_all(replies.map(|(i, p)| self.reply(server, p, 2 * REPLY_TOKENS, i + 2))).await
        };
        let (first, others) = tokio::try_join!(first, others)?;
        let mut later = Vec::new();
        for seed in 1..CHATS {
            let prompt = [system.clone(), self.words.prompt(OWN_TOKENS_MORE)].concat();
            later.push((prompt, seed + CHATS + 1));
        }
        let later = later.iter().map(|(prompt, seed)| self.reply(server, prompt, 8, *seed));
        let later = slowest_first(&try_join_all(later).await?);
        let slowest = slowest_first(&others);
        let all: Vec<&Reply> = std::iter::once(&first).chain(&others).collect();
        let together = rate_together(&all);
        Ok(vec![
            figure("one chat, 2,016 tokens before", "tokens/s", alone.rate()),
            figure(
                "8 chats with one system prompt of 2,000 tokens, together",
                "tokens/s",
                together,
            ),
            figure("the same, times one chat", "×", together / alone.rate()),
            figure("first token of the first of them", "s", first.first_seconds()),
            figure("first token of the slowest of seven at once", "s", slowest),
            figure("the same, of the first's", "%", 100.0 * slowest / first.first_seconds()),
            figure("the same with questions of 40 tokens", "s", later),
            figure("the same, of the first's", "%", 100.0 * later / first.first_seconds()),
        ])
    }

    /// Prompts of 800 tokens, alone and while two replies run, in turn; each of the latter is compared with those that were
    /// alone before and behind it.
    async fn long_prompts_arrive(&mut self, server: &dyn Server) -> anyhow::Result<Vec<Figure>> {
        let (mut alone, mut beside, mut more, mut gap) = (vec![], vec![], vec![], 0.0);
        alone.push(self.a_long_prompt_alone(server).await?);
        for pair in 0..LONG_PROMPTS {
            let (first, longest) = self.a_long_prompt_arrives(server).await?;
            let before = alone[pair];
            let behind = self.a_long_prompt_alone(server).await?;
            eprintln!("800 tokens: {before:.3} s alone, {first:.3} s beside, {behind:.3} s alone");
            more.push(100.0 * (first / before.midpoint(behind) - 1.0));
            alone.push(behind);
            beside.push(first);
            gap = longest.max(gap);
        }
        // Whole times vary less than their ratios do where the machine's speed changes between two prompts.
        let ends = alone[0].midpoint(alone[LONG_PROMPTS]);
        let by_itself = alone[1..LONG_PROMPTS].iter().sum::<f64>() + ends;
        let all = 100.0 * (beside.iter().sum::<f64>() / by_itself - 1.0);
        Ok(vec![
            figure("800 tokens alone: first token", "s", median(alone)),
            figure("800 tokens while two replies run: first token", "s", median(beside)),
            figure("the same, longer than alone", "%", median(more)),
            figure("the same, all of them together", "%", all),
            figure("longest wait of those two for a token, of all prompts", "s", gap),
        ])
    }

    async fn a_long_prompt_alone(&mut self, server: &dyn Server) -> anyhow::Result<f64> {
        let prompt = self.words.prompt(LONG_PROMPT);
        Ok(self.reply(server, &prompt, 2, 1).await?.first_seconds())
    }

    /// When the prompt's first token came, and the longest pause of the two replies meanwhile, which are then given up.
    async fn a_long_prompt_arrives(&mut self, server: &dyn Server) -> anyhow::Result<(f64, f64)> {
        let prompts = [self.words.prompt(32), self.words.prompt(32)];
        let long = self.words.prompt(LONG_PROMPT);
        let running = [Notify::new(), Notify::new()];
        let moments = [RefCell::new(Vec::new()), RefCell::new(Vec::new())];
        let replies = (0..2).map(|index| {
            let (tell, moments) = (&running[index], &moments[index]);
            self.reply_telling(
                server,
                &prompts[index],
                10 * REPLY_TOKENS,
                index + 1,
                move |count| {
                    moments.borrow_mut().push(Instant::now());
                    if count == 16 {
                        tell.notify_one();
                    }
                },
            )
        });
        let arrival = async {
            for running in &running {
                running.notified().await;
            }
            let from = Instant::now();
            anyhow::Ok((from, self.reply(server, &long, 2, 9).await?))
        };
        let (from, long) = tokio::select! {
            arrived = arrival => arrived?,
            ended = try_join_all(replies) => {
                ended?;
                bail!("the replies ended before the prompt was read");
            }
        };
        let gaps = moments.iter().map(|moments| longest_gap(&moments.borrow(), from));
        let gap = gaps.fold(0.0, f64::max);
        // Until their connections are found closed.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok((long.first_seconds(), gap))
    }

    /// Four chats come at once; nobody has seen the beginning that they share.
    async fn four_at_once(&mut self, server: &dyn Server) -> anyhow::Result<Vec<Figure>> {
        let shared = self.words.prompt(UNSEEN_SHARED);
        let prompts: Vec<Vec<u32>> =
            (0..4).map(|_| [shared.clone(), self.words.prompt(UNSEEN_OWN)].concat()).collect();
        let replies = prompts.iter().enumerate().map(|(i, p)| self.reply(server, p, 8, i + 1));
        let replies = try_join_all(replies).await?;
        let slowest = slowest_first(&replies);
        Ok(vec![figure(
            "four prompts of 316 tokens, 300 of them shared: slowest first token",
            "s",
            slowest,
        )])
    }

    /// Long conversations go on after the server was started again.
    async fn restarts(&mut self, server: &mut dyn Server) -> anyhow::Result<Vec<Figure>> {
        let (mut before, mut after, mut share) = (vec![], vec![], vec![]);
        for _ in 0..RESTARTS {
            let (first, again) = self.restart(server).await?;
            share.push(100.0 * again / first);
            before.push(first);
            after.push(again);
        }
        let most = share.iter().copied().fold(0.0, f64::max);
        Ok(vec![
            figure("2,000 tokens: first token", "s", median(before)),
            figure("the same and 40 more after a restart: first token", "s", median(after)),
            figure("the same, of the first's", "%", median(share)),
            figure("the most of them", "%", most),
        ])
    }

    async fn restart(&mut self, server: &mut dyn Server) -> anyhow::Result<(f64, f64)> {
        let prompt = self.words.prompt(SYSTEM_TOKENS);
        let before = self.reply(&*server, &prompt, 16, 1).await?;
        let again = [prompt, self.words.prompt(OWN_TOKENS_MORE)].concat();
        server.stop();
        server.start()?;
        wait_until_up(server)?;
        self.warm_up(&*server).await?;
        let after = self.reply(&*server, &again, 16, 1).await?;
        Ok((before.first_seconds(), after.first_seconds()))
    }
}

/// Tokens a second of all replies while all of them run.
fn rate_together(replies: &[&Reply]) -> f64 {
    let from = replies.iter().map(|reply| reply.tokens[0]).max();
    let to = replies.iter().map(|reply| reply.tokens[reply.tokens.len() - 1]).min();
    let (Some(from), Some(to)) = (from, to) else { return f64::NAN };
    let inside =
        |reply: &&Reply| reply.tokens.iter().filter(|at| **at > from && **at <= to).count();
    let tokens: usize = replies.iter().map(inside).sum();
    tokens as f64 / (to - from).as_secs_f64()
}

fn slowest_first(replies: &[Reply]) -> f64 {
    replies.iter().map(Reply::first_seconds).fold(0.0, f64::max)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn figure(what: &'static str, unit: &'static str, value: f64) -> Figure {
    Figure { what, unit, value }
}
