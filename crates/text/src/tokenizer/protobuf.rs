//! As much of the protobuf wire format as a SentencePiece model needs: fields one after the other, nothing kept that
//! is not asked for.

/// One field's content. Fixed-width numbers keep their bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        if let Value::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub(crate) fn number(self) -> Option<u64> {
        if let Value::Number(number) = self { Some(number) } else { None }
    }

    pub(crate) fn flag(self) -> Option<bool> {
        Some(self.number()? != 0)
    }

    pub(crate) fn float(self) -> Option<f32> {
        Some(f32::from_bits(u32::try_from(self.number()?).ok()?))
    }
}

/// The fields of a message, by number. The message is at fault where it stops before its end.
pub(crate) fn fields(message: &[u8]) -> Result<Vec<(u64, Value<'_>)>, String> {
    let mut rest = message;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let at = message.len() - rest.len();
        let field = field(&mut rest).ok_or_else(|| format!("no protobuf field at byte {at}"))?;
        fields.push(field);
    }
    Ok(fields)
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        1 => Value::Number(u64::from_le_bytes(take(rest, 8)?.try_into().ok()?)),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        5 => Value::Number(u64::from(u32::from_le_bytes(take(rest, 4)?.try_into().ok()?))),
        // Groups, long out of use.
        _ => return None,
    };
    (key >> 3 != 0).then_some((key >> 3, value))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &[u8], expected: Option<&[(u64, Value<'_>)]>) {
        assert_eq!(fields(message).ok().as_deref(), expected, "{message:?}");
    }

    #[test]
    fn messages_are_read_to_their_end() {
        check(&[], Some(&[]));
        check(
            &[0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0xbf],
            Some(&[
                (1, Value::Number(150)),
                (2, Value::Bytes(b"hi")),
                (3, Value::Number(0xbf80_0000)),
            ]),
        );
        assert_eq!(Value::Number(0xbf80_0000).float(), Some(-1.0));
        for bad in [&[0x08][..], &[0x12, 3, 1, 2], &[0x0b], &[0x00, 0x01], &[0xff; 11], &[0x0d, 1]]
        {
            check(bad, None);
        }
    }
}
