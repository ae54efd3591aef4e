//! Schemas made from a seed: every supported keyword, nested at will.

use serde_json::{Map, Value, json};

use crate::random::Random;

pub(super) fn schema(seed: u64) -> Value {
    let mut maker = Maker { random: Random(seed ^ 0x5c4e), definitions: Map::new() };
    let mut root = maker.any(3);
    if let (Value::Object(fields), false) = (&mut root, maker.definitions.is_empty()) {
        fields.insert("$defs".to_owned(), Value::Object(maker.definitions));
    }
    root
}

/// `nullable` is not JSON Schema's, so the judge does not know it.
pub(super) fn without_nullable(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) if fields.get("nullable") == Some(&json!(true)) => {
            let mut rest = fields.clone();
            rest.remove("nullable");
            json!({"anyOf": [{"type": "null"}, rest]})
        }
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), without_nullable(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nullable).collect(),
        other => other.clone(),
    }
}

struct Maker {
    random: Random,
    definitions: Map<String, Value>,
}

impl Maker {
    fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit)
    }

    fn maybe(&mut self) -> bool {
        self.below(2) == 0
    }

    fn any(&mut self, depth: usize) -> Value {
        let kinds = if depth == 0 { 6 } else { 12 };
        match self.below(kinds) {
            0 => json!({"type": "boolean"}),
            1 => self.string(),
            2 => self.integer(),
            3 => self.number(),
            4 => self.choice(),
            5 => json!({"type": ["null", "string"], "maxLength": 1 + self.below(9)}),
            6 => self.array(depth),
            7 => self.tuple(depth),
            8 => self.any_of(depth),
            9 => self.reference(depth),
            _ => self.object(depth),
        }
    }

    fn string(&mut self) -> Value {
        let patterns = ["^[a-z]+$", "^\\d{2,4}$", "[aeiou]{2}", "^(x|yy|zzz)-[^-]*$", "^.{3}$"];
        let formats = ["date", "time", "email", "ipv4", "uuid", "uri", "date-time", "hostname"];
        match self.below(4) {
            0 => json!({"type": "string", "pattern": patterns[self.below(patterns.len())]}),
            1 => json!({"type": "string", "format": formats[self.below(formats.len())]}),
            2 => {
                let least = self.below(5);
                json!({"type": "string", "minLength": least, "maxLength": least + self.below(9)})
            }
            _ => json!({"type": "string"}),
        }
    }

    fn integer(&mut self) -> Value {
        let least = self.below(2000) as i64 - 1000;
        let mut fields = json!({"type": "integer"});
        if self.maybe() {
            fields["minimum"] = json!(least);
        }
        if self.maybe() {
            fields["exclusiveMaximum"] = json!(least + 20 + self.below(5000) as i64);
        }
        if self.below(4) == 0 {
            fields["multipleOf"] = json!(1 + self.below(9));
        }
        fields
    }

    fn number(&mut self) -> Value {
        let least = (self.below(4000) as f64 - 2000.0) / 8.0;
        match self.below(4) {
            0 => json!({"type": "number"}),
            1 => json!({"type": "number", "minimum": least}),
            2 => json!({"type": "number", "exclusiveMaximum": least}),
            _ => {
                json!({"type": "number", "minimum": least, "maximum": least + self.below(90) as f64 / 4.0})
            }
        }
    }

    fn choice(&mut self) -> Value {
        let values =
            [json!("one"), json!("two words"), json!(3), json!(-4.5), json!(null), json!([1, "x"])];
        let from = self.below(values.len());
        let to = from + 1 + self.below(values.len() - from);
        json!({"enum": values[from..to]})
    }

    fn array(&mut self, depth: usize) -> Value {
        let least = self.below(3);
        let mut fields = json!({"type": "array", "items": self.any(depth - 1), "minItems": least});
        fields["maxItems"] = json!(least + self.below(3));
        fields
    }

    fn tuple(&mut self, depth: usize) -> Value {
        let items: Vec<Value> = (0..1 + self.below(3)).map(|_| self.any(depth - 1)).collect();
        let least = self.below(items.len() + 1);
        json!({"type": "array", "prefixItems": items, "items": false, "minItems": least})
    }

    fn any_of(&mut self, depth: usize) -> Value {
        let options: Vec<Value> = (0..2 + self.below(2)).map(|_| self.any(depth - 1)).collect();
        json!({"anyOf": options})
    }

    fn reference(&mut self, depth: usize) -> Value {
        let name = format!("part {}", self.definitions.len());
        self.definitions.insert(name.clone(), json!(true));
        let mut target = self.any(depth - 1);
        if let (Some(fields), true) = (target.get_mut("properties"), self.maybe()) {
            // Optional, so it ends somewhere.
            fields["again"] = json!({"$ref": pointer(&name)});
        }
        self.definitions.insert(name.clone(), target);
        json!({"$ref": pointer(&name)})
    }

    fn object(&mut self, depth: usize) -> Value {
        let names = ["id", "name", "a b", "x/y", "été", "last"];
        let mut properties = Map::new();
        let mut required = Vec::new();
        for _ in 0..1 + self.below(4) {
            let name = names[self.below(names.len())];
            properties.insert(name.to_owned(), self.any(depth - 1));
            if self.maybe() && !required.contains(&name) {
                required.push(name);
            }
        }
        let mut fields = json!({"type": "object", "properties": properties, "required": required});
        match self.below(3) {
            0 => fields["additionalProperties"] = json!(false),
            1 => fields["additionalProperties"] = self.any(0),
            _ => {}
        }
        fields
    }
}

fn pointer(name: &str) -> String {
    format!("#/$defs/{}", name.replace(' ', "%20"))
}
