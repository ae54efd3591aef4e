//! Arguments of functions: how many, of which types, and how terms become them.

use super::exec::{At, Result, State};
use super::syntax::{Term, TermKind};
use super::value::Value;

/// What a function takes.
pub(in crate::template) struct Signature {
    pub fixed: &'static [Param],
    /// Of any more arguments.
    pub rest: Option<Param>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::template) enum Param {
    /// Anything as it is, no value too.
    Value,
    /// Anything; no value becomes nil.
    Any,
    Text,
}

impl Param {
    fn name(self) -> &'static str {
        match self {
            Param::Value => "reflect.Value",
            Param::Any => "interface {}",
            Param::Text => "string",
        }
    }
}

impl Signature {
    fn param(&self, index: usize) -> Option<Param> {
        self.fixed.get(index).copied().or(self.rest)
    }
}

impl<'t> State<'t, '_> {
    pub(super) fn args(
        &mut self,
        dot: &Value,
        name: &str,
        signature: &Signature,
        args: &'t [Term],
        last: Option<Value>,
    ) -> Result<Vec<Value>> {
        let count = args.len() + usize::from(last.is_some());
        let fixed = signature.fixed.len();
        let start = format!("wrong number of args for {name}: want");
        if signature.rest.is_some() && count < fixed {
            return self.error(format!("{start} at least {fixed} got {}", args.len()));
        }
        if signature.rest.is_none() && count != fixed {
            return self.error(format!("{start} {fixed} got {count}"));
        }
        let mut values = Vec::with_capacity(count);
        for (index, arg) in args.iter().enumerate() {
            values.push(self.arg(dot, signature.param(index), arg)?);
        }
        if let Some(last) = last {
            values.push(self.fitted(last, signature.param(args.len()))?);
        }
        Ok(values)
    }

    /// A term as an argument; without a parameter anything fits.
    pub(super) fn arg(
        &mut self,
        dot: &Value,
        param: Option<Param>,
        term: &'t Term,
    ) -> Result<Value> {
        self.at_term(term);
        let value = match &term.kind {
            TermKind::Dot => dot.clone(),
            TermKind::Nil => {
                return match param {
                    Some(Param::Value) => Ok(Value::Invalid),
                    Some(Param::Any) => Ok(Value::Interface(None)),
                    Some(Param::Text) => self.error("cannot assign nil to string"),
                    None => self.error("cannot assign nil to interface {}"),
                };
            }
            TermKind::Field(names) => self.fields(dot, dot.clone(), names, &[], None)?,
            TermKind::Variable(names) => self.variable(dot, term, names, &[], None)?,
            TermKind::Pipe(pipe) => self.pipe(dot, pipe)?,
            TermKind::Identifier(name) => {
                self.function(dot, term, At::of(term), name, &[], None)?
            }
            TermKind::Chain(inside, names) => self.chain(dot, term, inside, names, &[], None)?,
            TermKind::Bool(_) | TermKind::Number(_) | TermKind::Text { .. } => {
                return match (param, &term.kind) {
                    (Some(Param::Text), TermKind::Text { value, .. }) => Ok(Value::text(value)),
                    (Some(Param::Text), _) => self.error(format!("expected string; found {term}")),
                    _ => self.constant(term),
                };
            }
        };
        self.fitted(value, param)
    }

    fn fitted(&self, value: Value, param: Option<Param>) -> Result<Value> {
        let fits = match (param, &value) {
            (None | Some(Param::Value), _) => return Ok(value),
            (Some(Param::Any), Value::Invalid) => return Ok(Value::Interface(None)),
            (Some(Param::Any), _) => return Ok(value),
            (Some(Param::Text), Value::Invalid) => {
                return self.error("invalid value; expected string");
            }
            (Some(Param::Text), Value::Interface(Some(inside))) => (**inside).clone(),
            (Some(Param::Text), _) => value,
        };
        match fits {
            Value::Text(_) => Ok(fits),
            other => {
                let (want, got) = (Param::Text.name(), other.type_text());
                self.error(format!("wrong type for value; expected {want}; got {got}"))
            }
        }
    }
}
