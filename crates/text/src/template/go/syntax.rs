//! The tree of a Go template. Its parts know their place and write themselves as Go does, for messages.

use std::fmt::{self, Display, Formatter};

use super::literal::{Number, quote};

#[derive(Clone, Debug, Default)]
pub(in crate::template) struct List {
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(in crate::template) enum Node {
    Text(String),
    Action(Action),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template(Call),
    Break,
    Continue,
}

#[derive(Clone, Debug)]
pub(in crate::template) struct Action {
    pub pos: usize,
    pub pipe: Pipe,
}

#[derive(Clone, Debug)]
pub(in crate::template) struct Branch {
    pub pipe: Pipe,
    pub list: List,
    pub otherwise: Option<List>,
}

/// `{{ template "name" pipe }}`
#[derive(Clone, Debug)]
pub(in crate::template) struct Call {
    pub pos: usize,
    pub name: String,
    pub pipe: Option<Pipe>,
}

#[derive(Clone, Debug, Default)]
pub(in crate::template) struct Pipe {
    pub pos: usize,
    /// Variables, with their `$`, that get the value: set if `assigns`, else made.
    pub variables: Vec<String>,
    pub assigns: bool,
    pub commands: Vec<Command>,
}

#[derive(Clone, Debug)]
pub(in crate::template) struct Command {
    pub pos: usize,
    /// Never empty.
    pub terms: Vec<Term>,
}

#[derive(Clone, Debug)]
pub(in crate::template) struct Term {
    pub pos: usize,
    pub kind: TermKind,
}

#[derive(Clone, Debug)]
pub(in crate::template) enum TermKind {
    /// `.A.B`, never empty.
    Field(Vec<String>),
    /// `$x.A.B`: the name with its `$`, then the fields.
    Variable(Vec<String>),
    /// `(…).A.B` and `f.A`
    Chain(Box<Term>, Vec<String>),
    Identifier(String),
    Dot,
    Nil,
    Bool(bool),
    Number(Number),
    Text {
        literal: String,
        value: Vec<u8>,
    },
    Pipe(Pipe),
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{{{{{}}}}}", self.pipe)
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{{{{template {}", quote(self.name.as_bytes()))?;
        if let Some(pipe) = &self.pipe {
            write!(f, " {pipe}")?;
        }
        f.write_str("}}")
    }
}

impl Display for Pipe {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            let sign = if self.assigns { "=" } else { ":=" };
            write!(f, "{} {sign} ", self.variables.join(", "))?;
        }
        joined(f, &self.commands, " | ")
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        joined(f, &self.terms, " ")
    }
}

impl Display for Term {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            TermKind::Field(names) => write!(f, ".{}", names.join(".")),
            TermKind::Variable(names) => f.write_str(&names.join(".")),
            TermKind::Chain(term, names) => write!(f, "{term}.{}", names.join(".")),
            TermKind::Identifier(name) => f.write_str(name),
            TermKind::Dot => f.write_str("."),
            TermKind::Nil => f.write_str("nil"),
            TermKind::Bool(flag) => write!(f, "{flag}"),
            TermKind::Number(number) => f.write_str(&number.text),
            TermKind::Text { literal, .. } => f.write_str(literal),
            TermKind::Pipe(pipe) => write!(f, "({pipe})"),
        }
    }
}

fn joined<T: Display>(f: &mut Formatter<'_>, parts: &[T], between: &str) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write!(f, "{part}")?;
    }
    Ok(())
}

impl List {
    /// Nothing but blanks: may be replaced by another definition of the same name.
    pub(super) fn is_blank(&self) -> bool {
        self.nodes.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
    }
}
