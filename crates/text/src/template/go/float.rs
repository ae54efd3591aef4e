//! Floats in all of Go's notations.

/// Go's `strconv.FormatFloat`; no precision means the fewest digits that read back the same.
pub(crate) fn format(number: f64, notation: char, precision: Option<usize>) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    match notation {
        'e' | 'E' => scientific(number, notation, precision),
        'f' => match precision {
            Some(precision) => format!("{number:.precision$}"),
            None => format!("{number}"),
        },
        'g' | 'G' => general(number, notation, precision),
        'b' => binary(number),
        _ => hexadecimal(number, notation, precision),
    }
}

fn scientific(number: f64, notation: char, precision: Option<usize>) -> String {
    let text = match precision {
        Some(precision) => format!("{number:.precision$e}"),
        None => format!("{number:e}"),
    };
    let (digits, exponent) = parts(&text);
    format!("{digits}{notation}{}", signed(exponent))
}

fn parts(text: &str) -> (&str, i32) {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    (digits, exponent.parse().unwrap_or(0))
}

/// With a sign and at least two digits.
fn signed(exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{:02}", exponent.unsigned_abs())
}

/// Scientific for very large and very small numbers.
fn general(number: f64, notation: char, precision: Option<usize>) -> String {
    let precision = precision.map(|precision| precision.max(1));
    let text = match precision {
        Some(precision) => format!("{number:.*e}", precision - 1),
        None => format!("{number:e}"),
    };
    let (digits, exponent) = parts(&text);
    let plain: String = digits.chars().filter(char::is_ascii_digit).collect();
    let count = plain.trim_end_matches('0').len();
    let point = if count == 0 { 0 } else { exponent + 1 };
    let point_at = usize::try_from(point);
    let most = match precision {
        None => 6,
        Some(wanted) if wanted > count && point_at.is_ok_and(|point| count >= point) => count,
        Some(wanted) => wanted,
    };
    let exponent = point - 1;
    if exponent < -4 || usize::try_from(exponent).is_ok_and(|exponent| exponent >= most) {
        let digits = precision.map_or(count, |wanted| wanted.min(count)).max(1) - 1;
        return scientific(number, if notation == 'g' { 'e' } else { 'E' }, Some(digits));
    }
    let wanted = match precision {
        Some(wanted) if i64::try_from(wanted).is_ok_and(|wanted| wanted <= i64::from(point)) => {
            wanted
        }
        _ => count,
    };
    let fraction = i64::try_from(wanted).unwrap_or(0) - i64::from(point);
    format!("{number:.*}", usize::try_from(fraction).unwrap_or(0))
}

fn bits(number: f64) -> (bool, u64, i32) {
    let bits = number.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32;
    let mantissa = bits & ((1 << 52) - 1);
    let (mantissa, exponent) = match exponent {
        0 => (mantissa, 1),
        _ => (mantissa | 1 << 52, exponent),
    };
    (number.is_sign_negative(), mantissa, exponent - 1023)
}

/// Mantissa and power of two, both decimal.
fn binary(number: f64) -> String {
    let (negative, mantissa, exponent) = bits(number);
    let sign = if negative { "-" } else { "" };
    let exponent = exponent - 52;
    let plus = if exponent >= 0 { "+" } else { "" };
    format!("{sign}{mantissa}p{plus}{exponent}")
}

fn hexadecimal(number: f64, notation: char, precision: Option<usize>) -> String {
    let (negative, mut mantissa, mut exponent) = bits(number);
    if mantissa == 0 {
        exponent = 0;
    }
    // One leading digit, 60 bits behind it.
    mantissa <<= 8;
    while mantissa != 0 && mantissa & (1 << 60) == 0 {
        mantissa <<= 1;
        exponent -= 1;
    }
    if let Some(precision) = precision.filter(|&precision| precision < 15) {
        let shift = precision * 4;
        let extra = (mantissa << shift) & ((1 << 60) - 1);
        mantissa >>= 60 - shift;
        if extra | (mantissa & 1) > 1 << 59 {
            mantissa += 1;
        }
        mantissa <<= 60 - shift;
        if mantissa & (1 << 61) != 0 {
            mantissa >>= 1;
            exponent += 1;
        }
    }
    let digits = format!("{:015x}", mantissa & ((1 << 60) - 1));
    let digits = match precision {
        Some(precision) => format!("{digits:0<precision$}")[..precision].to_owned(),
        None => digits.trim_end_matches('0').to_owned(),
    };
    let point = if digits.is_empty() { "" } else { "." };
    let sign = if negative { "-" } else { "" };
    let text = format!("{sign}0x{}{point}{digits}p{}", (mantissa >> 60) & 1, signed(exponent));
    if notation == 'X' { text.to_uppercase() } else { text }
}
