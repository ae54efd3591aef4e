//! Go's `text/template`: what a Modelfile's TEMPLATE is written in.
//!
//! A language engine and nothing else: it knows no conversation and no model. What it writes, and what it says when
//! something is wrong, is what Go's own engine writes and says, byte for byte (`tests/reference/go`), with
//! `missingkey=zero`. Values and types are Go's too, as printing and messages show them. A template is somebody else's
//! program: its size, its nesting, its steps and all that it makes are limited.

mod builtin;
mod call;
mod compare;
pub(crate) mod encode;
mod escape;
mod exec;
pub(crate) mod float;
mod lex;
pub(crate) mod literal;
mod parse;
mod print;
mod sink;
pub(super) mod syntax;
pub(super) mod value;

use std::collections::BTreeMap;

pub(super) use self::call::{Param, Signature};
use self::sink::Sink;
use self::syntax::List;
use self::value::Value;
use crate::tokenizer::TEXT_BYTES_MAX;

/// The largest that are used have about 10 KB.
const SOURCE_BYTES_MAX: usize = 256 << 10;

const OUTPUT_BYTES_MAX: usize = TEXT_BYTES_MAX;

/// A function that templates may call.
pub(super) struct Function {
    pub name: &'static str,
    pub signature: Signature,
    /// Gets as many arguments as the signature says. An error is what is wrong with them.
    pub run: fn(&[Value]) -> Result<Value, String>,
}

/// What an engine's user adds to the functions that every template has.
pub(super) type Functions = &'static [Function];

/// Why there is no output.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// In Go's words.
    Template(String),
    TooLarge {
        size: usize,
        limit: usize,
    },
}

#[derive(Clone)]
pub(super) struct Program {
    source: String,
    /// By name; the main one has none.
    pub trees: BTreeMap<String, List>,
    functions: Functions,
}

impl Program {
    /// Errors are Go's words, with the line.
    pub(super) fn parse(source: &str, functions: Functions) -> Result<Program, String> {
        if source.len() > SOURCE_BYTES_MAX {
            let size = source.len();
            return Err(format!(
                "template: a source of {size} bytes is over the limit of {SOURCE_BYTES_MAX}"
            ));
        }
        let own = functions.iter().map(|function| function.name);
        let known: Vec<&str> = builtin::NAMES.iter().copied().chain(own).collect();
        let trees = parse::parse(source, &known)?;
        Ok(Program { source: source.to_owned(), trees, functions })
    }

    pub(super) fn root(&self) -> Option<&List> {
        self.trees.get("")
    }

    pub(super) fn run(&self, data: Value) -> Result<Vec<u8>, Failure> {
        match self.root() {
            Some(root) => self.run_tree(root, data),
            None => Ok(Vec::new()),
        }
    }

    /// Another main tree, made of this one's.
    pub(super) fn run_tree(&self, root: &List, data: Value) -> Result<Vec<u8>, Failure> {
        let mut sink = Sink::new(OUTPUT_BYTES_MAX);
        exec::run(&self.source, &self.trees, root, self.functions, data, &mut sink)?;
        Ok(sink.bytes)
    }
}

#[cfg(test)]
mod tests;
