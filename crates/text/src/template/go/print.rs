//! Go's `fmt`: `print`, `println`, `printf` and all verbs, with the texts it writes for wrong ones.

use super::float;
use super::literal::{is_print, quote_with};
use super::sink::Sink;
use super::value::{Bytes, Value};

/// Widths and precisions beyond this are Go's "bad" ones.
const NUMBER_MAX: i64 = 1_000_000;

/// Nesting of printed values. Price: stack.
const DEPTH_MAX: usize = 200;

/// As `fmt.Fprint`: blanks between neighbours that are both no strings.
pub(super) fn print(sink: &mut Sink, args: &[Value]) {
    let mut after_text = true;
    for (index, arg) in args.iter().enumerate() {
        let is_text = matches!(arg, Value::Text(_));
        if index > 0 && !is_text && !after_text {
            sink.push(" ");
        }
        Printer::new(sink).arg(arg, 'v');
        after_text = is_text;
    }
}

pub(super) fn println(sink: &mut Sink, args: &[Value]) {
    for (index, arg) in args.iter().enumerate() {
        if index > 0 {
            sink.push(" ");
        }
        Printer::new(sink).arg(arg, 'v');
    }
    sink.push("\n");
}

/// One value with one verb, as it stands in messages.
pub(super) fn shown(value: &Value, verb: char) -> String {
    let mut sink = Sink::new(SHOWN_BYTES_MAX);
    match value {
        Value::Invalid => sink.push("<invalid reflect.Value>"),
        value => Printer::new(&mut sink).top_value(value, verb),
    }
    String::from_utf8_lossy(&sink.bytes).into_owned()
}

/// Of a value in a message.
const SHOWN_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Default)]
struct Flags {
    width: Option<usize>,
    precision: Option<usize>,
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    /// `%+v`
    names: bool,
    /// `%#v`
    source: bool,
}

struct Printer<'a> {
    sink: &'a mut Sink,
    flags: Flags,
    /// A wrong verb is being written about: no methods now.
    erring: bool,
}

/// `printf`.
pub(super) fn printf(sink: &mut Sink, format: &[u8], args: &[Value]) {
    let mut directive = Directive { format, at: 0, args, arg: 0, reordered: false, good: true };
    let mut printer = Printer::new(sink);
    while let Some(start) = directive.literal() {
        printer.sink.push(start);
        if directive.at >= format.len() {
            break;
        }
        directive.at += 1;
        printer.flags = Flags::default();
        directive.run(&mut printer);
    }
    if !directive.reordered && directive.arg < args.len() {
        printer.flags = Flags::default();
        printer.extra(&args[directive.arg..]);
    }
}

struct Directive<'a> {
    format: &'a [u8],
    at: usize,
    args: &'a [Value],
    arg: usize,
    reordered: bool,
    /// Whether the argument's index, if one is written, is one.
    good: bool,
}

impl<'a> Directive<'a> {
    /// The text before the next `%`.
    fn literal(&mut self) -> Option<&'a [u8]> {
        let rest = self.format.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.iter().position(|&byte| byte == b'%').unwrap_or(rest.len());
        self.at += length;
        Some(&rest[..length])
    }

    fn byte(&self) -> Option<u8> {
        self.format.get(self.at).copied()
    }

    fn run(&mut self, printer: &mut Printer<'_>) {
        self.good = true;
        self.flags(&mut printer.flags);
        let indexed = self.index();
        let indexed = self.width(printer, indexed);
        let indexed = self.precision(printer, indexed);
        if !indexed {
            self.index();
        }
        let Some(verb) = self.verb() else {
            printer.sink.push("%!(NOVERB)");
            return;
        };
        match verb {
            '%' => printer.sink.push("%"),
            _ if !self.good => printer.wrong(verb, "(BADINDEX)"),
            _ if self.arg >= self.args.len() => printer.wrong(verb, "(MISSING)"),
            _ => {
                if matches!(verb, 'v' | 'w') {
                    let flags = &mut printer.flags;
                    flags.source = std::mem::take(&mut flags.sharp);
                    flags.names = std::mem::take(&mut flags.plus);
                }
                printer.arg(&self.args[self.arg], verb);
                self.arg += 1;
            }
        }
    }

    fn flags(&mut self, flags: &mut Flags) {
        while let Some(byte) = self.byte() {
            match byte {
                b'#' => flags.sharp = true,
                b'0' => flags.zero = true,
                b'+' => flags.plus = true,
                b'-' => flags.minus = true,
                b' ' => flags.space = true,
                _ => return,
            }
            self.at += 1;
        }
    }

    /// `[2]`: which argument is next.
    fn index(&mut self) -> bool {
        if self.byte() != Some(b'[') {
            return false;
        }
        self.reordered = true;
        let rest = &self.format[self.at..];
        let Some(end) = rest.iter().position(|&byte| byte == b']').filter(|_| rest.len() >= 3)
        else {
            self.good = false;
            self.at += 1;
            return false;
        };
        let number = digits(&rest[1..end]);
        let whole = number.filter(|&(_, used)| used + 1 == end);
        self.at += end + 1;
        let index = whole.map(|(number, _)| number - 1);
        match index.map(usize::try_from) {
            Some(Ok(index)) if index < self.args.len() => {
                self.arg = index;
                true
            }
            _ => {
                self.good = false;
                whole.is_some()
            }
        }
    }

    fn width(&mut self, printer: &mut Printer<'_>, indexed: bool) -> bool {
        if self.byte() == Some(b'*') {
            self.at += 1;
            let width = self.number_arg();
            if width.is_none() {
                printer.sink.push("%!(BADWIDTH)");
            }
            if width.is_some_and(|width| width < 0) {
                printer.flags.minus = true;
                printer.flags.zero = false;
            }
            printer.flags.width = width.map(|width| width.unsigned_abs() as usize);
            return false;
        }
        printer.flags.width = self.number();
        if indexed && printer.flags.width.is_some() {
            self.good = false;
        }
        indexed
    }

    fn precision(&mut self, printer: &mut Printer<'_>, indexed: bool) -> bool {
        if self.byte() != Some(b'.') || self.at + 1 >= self.format.len() {
            return indexed;
        }
        self.at += 1;
        if indexed {
            self.good = false;
        }
        let indexed = self.index();
        if self.byte() == Some(b'*') {
            self.at += 1;
            let precision = self.number_arg().and_then(|number| usize::try_from(number).ok());
            if precision.is_none() {
                printer.sink.push("%!(BADPREC)");
            }
            printer.flags.precision = precision;
            return false;
        }
        printer.flags.precision = Some(self.number().unwrap_or(0));
        indexed
    }

    fn number(&mut self) -> Option<usize> {
        match digits(&self.format[self.at..]) {
            Some((number, used)) => {
                self.at += used;
                (used > 0).then_some(number as usize)
            }
            None => {
                self.at = self.format.len();
                None
            }
        }
    }

    /// `*`: the next argument is the number.
    fn number_arg(&mut self) -> Option<i64> {
        let arg = self.args.get(self.arg)?;
        self.arg += 1;
        let number = match arg {
            Value::Int(number) => *number,
            Value::Byte(number) => i64::from(*number),
            _ => return None,
        };
        (-NUMBER_MAX..=NUMBER_MAX).contains(&number).then_some(number)
    }

    fn verb(&mut self) -> Option<char> {
        let rest = &self.format[self.at..];
        let first = *rest.first()?;
        let length = (1..=4).find(|&length| {
            rest.get(..length).is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
        });
        let Some(length) = length.filter(|_| first != 0) else {
            self.at += 1;
            return Some(if first == 0 { '\0' } else { char::REPLACEMENT_CHARACTER });
        };
        self.at += length;
        std::str::from_utf8(&rest[..length]).ok()?.chars().next()
    }
}

/// The number that the text begins with and its length; `None`: crazily long.
fn digits(text: &[u8]) -> Option<(i64, usize)> {
    let mut number = 0_i64;
    let mut used = 0;
    for byte in text.iter().take_while(|byte| byte.is_ascii_digit()) {
        if number > NUMBER_MAX {
            return None;
        }
        number = number * 10 + i64::from(byte - b'0');
        used += 1;
    }
    Some((number, used))
}

impl<'a> Printer<'a> {
    fn new(sink: &'a mut Sink) -> Printer<'a> {
        Printer { sink, flags: Flags::default(), erring: false }
    }

    fn wrong(&mut self, verb: char, what: &str) {
        self.sink.push("%!");
        self.sink.push_char(verb);
        self.sink.push(what);
    }

    fn extra(&mut self, args: &[Value]) {
        self.sink.push("%!(EXTRA ");
        for (index, arg) in args.iter().enumerate() {
            if index > 0 {
                self.sink.push(", ");
            }
            match arg.bare().type_name() {
                None => self.sink.push("<nil>"),
                Some(name) => {
                    self.sink.push(name);
                    self.sink.push("=");
                    self.arg(arg, 'v');
                }
            }
        }
        self.sink.push(")");
    }

    fn bad_verb(&mut self, verb: char, value: &Value) {
        self.erring = true;
        self.wrong(verb, "(");
        match value.type_name() {
            None => self.sink.push("<nil>"),
            Some(name) => {
                self.sink.push(name);
                self.sink.push("=");
                self.value(value, 'v', 0);
            }
        }
        self.sink.push(")");
        self.erring = false;
    }

    /// An argument: what an interface holds.
    fn arg(&mut self, arg: &Value, verb: char) {
        let arg = arg.bare();
        match (&arg, verb) {
            (Value::Invalid, 'T' | 'v') => self.pad(b"<nil>"),
            (Value::Invalid, _) => self.bad_verb(verb, &arg),
            (_, 'T') => self.text(arg.type_text().as_bytes()),
            _ => self.top_value(&arg, verb),
        }
    }

    fn top_value(&mut self, value: &Value, verb: char) {
        if !self.by_method(value, verb) {
            self.value(value, verb, 0);
        }
    }

    /// Through the value's own `String` method.
    fn by_method(&mut self, value: &Value, verb: char) -> bool {
        if verb == 'w' && !self.erring {
            self.bad_verb(verb, value);
            return true;
        }
        if self.erring || self.flags.source || !matches!(verb, 'v' | 's' | 'x' | 'X' | 'q') {
            return false;
        }
        let method = value.methods().iter().find(|(name, _)| *name == "String");
        let Some((_, string)) = method else { return false };
        if let Value::Text(text) = string(value) {
            self.string(&text, verb);
        }
        true
    }

    fn value(&mut self, value: &Value, verb: char, depth: usize) {
        if depth > 0 && self.by_method(&value.bare(), verb) {
            return;
        }
        if depth > DEPTH_MAX {
            return self.sink.push("…");
        }
        match value {
            Value::Invalid if verb == 'v' => self.sink.push("<nil>"),
            Value::Invalid => self.bad_verb(verb, value),
            Value::Bool(flag) => match verb {
                't' | 'v' => self.pad(if *flag { b"true" } else { b"false" }),
                _ => self.bad_verb(verb, value),
            },
            Value::Int(number) => {
                self.integer(*number < 0, number.unsigned_abs(), true, verb, value)
            }
            Value::Byte(number) => self.integer(false, (*number).into(), false, verb, value),
            Value::Float(number) => self.float(*number, verb, value),
            Value::Complex(real, imaginary) => self.complex(*real, *imaginary, verb, value),
            Value::Text(text) => self.string(text, verb),
            Value::Interface(None) if self.flags.source => self.sink.push("interface {}(nil)"),
            Value::Interface(None) => self.sink.push("<nil>"),
            Value::Interface(Some(inside)) => self.value(inside, verb, depth + 1),
            Value::Slice(slice) => self.slice(slice, verb, depth),
            Value::Map(map) => {
                let name = map.ty.to_string();
                if self.open(&name, "map[", map.entries.is_none()) {
                    let entries = map.iter().map(|(key, value)| (Some(key), value));
                    self.items(entries, verb, depth, "]");
                }
            }
            Value::Image(_) => self.value(&value.expanded(), verb, depth),
            Value::Struct(value) => self.fields(value, verb, depth),
            Value::Pointer(_, Some(target))
                if depth == 0
                    && matches!(**target, Value::Struct(_) | Value::Slice(_) | Value::Map(_)) =>
            {
                self.sink.push("&");
                self.value(target, verb, depth + 1);
            }
            Value::Pointer(..) | Value::Pairs(_) => self.pointer(value, verb),
        }
    }

    fn fields(&mut self, value: &super::value::Struct, verb: char, depth: usize) {
        let shape = value.shape;
        if self.flags.source {
            self.sink.push(shape.name);
        }
        self.sink.push("{");
        for (index, (field, value)) in shape.fields.iter().zip(value.fields.iter()).enumerate() {
            if index > 0 {
                self.sink.push(if self.flags.source { ", " } else { " " });
            }
            if self.flags.names || self.flags.source {
                self.sink.push(field.name);
                self.sink.push(":");
            }
            self.value(value, verb, depth + 1);
        }
        self.sink.push("}");
    }

    fn slice(&mut self, slice: &super::value::Slice, verb: char, depth: usize) {
        if let Some(bytes) = slice.bytes() {
            match verb {
                's' => return self.text(&bytes),
                'q' => return self.quoted(&bytes),
                'x' | 'X' => return self.hex(&bytes, verb),
                _ => {}
            }
        }
        if self.open(&slice.ty.to_string(), "[", slice.all.is_none()) {
            let items = slice.items().iter().map(|item| (None, item));
            self.items(items, verb, depth, "]");
        }
    }

    /// The beginning of a list or map; false: it is nil, and that was all.
    fn open(&mut self, name: &str, bracket: &str, is_nil: bool) -> bool {
        match (self.flags.source, is_nil) {
            (false, _) => self.sink.push(bracket),
            (true, false) => {
                self.sink.push(name);
                self.sink.push("{");
            }
            (true, true) => {
                self.sink.push(name);
                self.sink.push("(nil)");
                return false;
            }
        }
        true
    }

    fn items<'v>(
        &mut self,
        items: impl Iterator<Item = (Option<&'v Bytes>, &'v Value)>,
        verb: char,
        depth: usize,
        bracket: &str,
    ) {
        for (index, (key, item)) in items.enumerate() {
            if index > 0 {
                self.sink.push(if self.flags.source { ", " } else { " " });
            }
            if let Some(key) = key {
                self.string(key, verb);
                self.sink.push(":");
            }
            self.value(item, verb, depth + 1);
        }
        self.sink.push(if self.flags.source { "}" } else { bracket });
    }

    /// Addresses have no meaning here; all are this one.
    fn pointer(&mut self, value: &Value, verb: char) {
        let is_nil = value.is_nil();
        match verb {
            'v' if self.flags.source => {
                let inside = if is_nil { "nil" } else { "0xc000000000" };
                let text = format!("({})({inside})", value.type_text());
                self.sink.push(text);
            }
            'v' if is_nil => self.pad(b"<nil>"),
            'v' | 'p' | 'b' | 'o' | 'd' | 'x' | 'X' => self.sink.push("0xc000000000"),
            _ => self.bad_verb(verb, value),
        }
    }

    fn pad(&mut self, text: &[u8]) {
        self.pad_with(text, self.flags.zero);
    }

    fn pad_with(&mut self, text: &[u8], zero: bool) {
        let length = runes(text);
        let missing = self.flags.width.unwrap_or(0).saturating_sub(length);
        let byte = if zero && !self.flags.minus { b'0' } else { b' ' };
        if !self.flags.minus {
            self.sink.fill(byte, missing);
        }
        self.sink.push(text);
        if self.flags.minus {
            self.sink.fill(byte, missing);
        }
    }

    fn truncated<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        let Some(most) = self.flags.precision else { return text };
        let mut rest = text;
        for _ in 0..most {
            rest = &rest[first_rune(rest)..];
        }
        &text[..text.len() - rest.len()]
    }

    fn text(&mut self, text: &[u8]) {
        self.pad(self.truncated(text));
    }

    fn quoted(&mut self, text: &[u8]) {
        let text = self.truncated(text);
        let raw = std::str::from_utf8(text).ok().filter(|text| {
            let odd = |c: char| (c < ' ' && c != '\t') || matches!(c, '`' | '\u{7f}' | '\u{feff}');
            self.flags.sharp && !text.contains(odd)
        });
        match raw {
            Some(raw) => self.pad(format!("`{raw}`").as_bytes()),
            None => self.pad(quote_with(text, '"', self.flags.plus).as_bytes()),
        }
    }

    fn string(&mut self, text: &[u8], verb: char) {
        match verb {
            'v' if self.flags.source => self.quoted(text),
            'v' | 's' => self.text(text),
            'x' | 'X' => self.hex(text, verb),
            'q' => self.quoted(text),
            _ => self.bad_verb(verb, &Value::Text(text.into())),
        }
    }

    fn hex(&mut self, text: &[u8], verb: char) {
        let text = &text[..self.flags.precision.unwrap_or(text.len()).min(text.len())];
        let prefix = if self.flags.sharp { "0x" } else { "" };
        let between = if self.flags.space { " " } else { "" };
        let bytes: Vec<String> = text.iter().map(|byte| format!("{byte:02x}")).collect();
        let between = if self.flags.space { format!("{between}{prefix}") } else { String::new() };
        let text = match bytes.is_empty() {
            true => String::new(),
            false => format!("{prefix}{}", bytes.join(&between)),
        };
        let text = if verb == 'X' { text.to_uppercase() } else { text };
        self.pad(text.as_bytes());
    }

    fn integer(&mut self, negative: bool, number: u64, signed: bool, verb: char, value: &Value) {
        let code = || u32::try_from(number).ok().filter(|_| !negative).and_then(char::from_u32);
        match verb {
            'v' if self.flags.source && !signed => self.source_byte(number),
            'v' | 'd' => self.digits(negative, format!("{number}"), "", verb),
            'b' => self.digits(negative, format!("{number:b}"), "0b", verb),
            'o' | 'O' => self.digits(negative, format!("{number:o}"), "0", verb),
            'x' => self.digits(negative, format!("{number:x}"), "0x", verb),
            'X' => self.digits(negative, format!("{number:X}"), "0X", verb),
            'c' => {
                let character = code().unwrap_or(char::REPLACEMENT_CHARACTER);
                self.pad(character.to_string().as_bytes());
            }
            'q' => {
                let character = code().unwrap_or(char::REPLACEMENT_CHARACTER).to_string();
                let text = quote_with(character.as_bytes(), '\'', self.flags.plus);
                self.pad(text.as_bytes());
            }
            'U' => self.unicode(if negative { number.wrapping_neg() } else { number }),
            _ => self.bad_verb(verb, value),
        }
    }

    fn source_byte(&mut self, number: u64) {
        let sharp = std::mem::replace(&mut self.flags.sharp, true);
        self.digits(false, format!("{number:x}"), "0x", 'v');
        self.flags.sharp = sharp;
    }

    fn digits(&mut self, negative: bool, digits: String, prefix: &str, verb: char) {
        let flags = self.flags;
        if flags.precision == Some(0) && digits == "0" {
            return self.sink.fill(b' ', flags.width.unwrap_or(0));
        }
        let signed = negative || flags.plus || flags.space;
        let least = match (flags.precision, flags.width) {
            (Some(precision), _) => precision,
            (None, Some(width)) if flags.zero && !flags.minus => {
                width.saturating_sub(usize::from(signed))
            }
            _ => 0,
        };
        let mut text = format!("{digits:0>least$}");
        if flags.sharp && !(prefix == "0" && text.starts_with('0')) {
            text.insert_str(0, prefix);
        }
        if verb == 'O' {
            text.insert_str(0, "0o");
        }
        match () {
            () if negative => text.insert(0, '-'),
            () if flags.plus => text.insert(0, '+'),
            () if flags.space => text.insert(0, ' '),
            () => {}
        }
        self.pad_with(text.as_bytes(), false);
    }

    fn unicode(&mut self, number: u64) {
        let least = self.flags.precision.unwrap_or(0).max(4);
        let mut text = format!("U+{number:0>least$X}");
        let character = u32::try_from(number).ok().and_then(char::from_u32);
        if let Some(character) = character.filter(|&c| self.flags.sharp && is_print(c)) {
            text.push_str(&format!(" '{character}'"));
        }
        self.pad_with(text.as_bytes(), false);
    }

    fn float(&mut self, number: f64, verb: char, value: &Value) {
        let (notation, precision) = match verb {
            'v' => ('g', None),
            'b' | 'g' | 'G' | 'x' | 'X' => (verb, None),
            'f' | 'e' | 'E' => (verb, Some(6)),
            'F' => ('f', Some(6)),
            _ => return self.bad_verb(verb, value),
        };
        let precision = self.flags.precision.or(precision);
        let text = float::format(number, notation, precision);
        let (sign, mut digits) = match text.strip_prefix('-') {
            Some(digits) => ("-", digits.to_owned()),
            None => ("+", text.trim_start_matches('+').to_owned()),
        };
        let flags = self.flags;
        let sign = if flags.space && sign == "+" && !flags.plus { " " } else { sign };
        if !number.is_finite() {
            let bare = number.is_nan() && !flags.space && !flags.plus;
            let text = if bare { digits } else { format!("{sign}{digits}") };
            return self.pad_with(text.as_bytes(), false);
        }
        if flags.sharp && notation != 'b' {
            digits = pointed(&digits, notation, precision);
        }
        if flags.plus || sign != "+" {
            let length = digits.len() + 1;
            match flags.width.filter(|&width| flags.zero && !flags.minus && width > length) {
                Some(width) => {
                    self.sink.push(sign);
                    self.sink.fill(b'0', width - length);
                    self.sink.push(digits);
                }
                None => self.pad(format!("{sign}{digits}").as_bytes()),
            }
        } else {
            self.pad(digits.as_bytes());
        }
    }

    fn complex(&mut self, real: f64, imaginary: f64, verb: char, value: &Value) {
        if !matches!(verb, 'v' | 'b' | 'g' | 'G' | 'x' | 'X' | 'f' | 'F' | 'e' | 'E') {
            return self.bad_verb(verb, value);
        }
        let plus = self.flags.plus;
        self.sink.push("(");
        self.float(real, verb, value);
        self.flags.plus = true;
        self.float(imaginary, verb, value);
        self.flags.plus = plus;
        self.sink.push("i)");
    }
}

/// `%#g`: always with a point, trailing zeros kept.
fn pointed(digits: &str, notation: char, precision: Option<usize>) -> String {
    let hex = matches!(notation, 'x' | 'X');
    let exponent =
        digits.find(|c: char| matches!(c, 'p' | 'P') || (!hex && matches!(c, 'e' | 'E')));
    let (number, tail) = digits.split_at(exponent.unwrap_or(digits.len()));
    let wanted = match notation {
        'g' | 'G' | 'x' => precision.unwrap_or(6),
        _ => 0,
    };
    let shown = number.chars().filter(|&c| c != '.').skip_while(|&c| c == '0').count();
    let point = if number.contains('.') { "" } else { "." };
    let alone = usize::from(number == "0");
    let missing = wanted.saturating_sub(shown + alone);
    format!("{number}{point}{}{tail}", "0".repeat(missing))
}

fn runes(text: &[u8]) -> usize {
    let mut rest = text;
    let mut count = 0;
    while !rest.is_empty() {
        rest = &rest[first_rune(rest)..];
        count += 1;
    }
    count
}

/// Bytes of the first character; of what is none, one.
fn first_rune(text: &[u8]) -> usize {
    let fits = |&length: &usize| text.get(..length).is_some_and(|b| std::str::from_utf8(b).is_ok());
    match text {
        [] => 0,
        [byte, ..] if byte.is_ascii() => 1,
        _ => (1..=4).find(fits).unwrap_or(1),
    }
}
