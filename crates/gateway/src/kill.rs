//! `KILL`, whose number is the gateway's for clients that came through it.

use std::ops::Range;

/// The gateway's numbers of connections begin here. MariaDB counts its own from 1, so that
/// a number tells whose it is.
pub(crate) const FIRST_ID: u32 = 1 << 31;

/// Finds the number in a statement `KILL [HARD | SOFT] [CONNECTION | QUERY] number`, with
/// comments and spaces as MariaDB takes them: its place and its value. `None` for any
/// other statement, also for `KILL QUERY ID`, whose number is a statement's.
pub(crate) fn number(statement: &[u8]) -> Option<(Range<usize>, u32)> {
    let mut at = blanks(statement, 0);
    let mut words = 0;
    loop {
        let rest = &statement[at..];
        let letters = rest.iter().take_while(|c| c.is_ascii_alphabetic()).count();
        let word = &rest[..letters];
        let fits = match words {
            0 => word.eq_ignore_ascii_case(b"KILL"),
            _ => [&b"HARD"[..], b"SOFT", b"CONNECTION", b"QUERY"]
                .iter()
                .any(|known| word.eq_ignore_ascii_case(known)),
        };
        if letters == 0 && words > 0 {
            break;
        }
        if !fits || words == 4 {
            return None;
        }
        words += 1;
        at = blanks(statement, at + letters);
    }
    let digits = statement[at..].iter().take_while(|c| c.is_ascii_digit());
    let range = at..at + digits.count();
    let text = std::str::from_utf8(&statement[range.clone()]).ok()?;
    Some((range, text.parse().ok()?))
}

/// Whether a statement that begins so may be one for [`number`].
pub(crate) fn may_be(beginning: &[u8]) -> bool {
    let at = blanks(beginning, 0);
    matches!(
        beginning.get(at),
        None | Some(b'k' | b'K' | b'/' | b'#' | b'-')
    )
}

/// The place behind blanks and comments from `at` on.
fn blanks(statement: &[u8], mut at: usize) -> usize {
    loop {
        let rest = &statement[at..];
        let spaces = rest.iter().take_while(|c| c.is_ascii_whitespace()).count();
        at += spaces;
        let rest = &statement[at..];
        let comment = if rest.starts_with(b"/*") && !rest.starts_with(b"/*!") {
            rest.windows(2)
                .skip(2)
                .position(|two| two == b"*/")
                .map(|end| end + 4)
        } else if rest.starts_with(b"#") || rest.starts_with(b"-- ") {
            rest.iter().position(|&c| c == b'\n').map(|end| end + 1)
        } else {
            None
        };
        match comment {
            Some(length) => at += length,
            None => return at,
        }
    }
}
