//! What is played, and what is read off it.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use futures::future::try_join_all;
use tokio::sync::Notify;

use super::client::{Reply, ask};
use super::server::{Server, wait_until_up};

pub struct Figure {
    pub what: &'static str,
    pub unit: &'static str,
    pub value: f64,
}

const CHATS: usize = 8;
const SYSTEM_TOKENS: usize = 2000;
/// A short question behind the system prompt, and a longer one.
const OWN_TOKENS: usize = 16;
const OWN_TOKENS_MORE: usize = 40;
const REPLY_TOKENS: usize = 64;
const LONG_PROMPT: usize = 800;
const UNSEEN_SHARED: usize = 300;
const UNSEEN_OWN: usize = 16;

/// All scenes on a fresh server.
pub async fn play(
    server: &mut dyn Server,
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
    figures
        .extend(stage.one_system_prompt(&*server).await.context("chats with one system prompt")?);
    figures.extend(stage.a_long_prompt_arrives(&*server).await.context("a long prompt arrives")?);
    figures.extend(stage.four_at_once(&*server).await.context("four at once")?);
    figures.extend(stage.restart(server).await.context("restart")?);
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
        let until = Instant::now() + std::time::Duration::from_secs(120);
        loop {
            let prompt = self.words.prompt(64);
            match self.reply(server, &prompt, 8, 0).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
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

    /// Two replies run; a prompt of 800 tokens comes.
    async fn a_long_prompt_arrives(&mut self, server: &dyn Server) -> anyhow::Result<Vec<Figure>> {
        let alone = self.words.prompt(LONG_PROMPT);
        let alone = self.reply(server, &alone, 2, 1).await?;
        let prompts = [self.words.prompt(32), self.words.prompt(32)];
        let long = self.words.prompt(LONG_PROMPT);
        let running = Arc::new(Notify::new());
        let replies = prompts.iter().enumerate().map(|(i, prompt)| {
            let tell = Arc::clone(&running);
            self.reply_telling(server, prompt, 5 * REPLY_TOKENS, i + 1, move |count| {
                if count == 16 {
                    tell.notify_one();
                }
            })
        });
        let arrival = async {
            running.notified().await;
            let from = Instant::now();
            anyhow::Ok((from, self.reply(server, &long, 2, 9).await?))
        };
        let (replies, (from, long)) = tokio::try_join!(try_join_all(replies), arrival)?;
        let gap = replies.iter().map(|reply| reply.longest_gap(from)).fold(0.0, f64::max);
        Ok(vec![
            figure("800 tokens alone: first token", "s", alone.first_seconds()),
            figure("800 tokens while two replies run: first token", "s", long.first_seconds()),
            figure("longest wait of those two for a token", "s", gap),
        ])
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

    /// A long conversation goes on after the server was started again.
    async fn restart(&mut self, server: &mut dyn Server) -> anyhow::Result<Vec<Figure>> {
        let prompt = self.words.prompt(SYSTEM_TOKENS);
        let before = self.reply(&*server, &prompt, 16, 1).await?;
        let again = [prompt, self.words.prompt(OWN_TOKENS_MORE)].concat();
        server.stop();
        server.start()?;
        wait_until_up(server)?;
        self.warm_up(&*server).await?;
        let after = self.reply(&*server, &again, 16, 1).await?;
        Ok(vec![
            figure("2,000 tokens: first token", "s", before.first_seconds()),
            figure("the same and 40 more after a restart: first token", "s", after.first_seconds()),
            figure(
                "the same, of the first's",
                "%",
                100.0 * after.first_seconds() / before.first_seconds(),
            ),
        ])
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

fn figure(what: &'static str, unit: &'static str, value: f64) -> Figure {
    Figure { what, unit, value }
}
