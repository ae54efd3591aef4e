//! `html`, `js` and `urlquery`.

use super::literal::is_print;
use super::sink::Sink;

pub(super) fn html(text: &[u8], sink: &mut Sink) {
    for &byte in text {
        match byte {
            0 => sink.push("\u{fffd}"),
            b'"' => sink.push("&#34;"),
            b'\'' => sink.push("&#39;"),
            b'&' => sink.push("&amp;"),
            b'<' => sink.push("&lt;"),
            b'>' => sink.push("&gt;"),
            other => sink.push([other]),
        }
    }
}

pub(super) fn js(text: &[u8], sink: &mut Sink) {
    for chunk in text.utf8_chunks() {
        chunk.valid().chars().for_each(|character| js_character(character, sink));
        sink.push(chunk.invalid());
    }
}

fn js_character(character: char, sink: &mut Sink) {
    let code = character as u32;
    match character {
        '\\' | '\'' | '"' => {
            sink.push("\\");
            sink.push_char(character);
        }
        '<' | '>' | '&' | '=' => sink.push(format!("\\u{code:04X}")),
        _ if code < 0x20 => sink.push(format!("\\u{code:04X}")),
        _ if character.is_ascii() || is_print(character) => sink.push_char(character),
        _ => sink.push(format!("\\u{code:04X}")),
    }
}

pub(super) fn url_query(text: &[u8], sink: &mut Sink) {
    for &byte in text {
        match byte {
            b' ' => sink.push("+"),
            b'-' | b'_' | b'.' | b'~' => sink.push([byte]),
            _ if byte.is_ascii_alphanumeric() => sink.push([byte]),
            _ => sink.push(format!("%{byte:02X}")),
        }
    }
}
