#![allow(clippy::unwrap_used)]

use super::{Head, NONE, Pages};
use std::collections::HashMap;

/// Pages of a few tablespaces, as consecutive as real ones, page 0 among them.
fn page(n: u64) -> u64 {
    ((n % 3) << 32) | (n / 3)
}

#[test]
fn it_is_a_map() {
    let mut pages = Pages::default();
    let mut model: HashMap<u64, u32> = HashMap::new();
    assert!(pages.get(0).is_none());
    for n in 0..200_000u32 {
        // Some come again, early and late.
        let page = page(u64::from(n) * 7919 % 90_000);
        let before = model.insert(page, n);
        pages.change(page, |head| {
            assert_eq!(head.last, before.unwrap_or(NONE), "page {page}");
            assert_eq!(head.weight, before.map_or(0, |b| b ^ 1));
            *head = Head {
                last: n,
                weight: n ^ 1,
            };
        });
    }
    assert_eq!(pages.len(), model.len());
    let mut keys: Vec<u64> = pages.keys().collect();
    keys.sort_unstable();
    let mut wanted: Vec<u64> = model.keys().copied().collect();
    wanted.sort_unstable();
    assert_eq!(keys, wanted);
    for (page, last) in &model {
        assert_eq!(pages.get(*page).unwrap().last, *last);
    }
    for n in 90_000..100_000 {
        assert!(pages.get(page(n)).is_none());
    }
    // A quarter of the slots is empty, and no more than about five eighths.
    let memory = pages.memory() / 16;
    assert!((120_000..=240_000).contains(&memory), "{memory}");
}
