//! InnoDB's variable-length integers: 1 to 5 bytes. The leading one bits of the
//! first byte give the length. Each length begins where the range of the shorter
//! one ends, so that every integer has one encoding.
//!
//! Source: `mtr0types.h` (layout), `mlog_encode_varint()` in `mtr0log.h`,
//! `mlog_decode_varint()` in `log0recv.cc`.

/// Smallest integer that takes two bytes.
pub const MIN_2BYTE: u32 = 1 << 7;
/// Smallest integer that takes three bytes.
pub const MIN_3BYTE: u32 = MIN_2BYTE + (1 << 14);
/// Smallest integer that takes four bytes.
pub const MIN_4BYTE: u32 = MIN_3BYTE + (1 << 21);
/// Smallest integer that takes five bytes.
pub const MIN_5BYTE: u32 = MIN_4BYTE + (1 << 28);

/// The length in bytes of an integer whose first byte is `first`; more than 5 if
/// no integer begins with `first`.
#[inline]
pub const fn len_from_first(first: u8) -> usize {
    1 + first.leading_ones() as usize
}

/// Decodes the integer at the start of `b`. Returns its value and its length in
/// bytes; `None` if `b` is too short or does not begin with an integer.
#[inline]
pub fn decode(b: &[u8]) -> Option<(u32, usize)> {
    let (&first, rest) = b.split_first()?;
    let f = u32::from(first);
    // Most have one or two bytes.
    if first < 0x80 {
        return Some((f, 1));
    }
    if first < 0xc0 {
        let &x = rest.first()?;
        return Some((MIN_2BYTE + ((f & 0x3f) << 8 | u32::from(x)), 2));
    }
    decode_long(f, rest)
}

/// Decodes an integer of three and more bytes: its first one, and the others.
fn decode_long(f: u32, rest: &[u8]) -> Option<(u32, usize)> {
    match f {
        0xc0..=0xdf => {
            let [x, y, ..] = *rest else { return None };
            Some((
                MIN_3BYTE + ((f & 0x1f) << 16 | u32::from(x) << 8 | u32::from(y)),
                3,
            ))
        }
        0xe0..=0xef => {
            let [x, y, z, ..] = *rest else { return None };
            Some((
                MIN_4BYTE + ((f & 0x0f) << 24 | u32::from_be_bytes([0, x, y, z])),
                4,
            ))
        }
        0xf0 => {
            let [x, y, z, w, ..] = *rest else { return None };
            u32::from_be_bytes([x, y, z, w])
                .checked_add(MIN_5BYTE)
                .map(|v| (v, 5))
        }
        _ => None,
    }
}

/// Appends the encoding of `value` to `out`.
pub fn encode(out: &mut Vec<u8>, value: u32) {
    // The casts keep the low bytes, which are the ones to store.
    #![allow(clippy::cast_possible_truncation)]
    if value < MIN_2BYTE {
        out.push(value as u8);
    } else if value < MIN_3BYTE {
        let v = value - MIN_2BYTE;
        out.extend_from_slice(&[0x80 | (v >> 8) as u8, v as u8]);
    } else if value < MIN_4BYTE {
        let v = value - MIN_3BYTE;
        out.extend_from_slice(&[0xc0 | (v >> 16) as u8, (v >> 8) as u8, v as u8]);
    } else if value < MIN_5BYTE {
        let v = value - MIN_4BYTE;
        let b = v.to_be_bytes();
        out.extend_from_slice(&[0xe0 | b[0], b[1], b[2], b[3]]);
    } else {
        out.push(0xf0);
        out.extend_from_slice(&(value - MIN_5BYTE).to_be_bytes());
    }
}
