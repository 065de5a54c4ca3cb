//! Numbers and bytes come back; what is cut short is `None`.

use super::*;

#[test]
fn numbers_come_back() {
    for v in [
        0,
        1,
        127,
        128,
        300,
        u64::from(u32::MAX),
        u64::MAX - 1,
        u64::MAX,
    ] {
        let mut out = Vec::new();
        put_varint(&mut out, v);
        assert_eq!(Dec(&out).varint(), Some(v));
        out.pop();
        assert_eq!(Dec(&out).varint(), None);
    }
    assert_eq!(Dec(&[0xff; 11]).varint(), None);
    let mut out = Vec::new();
    put_bytes(&mut out, b"abc");
    assert_eq!(Dec(&out).bytes(), Some(&b"abc"[..]));
    assert_eq!(Dec(&out[..3]).bytes(), None);
    assert_eq!(Dec(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1]).bytes(), None);
}
