//! A request's numbers that Python writes with an exponent (below 1e-4, from 1e16 on) and our engine does not, wherever they
//! are joined to a text: values of their own that are written as Python writes them.
//!
//! They are numbers for tests and for JSON. Nothing can be computed with them; no template does with a schema's limits.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Object, ObjectRepr};

use super::python::float;

struct Scientific(f64);

impl fmt::Debug for Scientific {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&float(self.0))
    }
}

impl Object for Scientific {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A float as a template's value.
pub(super) fn number(number: f64) -> Value {
    match float(number).contains('e') {
        true => Value::from_object(Scientific(number)),
        false => Value::from(number),
    }
}

/// As JSON and Python alike have it, if it is one.
pub(super) fn written(value: &Value) -> Option<String> {
    value.downcast_object_ref::<Scientific>().map(|number| float(number.0))
}

pub(super) fn is_number(value: &Value) -> bool {
    value.is_number() || written(value).is_some()
}

pub(super) fn is_float(value: &Value) -> bool {
    (value.is_number() && !value.is_integer()) || written(value).is_some()
}
