//! The walk through a schema: references are resolved, drafts made one, and each keyword handed to its rule.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::{finite, keywords, numbers};
use crate::constraint::{formats, pattern};
use crate::{Error, Result};

/// A schema in bytes. Price: its grammar takes some 50 times as much.
const SCHEMA_BYTES_MAX: usize = 256 << 10;

/// Schemas within schemas.
const DEPTH_MAX: usize = 64;

/// All schemas read, those that are written once and inlined twice counted twice.
const SCHEMAS_MAX: usize = 20_000;

pub(crate) type Fields = Map<String, Value>;

/// The schema without what says nothing, with all definitions in its `$defs`.
pub(crate) fn read(given: &Value) -> Result<Value> {
    let size = given.to_string().len();
    if size > SCHEMA_BYTES_MAX {
        return Err(Error::TooLarge { what: "a schema in bytes", size, limit: SCHEMA_BYTES_MAX });
    }
    let mut reader = Reader::new(given);
    let root = reader.schema(given, 0)?;
    let definitions = reader.definitions()?;
    numbers::check_multiples(&reader.multiples)?;
    let (root, definitions) = finite::prune(root, definitions);
    match root {
        Value::Bool(false) => Err(Error::format("no value fits the schema")),
        Value::Bool(true) => Ok(json!({})),
        Value::Object(mut fields) => {
            if !definitions.is_empty() {
                fields.insert("$defs".to_owned(), Value::Object(definitions));
            }
            Ok(Value::Object(fields))
        }
        other => Ok(other),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Draft {
    Four,
    Six,
    Seven,
    Of2019,
    Of2020,
}

pub(super) struct Reader<'a> {
    root: &'a Value,
    pub draft: Draft,
    /// Definitions by the pointer to them, and those of them that are still to be read.
    names: HashMap<String, String>,
    waiting: Vec<(String, &'a Value)>,
    count: usize,
    /// Values of `multipleOf`.
    multiples: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Value) -> Reader<'a> {
        Reader {
            root,
            draft: draft(root),
            names: HashMap::new(),
            waiting: Vec::new(),
            count: 0,
            multiples: BTreeSet::new(),
        }
    }

    fn definitions(&mut self) -> Result<Fields> {
        let mut definitions = Fields::new();
        while let Some((name, schema)) = self.waiting.pop() {
            let read = self.schema(schema, 0)?;
            definitions.insert(name, read);
        }
        Ok(definitions)
    }

    pub fn schema(&mut self, given: &'a Value, depth: usize) -> Result<Value> {
        self.count += 1;
        if depth > DEPTH_MAX || self.count > SCHEMAS_MAX {
            let (what, size, limit) = match depth > DEPTH_MAX {
                true => ("a schema's depth", depth, DEPTH_MAX),
                false => ("a schema's number of parts", self.count, SCHEMAS_MAX),
            };
            return Err(Error::TooLarge { what, size, limit });
        }
        match given {
            Value::Bool(_) => Ok(given.clone()),
            Value::Object(fields) => self.object(fields, depth + 1),
            other => Err(Error::format(format!(
                "a schema is an object or a boolean, not `{}`",
                short(other)
            ))),
        }
    }

    fn object(&mut self, fields: &'a Fields, depth: usize) -> Result<Value> {
        if let (Some(reference), true) = (fields.get("$ref"), self.draft <= Draft::Seven) {
            // What stands beside it says nothing in the old drafts.
            return self.reference(reference);
        }
        let mut out = Fields::new();
        let mut all = Vec::new();
        for (name, value) in fields {
            self.keyword(name, value, fields, &mut Out { fields: &mut out, all: &mut all }, depth)?;
        }
        numbers::bound(&mut out);
        check_counts(&out)?;
        if !all.is_empty() {
            out.insert("allOf".to_owned(), Value::Array(all));
        }
        if fields.get("nullable") == Some(&Value::Bool(true)) {
            return Ok(json!({"anyOf": [{"type": "null"}, out]}));
        }
        Ok(if out.is_empty() { Value::Bool(true) } else { Value::Object(out) })
    }

    fn keyword(
        &mut self,
        name: &str,
        value: &'a Value,
        siblings: &'a Fields,
        out: &mut Out<'_>,
        depth: usize,
    ) -> Result<()> {
        let mut keep = |value: Value| {
            out.fields.insert(name.to_owned(), value);
        };
        match name {
            "type" => keep(keywords::types(value)?),
            "enum" | "const" => keep(keywords::constant(name, value)?),
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
            | "maxProperties" => keep(keywords::count(name, value)?),
            "required" => keep(keywords::names(name, value)?),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                numbers::keyword(name, value, siblings, out.fields)?;
                let is_multiple = name == "multipleOf";
                self.multiples.extend(is_multiple.then(|| value.to_string()));
            }
            "pattern" => keep(pattern::ecma(keywords::text(name, value)?)?.into()),
            "format" => out.all.extend(formats::schema(keywords::text(name, value)?)?),
            "properties" => keep(self.map(name, value, depth)?),
            "patternProperties" => keep(self.patterns(value, depth)?),
            "additionalProperties" => keep(self.schema(value, depth)?),
            "items" | "prefixItems" | "additionalItems" => {
                self.items(name, value, siblings, out.fields, depth)?;
            }
            "anyOf" => keep(self.list(name, value, depth)?),
            "oneOf" => out.all.push(self.one_of(value, depth)?),
            "allOf" => out.all.extend(keywords::list(&self.list(name, value, depth)?)),
            "$ref" => out.all.push(self.reference(value)?),
            _ => {
                let is_root =
                    self.root.as_object().is_some_and(|root| std::ptr::eq(root, siblings));
                keywords::refuse(name, value, siblings, is_root)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, name: &str, value: &'a Value, depth: usize) -> Result<Value> {
        let list = keywords::array(name, value)?;
        list.iter().map(|item| self.schema(item, depth)).collect()
    }

    fn map(&mut self, name: &str, value: &'a Value, depth: usize) -> Result<Value> {
        let read = keywords::object(name, value)?.iter().map(|(key, schema)| {
            let schema = self.schema(schema, depth).map_err(|error| within(key, error))?;
            Ok((key.clone(), schema))
        });
        read.collect::<Result<Fields>>().map(Value::Object)
    }

    fn patterns(&mut self, value: &'a Value, depth: usize) -> Result<Value> {
        let Value::Object(read) = self.map("patternProperties", value, depth)? else {
            return Ok(json!({}));
        };
        read.into_iter().map(|(key, schema)| Ok((pattern::ecma(&key)?, schema))).collect()
    }

    /// Lists of schemas were `items` before 2020-12 and `prefixItems` since.
    fn items(
        &mut self,
        name: &str,
        value: &'a Value,
        siblings: &'a Fields,
        out: &mut Fields,
        depth: usize,
    ) -> Result<()> {
        let is_list = siblings.get("items").is_some_and(Value::is_array);
        let known_as = match (name, value) {
            ("items", Value::Array(_)) | ("prefixItems", _) => "prefixItems",
            ("additionalItems", _) if is_list => "items",
            // Without a list before it there is nothing additional.
            ("additionalItems", _) => return Ok(()),
            _ => "items",
        };
        let read = match known_as {
            "prefixItems" => self.list(name, value, depth)?,
            _ => self.schema(value, depth)?,
        };
        out.insert(known_as.to_owned(), read);
        Ok(())
    }

    /// Options that are references are written out, so that they can be told apart.
    fn one_of(&mut self, value: &'a Value, depth: usize) -> Result<Value> {
        let mut options = Vec::new();
        for option in keywords::array("oneOf", value)? {
            options.push(self.written_out(option, depth)?);
        }
        Ok(match keywords::distinct_constants(&options) {
            Some(values) => json!({"enum": values}),
            None => json!({"oneOf": options}),
        })
    }

    fn written_out(&mut self, option: &'a Value, depth: usize) -> Result<Value> {
        match option.get("$ref") {
            Some(reference) if keywords::says_only(option, "$ref") => {
                let (_, target) = self.target(reference)?;
                if depth > DEPTH_MAX {
                    return Err(Error::format("`oneOf` refers to itself"));
                }
                self.count += 1;
                self.written_out(target, depth + 1)
            }
            _ => self.schema(option, depth),
        }
    }

    fn reference(&mut self, reference: &Value) -> Result<Value> {
        let (pointer, target) = self.target(reference)?;
        let next = format!("d{}", self.names.len());
        let name = match self.names.get(&pointer) {
            Some(name) => name.clone(),
            None => {
                self.names.insert(pointer, next.clone());
                self.waiting.push((next.clone(), target));
                next
            }
        };
        Ok(json!({"$ref": format!("#/$defs/{name}")}))
    }

    /// Where a reference points to, within this document.
    fn target(&self, reference: &Value) -> Result<(String, &'a Value)> {
        let given = keywords::text("$ref", reference)?;
        let own = ["$id", "id"].iter().find_map(|key| self.root.get(*key)?.as_str());
        let own = own.map(|id| id.trim_end_matches('#')).filter(|id| !id.is_empty());
        let local = own.and_then(|id| given.strip_prefix(id)).unwrap_or(given);
        let missing = || Error::format(format!("`$ref` points to `{given}`, which is not there"));
        let Some(fragment) = local.strip_prefix('#').or(local.is_empty().then_some("")) else {
            return Err(Error::format(format!(
                "`$ref` points to `{given}`: only references within the schema are followed"
            )));
        };
        let fragment = keywords::percent_decoded(fragment);
        let found = match fragment.as_str() {
            "" | "/" => Some(self.root),
            pointer if pointer.starts_with('/') => self.root.pointer(pointer),
            anchor => keywords::anchored(self.root, anchor),
        };
        found.map(|target| (fragment, target)).ok_or_else(missing)
    }
}

/// Where the rules of keywords write to.
struct Out<'b> {
    fields: &'b mut Fields,
    /// What must hold as well.
    all: &'b mut Vec<Value>,
}

fn draft(root: &Value) -> Draft {
    let name = root.get("$schema").and_then(Value::as_str).unwrap_or_default();
    let known = [
        ("draft-04", Draft::Four),
        ("draft-06", Draft::Six),
        ("draft-07", Draft::Seven),
        ("2019-09", Draft::Of2019),
    ];
    let found = known.iter().find(|(part, _)| name.contains(part));
    found.map_or(Draft::Of2020, |(_, draft)| *draft)
}

/// Keys that are not declared may be written twice, and count once.
fn check_counts(fields: &Fields) -> Result<()> {
    let required = fields.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    match fields.get("minProperties").and_then(Value::as_u64) {
        Some(least) if least > required + 1 => Err(Error::format(format!(
            "`minProperties` of {least} with {required} required properties: at most one more can be asked for"
        ))),
        _ => Ok(()),
    }
}

fn within(key: &str, error: Error) -> Error {
    match error {
        Error::Format { why } => Error::Format { why: format!("`{key}`: {why}") },
        other => other,
    }
}

pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
