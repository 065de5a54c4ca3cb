//! The filter: no false negatives, few false positives, a hash that stays.

use super::*;

#[test]
fn keys_are_found_and_strangers_mostly_not() {
    let key = |n: u32| [&[1u8, 0, 0, 0, 5][..], &n.to_be_bytes()].concat();
    let hashes: Vec<u64> = (0..50_000).map(|n| hash(&key(n))).collect();
    let pages = build(&hashes);
    let n = pages.len() / FILTER_PAGE;
    let has = |h: u64| {
        let at = page_of(h, n) * FILTER_PAGE;
        may_contain(&pages[at..at + FILTER_PAGE], h)
    };
    assert!(hashes.iter().all(|h| has(*h)));
    let wrong = (50_000..150_000).filter(|n| has(hash(&key(*n)))).count();
    assert!(wrong < 2000, "{wrong} of 100000");
}

#[test]
fn the_hash_is_part_of_the_format() {
    assert_eq!(hash(b""), 0xefd0_1f60_ba99_2926);
    assert_eq!(
        hash(&[1, 0, 0, 0, 5, 0, 0, 0, 7]),
        hash(&[1, 0, 0, 0, 5, 0, 0, 0, 7])
    );
}
