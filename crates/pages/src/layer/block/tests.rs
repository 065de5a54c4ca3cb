//! Blocks: round trips, and every flipped bit is found.

use super::*;

#[test]
fn blocks_come_back_whole() {
    for payload in [&b""[..], b"x", &[7; 50_000], b"no two bytes are alike"] {
        for kind in [
            BlockKind::Data,
            BlockKind::Index,
            BlockKind::Filter,
            BlockKind::Root,
        ] {
            let mut out = b"before".to_vec();
            for codec in [Codec::Fast, Codec::Dense] {
                out.truncate(6);
                encode(&mut out, 42, 6, kind, codec, payload);
                assert_eq!(decode(&out[6..], 42, 6, kind).unwrap(), payload);
                assert!(decode(&out[6..], 43, 6, kind).is_err(), "another layer's");
                assert!(decode(&out[6..], 42, 7, kind).is_err(), "in another place");
            }
        }
    }
    let mut out = Vec::new();
    encode(&mut out, 0, 0, BlockKind::Data, Codec::Fast, &[7; 50_000]);
    assert!(out.len() < 1000);
    assert!(decode(&out, 0, 0, BlockKind::Index).is_err());
}

#[test]
fn every_flipped_bit_is_found() {
    let mut out = Vec::new();
    encode(
        &mut out,
        1,
        0,
        BlockKind::Data,
        Codec::Fast,
        &b"abcabcabcabc".repeat(20),
    );
    for bit in 0..out.len() * 8 {
        let mut bad = out.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bad, 1, 0, BlockKind::Data).is_err(), "bit {bit}");
    }
    for len in 0..out.len() {
        assert!(
            decode(&out[..len], 1, 0, BlockKind::Data).is_err(),
            "cut to {len}"
        );
    }
}

#[test]
fn contexts_are_used_again_unless_they_failed() {
    let contexts = Contexts(Mutex::new(Vec::new()));
    let made = std::cell::Cell::new(0);
    let make = || {
        made.set(made.get() + 1);
        Ok(made.get())
    };
    assert_eq!(contexts.with(make, |n| Ok(*n)).unwrap(), 1);
    assert_eq!(contexts.with(make, |n| Ok(*n)).unwrap(), 1);
    // Two at once are two.
    let both = contexts.with(make, |one| {
        let one = *one;
        contexts.with(make, |two| Ok((one, *two)))
    });
    assert_eq!(both.unwrap(), (1, 2));
    for _ in 0..2 {
        let failed = contexts.with(make, |_| Err::<(), _>(io::ErrorKind::Other.into()));
        assert!(failed.is_err());
    }
    assert_eq!(contexts.with(make, |n| Ok(*n)).unwrap(), 3);
}
