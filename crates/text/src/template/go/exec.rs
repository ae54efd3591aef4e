//! Runs a tree: walks its nodes and computes its pipelines, as Go's `text/template` does with `missingkey=zero`.
//!
//! A template is somebody else's program: its steps, its output, what its functions produce and its nesting are
//! limited. Messages are Go's, with the place and the source of what failed.

use std::fmt::Display;

use super::call::{Param, Signature};
use super::parse::Trees;
use super::print::{print, shown};
use super::sink::Sink;
use super::syntax::{Action, Branch, Call, Command, List, Node, Pipe, Term, TermKind};
use super::value::Value;
use super::{Failure, Functions, literal};

/// Each node and each part of an expression is one. Real templates need some hundred for a message. Price: a fifth of a second.
const STEPS_MAX: u64 = 3_000_000;

/// What functions may produce in all, in bytes. Bounds what variables can hold.
const PRODUCED_BYTES_MAX: usize = 64 << 20;

/// Of templates that use each other. Go's own limit is a hundred thousand. Price: stack.
const TEMPLATES_DEPTH_MAX: usize = 100;

/// Of everything: blocks, expressions and templates inside each other. Price: stack.
const DEPTH_MAX: usize = 1000;

pub(super) type Result<T> = std::result::Result<T, Failure>;

/// Where execution goes after a node.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// What messages point at.
#[derive(Clone, Copy)]
pub(super) struct At<'t> {
    pos: usize,
    what: &'t dyn Display,
}

pub(super) struct State<'t, 'o> {
    source: &'t str,
    trees: &'t Trees,
    functions: Functions,
    sink: &'o mut Sink,
    /// Of the template that runs.
    name: &'t str,
    variables: Vec<(&'t str, Value)>,
    at: Option<At<'t>>,
    templates: usize,
    depth: usize,
    steps: u64,
    produced: usize,
}

/// Runs the main tree.
pub(super) fn run(
    source: &str,
    trees: &Trees,
    root: &List,
    functions: Functions,
    data: Value,
    sink: &mut Sink,
) -> Result<()> {
    let mut state = State {
        source,
        trees,
        functions,
        sink,
        name: "",
        variables: vec![("$", data.clone())],
        at: None,
        templates: 0,
        depth: 0,
        steps: 0,
        produced: 0,
    };
    state.list(&data, root).map(|_| ())
}

impl<'t> At<'t> {
    pub(super) fn of(term: &'t Term) -> At<'t> {
        At { pos: term.pos, what: term }
    }
}

impl<'t> State<'t, '_> {
    pub(super) fn error<T>(&self, what: impl Display) -> Result<T> {
        let name = literal::quote(self.name.as_bytes());
        Err(Failure::Template(match self.at {
            None => format!("template: {}: {what}", self.name),
            Some(at) => {
                let before = &self.source[..at.pos.min(self.source.len())];
                let line = 1 + before.matches('\n').count();
                let column = before.rfind('\n').map_or(at.pos, |end| at.pos - end - 1);
                let shown = at.what;
                format!("template: :{line}:{column}: executing {name} at <{shown}>: {what}")
            }
        }))
    }

    pub(super) fn at_term(&mut self, term: &'t Term) {
        self.at = Some(At::of(term));
    }

    pub(super) fn at(&mut self, at: At<'t>) {
        self.at = Some(at);
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        match self.steps > STEPS_MAX {
            true => self.error(format!("it does not end within {STEPS_MAX} steps")),
            false => Ok(()),
        }
    }

    /// What a function has made counts, whether it is kept or not.
    pub(super) fn count_produced(&mut self, value: &Value) -> Result<()> {
        if let Value::Text(text) = value {
            self.produced += text.len();
        }
        match self.produced > PRODUCED_BYTES_MAX {
            true => Err(Failure::TooLarge { size: self.produced, limit: PRODUCED_BYTES_MAX }),
            false => Ok(()),
        }
    }

    fn deeper<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= DEPTH_MAX {
            return self.error("nested too deeply");
        }
        self.depth += 1;
        let done = part(self);
        self.depth -= 1;
        done
    }

    fn list(&mut self, dot: &Value, list: &'t List) -> Result<Flow> {
        for node in &list.nodes {
            let flow = self.node(dot, node)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, dot: &Value, node: &'t Node) -> Result<Flow> {
        self.step()?;
        match node {
            Node::Text(text) => self.write(text.as_bytes())?,
            Node::Action(action) => self.action(dot, action)?,
            Node::If(branch) => return self.deeper(|state| state.branch(dot, branch, false)),
            Node::With(branch) => return self.deeper(|state| state.branch(dot, branch, true)),
            Node::Range(branch) => return self.deeper(|state| state.range(dot, branch)),
            Node::Template(call) => self.deeper(|state| state.template(dot, call))?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.push(bytes);
        self.check_output()
    }

    fn check_output(&self) -> Result<()> {
        match self.sink.refused {
            Some(size) => Err(Failure::TooLarge { size, limit: super::OUTPUT_BYTES_MAX }),
            None => Ok(()),
        }
    }

    fn action(&mut self, dot: &Value, action: &'t Action) -> Result<()> {
        let value = self.pipe(dot, &action.pipe)?;
        if !action.pipe.variables.is_empty() {
            return Ok(());
        }
        self.at(At { pos: action.pos, what: action });
        match printable(&value) {
            Some(value) => print(self.sink, &[value]),
            None => {
                return self.error(format!("can't print {action} of type {}", value.type_text()));
            }
        }
        self.check_output()
    }

    fn branch(&mut self, dot: &Value, branch: &'t Branch, with: bool) -> Result<Flow> {
        let mark = self.variables.len();
        let value = self.pipe(dot, &branch.pipe)?;
        let flow = match (value.bare().is_true(), &branch.otherwise) {
            (true, _) if with => self.list(&value, &branch.list),
            (true, _) => self.list(dot, &branch.list),
            (false, Some(otherwise)) => self.list(dot, otherwise),
            (false, None) => Ok(Flow::On),
        };
        self.variables.truncate(mark);
        flow
    }

    fn range(&mut self, dot: &Value, branch: &'t Branch) -> Result<Flow> {
        let mark = self.variables.len();
        let (value, is_nil) = self.pipe(dot, &branch.pipe)?.target();
        let rounds = self.rounds(&value, is_nil, branch)?;
        let flow = match rounds {
            Some(()) => Flow::On,
            None => match &branch.otherwise {
                Some(otherwise) => self.list(dot, otherwise)?,
                None => Flow::On,
            },
        };
        self.variables.truncate(mark);
        Ok(if flow == Flow::Break { Flow::On } else { flow })
    }

    /// `None`: there was nothing to go through.
    fn rounds(&mut self, value: &Value, is_nil: bool, branch: &'t Branch) -> Result<Option<()>> {
        let count = match value {
            Value::Int(_) | Value::Byte(_) if branch.pipe.variables.len() > 1 => {
                let value = shown(value, 'v');
                return self
                    .error(format!("can't use {value} to iterate over more than one variable"));
            }
            Value::Int(number) => usize::try_from(*number).unwrap_or(0),
            Value::Byte(number) => usize::from(*number),
            Value::Slice(slice) => slice.items().len(),
            Value::Map(map) => map.len(),
            Value::Pairs(pairs) => pairs.len(),
            Value::Invalid => 0,
            other if is_nil || !matches!(other, Value::Invalid) => {
                return self.error(format!("range can't iterate over {}", shown(other, 'v')));
            }
            _ => 0,
        };
        let mut entries = match value {
            Value::Map(map) => map.entries.as_ref().map(|entries| entries.iter()),
            _ => None,
        };
        for index in 0..count {
            let (key, item) = match value {
                Value::Slice(slice) => (Value::Int(index as i64), slice.items()[index].clone()),
                Value::Pairs(pairs) if branch.pipe.variables.len() > 1 => pairs[index].clone(),
                Value::Pairs(pairs) => (Value::Invalid, pairs[index].0.clone()),
                Value::Byte(_) => (Value::Invalid, Value::Byte(index as u8)),
                Value::Int(_) => (Value::Invalid, Value::Int(index as i64)),
                _ => match entries.as_mut().and_then(Iterator::next) {
                    Some((key, item)) => (Value::Text(key.clone()), item.clone()),
                    None => break,
                },
            };
            if self.round(key, item, branch)? == Flow::Break {
                break;
            }
        }
        Ok((count > 0).then_some(()))
    }

    fn round(&mut self, key: Value, item: Value, branch: &'t Branch) -> Result<Flow> {
        self.step()?;
        let mark = self.variables.len();
        let names = &branch.pipe.variables;
        let mut values = vec![item.clone()];
        if names.len() > 1 {
            values.insert(0, key);
        }
        for (at, (name, value)) in names.iter().zip(values).enumerate() {
            match branch.pipe.assigns {
                true => self.set(name, value)?,
                false => self.variables[mark - names.len() + at].1 = value,
            }
        }
        let flow = self.list(&item, &branch.list);
        self.variables.truncate(mark);
        flow
    }

    fn template(&mut self, dot: &Value, call: &'t Call) -> Result<()> {
        self.at(At { pos: call.pos, what: call });
        let Some((name, tree)) = self.trees.get_key_value(&call.name) else {
            let name = literal::quote(call.name.as_bytes());
            return self.error(format!("template {name} not defined"));
        };
        if self.templates >= TEMPLATES_DEPTH_MAX {
            return self.error(format!("exceeded maximum template depth ({TEMPLATES_DEPTH_MAX})"));
        }
        let dot = match &call.pipe {
            Some(pipe) => self.pipe(dot, pipe)?,
            None => Value::Invalid,
        };
        let outer_name = std::mem::replace(&mut self.name, name);
        let outer = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        self.templates += 1;
        self.list(&dot, tree)?;
        self.templates -= 1;
        self.variables = outer;
        self.name = outer_name;
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value) -> Result<()> {
        match self.variables.iter_mut().rev().find(|(known, _)| *known == name) {
            Some((_, old)) => {
                *old = value;
                Ok(())
            }
            None => self.error(format!("undefined variable: {name}")),
        }
    }

    pub(super) fn pipe(&mut self, dot: &Value, pipe: &'t Pipe) -> Result<Value> {
        self.deeper(|state| state.pipe_inside(dot, pipe))
    }

    fn pipe_inside(&mut self, dot: &Value, pipe: &'t Pipe) -> Result<Value> {
        self.at(At { pos: pipe.pos, what: pipe });
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(dot, command, value)?.bare_any());
        }
        let value = value.unwrap_or(Value::Invalid);
        for name in &pipe.variables {
            match pipe.assigns {
                true => self.set(name, value.clone())?,
                false => self.variables.push((name, value.clone())),
            }
        }
        Ok(value)
    }

    /// `last` comes through the pipe and is the command's last argument.
    fn command(&mut self, dot: &Value, command: &'t Command, last: Option<Value>) -> Result<Value> {
        self.step()?;
        let Some((first, args)) = command.terms.split_first() else { return Ok(Value::Invalid) };
        let at = At { pos: command.pos, what: command };
        match &first.kind {
            TermKind::Field(names) => {
                self.at_term(first);
                return self.fields(dot, dot.clone(), names, args, last);
            }
            TermKind::Chain(inside, names) => {
                return self.chain(dot, first, inside, names, args, last);
            }
            TermKind::Identifier(name) => return self.function(dot, first, at, name, args, last),
            TermKind::Pipe(pipe) => {
                self.not_a_function(first, args, &last)?;
                return self.pipe(dot, pipe);
            }
            TermKind::Variable(names) => return self.variable(dot, first, names, args, last),
            _ => {}
        }
        self.at_term(first);
        self.not_a_function(first, args, &last)?;
        match &first.kind {
            TermKind::Dot => Ok(dot.clone()),
            TermKind::Nil => self.error("nil is not a command"),
            _ => self.constant(first),
        }
    }

    /// A literal: what has no type yet gets the natural one.
    pub(super) fn constant(&mut self, term: &'t Term) -> Result<Value> {
        self.at_term(term);
        match &term.kind {
            TermKind::Bool(flag) => Ok(Value::Bool(*flag)),
            TermKind::Text { value, .. } => Ok(Value::text(value)),
            TermKind::Number(number) => {
                let text = number.text.as_str();
                let hex = text.len() > 2
                    && (text.starts_with("0x") || text.starts_with("0X"))
                    && !text.contains(['p', 'P']);
                let floats =
                    text.contains(['.', 'e', 'E', 'p', 'P']) && !hex && !text.starts_with('\'');
                match (number.complex, number.float, number.int) {
                    (Some((real, imaginary)), _, _) => Ok(Value::Complex(real, imaginary)),
                    (None, Some(float), _) if floats => Ok(Value::Float(float)),
                    (None, _, Some(int)) => Ok(Value::Int(int)),
                    (None, _, None) => self.error(format!("{text} overflows int")),
                }
            }
            _ => {
                self.error(format!("can't handle assignment of {term} to empty interface argument"))
            }
        }
    }

    fn not_a_function(&self, first: &Term, args: &[Term], last: &Option<Value>) -> Result<()> {
        match args.is_empty() && last.is_none() {
            true => Ok(()),
            false => match &first.kind {
                TermKind::Pipe(pipe) => {
                    self.error(format!("can't give argument to non-function {pipe}"))
                }
                _ => self.error(format!("can't give argument to non-function {first}")),
            },
        }
    }

    pub(super) fn variable(
        &mut self,
        dot: &Value,
        term: &'t Term,
        names: &'t [String],
        args: &'t [Term],
        last: Option<Value>,
    ) -> Result<Value> {
        self.at_term(term);
        let Some((name, fields)) = names.split_first() else { return Ok(Value::Invalid) };
        let known = self.variables.iter().rev().find(|(known, _)| known == name);
        let Some((_, value)) = known else {
            return self.error(format!("undefined variable: {name}"));
        };
        let value = value.clone();
        if fields.is_empty() {
            self.not_a_function(term, args, &last)?;
            return Ok(value);
        }
        self.fields(dot, value, fields, args, last)
    }

    pub(super) fn chain(
        &mut self,
        dot: &Value,
        term: &'t Term,
        inside: &'t Term,
        names: &'t [String],
        args: &'t [Term],
        last: Option<Value>,
    ) -> Result<Value> {
        self.at_term(term);
        if matches!(inside.kind, TermKind::Nil) {
            return self.error(format!("indirection through explicit nil in {term}"));
        }
        let value = self.arg(dot, None, inside)?;
        self.fields(dot, value, names, args, last)
    }

    pub(super) fn fields(
        &mut self,
        dot: &Value,
        mut value: Value,
        names: &'t [String],
        args: &'t [Term],
        mut last: Option<Value>,
    ) -> Result<Value> {
        for (index, name) in names.iter().enumerate() {
            let is_last = index + 1 == names.len();
            let (args, last) = if is_last { (args, last.take()) } else { (&[][..], None) };
            value = self.field(dot, value, name, args, last)?;
        }
        Ok(value)
    }

    fn field(
        &mut self,
        dot: &Value,
        receiver: Value,
        name: &'t str,
        args: &'t [Term],
        last: Option<Value>,
    ) -> Result<Value> {
        if let Value::Invalid = receiver {
            return Ok(Value::Invalid);
        }
        let (target, is_nil) = receiver.target();
        if let Value::Interface(_) = target {
            let ty = receiver.type_text();
            return self.error(format!("nil pointer evaluating {ty}.{name}"));
        }
        if let Some((_, method)) = target.methods().iter().find(|(known, _)| *known == name) {
            let signature = Signature { fixed: &[], rest: None };
            self.args(dot, name, &signature, args, last)?;
            return Ok(method(&target));
        }
        let has_args = !args.is_empty() || last.is_some();
        match &target {
            Value::Struct(_) => {
                if let Some((field, value)) = target.field(name) {
                    return match (field.public, has_args) {
                        (false, _) => {
                            let ty = receiver.type_text();
                            self.error(format!("{name} is an unexported field of struct type {ty}"))
                        }
                        (true, true) => self.error(format!(
                            "{name} has arguments but cannot be invoked as function"
                        )),
                        (true, false) => Ok(value.clone()),
                    };
                }
            }
            Value::Map(_) if has_args => {
                return self.error(format!("{name} is not a method but has arguments"));
            }
            Value::Map(map) => {
                let entry = map.get(name.as_bytes()).cloned();
                return Ok(entry.unwrap_or_else(|| map.ty.item().zero()));
            }
            Value::Pointer(to, _) if is_nil && to.has_field(name) => {
                return self
                    .error(format!("nil pointer evaluating {}.{name}", receiver.type_text()));
            }
            _ => {}
        }
        self.error(format!("can't evaluate field {name} in type {}", receiver.type_text()))
    }

    pub(super) fn function(
        &mut self,
        dot: &Value,
        term: &'t Term,
        at: At<'t>,
        name: &'t str,
        args: &'t [Term],
        last: Option<Value>,
    ) -> Result<Value> {
        self.at_term(term);
        match name {
            "and" => return self.logic(dot, name, args, last, false),
            "or" => return self.logic(dot, name, args, last, true),
            "call" => return self.call(dot, at, args, last),
            _ => {}
        }
        let own = self.functions.iter().find(|function| function.name == name);
        let Some(function) = own.or_else(|| super::builtin::find(name)) else {
            let name = literal::quote(name.as_bytes());
            return self.error(format!("{name} is not a defined function"));
        };
        let values = self.args(dot, name, &function.signature, args, last)?;
        match (function.run)(&values) {
            Ok(value) => {
                self.count_produced(&value)?;
                Ok(value)
            }
            Err(why) => {
                self.at(at);
                self.error(format!("error calling {name}: {why}"))
            }
        }
    }

    /// Nothing that templates see can be called.
    fn call(
        &mut self,
        dot: &Value,
        at: At<'t>,
        args: &'t [Term],
        last: Option<Value>,
    ) -> Result<Value> {
        let what = match (args.first().map(|term| &term.kind), &last) {
            (Some(TermKind::Pipe(pipe)), _) => pipe.to_string(),
            (Some(_), _) => args[0].to_string(),
            (None, Some(Value::Text(text))) => String::from_utf8_lossy(text).into_owned(),
            (None, Some(value)) => format!("<{} Value>", value.type_text()),
            (None, None) => String::new(),
        };
        let signature = Signature { fixed: &[Param::Value], rest: Some(Param::Value) };
        let values = self.args(dot, "call", &signature, args, last)?;
        self.at(at);
        match values[0].bare() {
            Value::Invalid => self.error("error calling call: call of nil"),
            value => {
                let ty = value.type_text();
                self.error(format!("error calling call: non-function {what} of type {ty}"))
            }
        }
    }

    /// Stops at the first argument that decides.
    fn logic(
        &mut self,
        dot: &Value,
        name: &str,
        args: &'t [Term],
        last: Option<Value>,
        decides: bool,
    ) -> Result<Value> {
        if args.is_empty() && last.is_none() {
            return self.error(format!("wrong number of args for {name}: want at least 1 got 0"));
        }
        let mut value = Value::Invalid;
        for arg in args {
            value = self.arg(dot, Some(Param::Value), arg)?;
            if value.bare().is_true() == decides {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }
}

/// What is written for a value; `None` for what cannot be.
pub(super) fn printable(value: &Value) -> Option<Value> {
    let value = match value {
        Value::Pointer(..) => value.target().0,
        other => other.clone(),
    };
    match value {
        Value::Invalid => Some(Value::text("<no value>")),
        Value::Pairs(_) => None,
        other => Some(other),
    }
}

impl Value {
    /// After each stage of a pipe interfaces are gone.
    fn bare_any(self) -> Value {
        if let Value::Interface(_) = self { self.bare() } else { self }
    }
}

impl super::value::Type {
    /// For nil pointers: whether the missing struct would have it, or is none.
    fn has_field(&self, name: &str) -> bool {
        match self {
            super::value::Type::Struct(shape) => shape.fields.iter().any(|f| f.name == name),
            _ => true,
        }
    }
}
