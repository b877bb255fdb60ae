//! Patterns as they are written.

/// The octets that a pattern stands for, or where a backslash stands that starts no escape.
pub(super) fn octets(text: &str) -> Result<Vec<u8>, usize> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        if first == b'\\' {
            let (octet, len) = escape(behind).ok_or(text.len() - rest.len())?;
            out.push(octet);
            rest = behind.get(len..).unwrap_or_default();
        } else {
            out.push(first);
            rest = behind;
        }
    }
    Ok(out)
}

/// The octet that an escape stands for, and its length without the backslash.
fn escape(behind: &[u8]) -> Option<(u8, usize)> {
    match behind {
        [b'x', high, low, ..] => Some((hex(*high)? << 4 | hex(*low)?, 3)),
        [b'\\', ..] => Some((b'\\', 1)),
        [b'n', ..] => Some((b'\n', 1)),
        [b'r', ..] => Some((b'\r', 1)),
        [b't', ..] => Some((b'\t', 1)),
        [b'0', ..] => Some((0, 1)),
        _ => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}
