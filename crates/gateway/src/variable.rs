//! Variables of a server, as statements that set them.

use crate::refusal::Refusal;

/// The most characters of a value that `information_schema.SYSTEM_VARIABLES` shows. It cuts
/// longer ones.
const VALUE_CHARS: usize = 2048;

/// A variable with its value, as SET takes it in the `sql_mode` that is empty. `kind` is its
/// type, as `information_schema.SYSTEM_VARIABLES` names it.
///
/// # Errors
/// When the name is none, or the value is no text or may have been cut.
pub(crate) fn assignment(
    name: &[u8],
    value: Option<&[u8]>,
    kind: &[u8],
) -> Result<String, Refusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let name = std::str::from_utf8(name).ok();
    let name = name.filter(|name| name.bytes().all(plain));
    let name = name.ok_or_else(Refusal::malformed)?;
    let text = value.map(std::str::from_utf8).transpose();
    let text = text.map_err(|_| Refusal::malformed())?;
    let number = kind.windows(3).any(|three| three == b"INT") || kind.starts_with(b"DOUBLE");
    if text.is_some_and(|text| text.chars().count() >= VALUE_CHARS) {
        return Err(Refusal::gone(format!("the value of {name} is too long")));
    }
    let value = match text {
        None => "NULL".to_owned(),
        Some(text) if number && text.parse::<f64>().is_ok() => text.to_owned(),
        Some(text) => quoted(text),
    };
    Ok(format!("{name} = {value}"))
}

/// Text as a literal of one line, in the `sql_mode` that is empty.
fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            _ => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// The bytes that `HEX()` has written.
///
/// # Errors
/// When it has not.
pub(crate) fn unhex(text: &[u8]) -> Result<Vec<u8>, Refusal> {
    let digit = |byte: u8| {
        let digit = char::from(byte).to_digit(16);
        digit
            .map(|digit| digit as u8)
            .ok_or_else(Refusal::malformed)
    };
    let pairs = text.chunks(2).map(|pair| match pair {
        [high, low] => Ok(digit(*high)? << 4 | digit(*low)?),
        _ => Err(Refusal::malformed()),
    });
    pairs.collect()
}
