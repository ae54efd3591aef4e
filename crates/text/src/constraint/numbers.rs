//! Numbers end: JSON allows a thousand digits and exponents that no reader can hold, and a model that has lost its way
//! writes them. Past the limits the tokens that would go on are taken out, unless the grammar itself wants them.

use super::Mask;
use crate::pieces::Pieces;

/// Characters of one number. More than 17 digits say nothing to a reader with 64-bit floats.
const NUMBER_BYTES_MAX: usize = 24;

/// Two digits of exponent and 24 before it stay within 64-bit floats.
const EXPONENT_DIGITS_MAX: usize = 2;

/// Tokens by what they do to a number.
pub(crate) struct NumberTokens {
    /// Begin with a digit, a point or an exponent.
    going_on: Mask,
    /// Begin with more digits than fit, after so many in the exponent.
    too_many: [Mask; EXPONENT_DIGITS_MAX + 1],
    /// Have an exponent of their own that is too long.
    overflowing: Mask,
}

/// Where in a JSON text we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    in_string: bool,
    escaped: bool,
    /// Bytes of the number under way; none outside of one.
    length: usize,
    /// Digits of its exponent, once that has begun.
    exponent: Option<usize>,
    last: u8,
}

impl NumberTokens {
    pub(crate) fn new(pieces: &Pieces) -> NumberTokens {
        let none = || Mask::none(pieces.len() + 1);
        let mut tokens = NumberTokens {
            going_on: none(),
            too_many: std::array::from_fn(|_| none()),
            overflowing: none(),
        };
        for id in 0..pieces.len() as u32 {
            tokens.sort_in(id, pieces.bytes(id));
        }
        tokens
    }

    fn sort_in(&mut self, id: u32, bytes: &[u8]) {
        let Some(first) = bytes.first() else { return };
        if matches!(first, b'0'..=b'9' | b'.' | b'e' | b'E') {
            self.going_on.allow(id);
        }
        let unsigned = bytes.strip_prefix(b"-").or(bytes.strip_prefix(b"+")).unwrap_or(bytes);
        let digits = digits(unsigned);
        for (known, mask) in self.too_many.iter_mut().enumerate() {
            if digits + known > EXPONENT_DIGITS_MAX {
                mask.allow(id);
            }
        }
        if has_long_exponent(bytes) {
            self.overflowing.allow(id);
        }
    }
}

impl Numbers {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.push_byte(*byte));
    }

    fn push_byte(&mut self, byte: u8) {
        if self.in_string {
            let ends = byte == b'"' && !self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            self.in_string = !ends;
            return;
        }
        self.last = byte;
        match byte {
            b'"' => (self.in_string, self.length, self.exponent) = (true, 0, None),
            b'e' | b'E' if self.length > 0 => {
                self.length += 1;
                self.exponent = Some(0);
            }
            b'0'..=b'9' => {
                self.length += 1;
                self.exponent = self.exponent.map(|digits| digits + 1);
            }
            b'-' | b'+' | b'.' => self.length += 1,
            _ => (self.length, self.exponent) = (0, None),
        }
    }

    /// Takes out of the mask what would make a number too long.
    pub(crate) fn limit(&self, tokens: &NumberTokens, mask: &mut Mask) {
        if self.in_string {
            return;
        }
        mask.without(&tokens.overflowing);
        if let Some(digits) = self.exponent {
            mask.without(&tokens.too_many[digits.min(EXPONENT_DIGITS_MAX)]);
        }
        if self.length >= NUMBER_BYTES_MAX && self.last.is_ascii_digit() {
            mask.without(&tokens.going_on);
        }
    }
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

fn has_long_exponent(bytes: &[u8]) -> bool {
    let is_number = |byte: &u8| byte.is_ascii_digit() || b"-+.eE".contains(byte);
    let at = bytes.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let Some(at) = at.filter(|at| bytes[..*at].iter().all(is_number)) else { return false };
    let rest = &bytes[at + 1..];
    let rest = rest.strip_prefix(b"-").or(rest.strip_prefix(b"+")).unwrap_or(rest);
    digits(rest) > EXPONENT_DIGITS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, length: usize, exponent: Option<usize>) {
        let mut numbers = Numbers::default();
        numbers.push(text.as_bytes());
        assert_eq!((numbers.length, numbers.exponent), (length, exponent), "{text}");
    }

    #[test]
    fn a_number_is_seen_where_it_is() {
        check("{\"a\": -12.5", 5, None);
        check("[1e-05", 5, Some(2));
        check("[1, 22", 2, None);
        check("[\"123", 0, None);
        check("[\"1\\\"23", 0, None);
        check("{\"a\":\"e1\",\"b\":7", 1, None);
        check("[true", 0, None);
    }

    #[test]
    fn long_exponents_are_found() {
        for (token, expected) in
            [("e100", true), ("1E+308", true), ("e10", false), ("the100", false), ("e", false)]
        {
            assert_eq!(has_long_exponent(token.as_bytes()), expected, "{token}");
        }
    }
}
