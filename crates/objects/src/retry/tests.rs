//! The waits between attempts.

use super::Retry;
use std::time::Duration;
use xylem_ambient::Entropy;

#[test]
fn waits_double_up_to_a_limit_and_lie_in_its_upper_half() {
    let retry = Retry {
        first_wait: Duration::from_millis(50),
        longest_wait: Duration::from_millis(1000),
        ..Retry::default()
    };
    for seed in 0..100 {
        let mut waits = retry.waits(&Entropy::new(move || Ok(seed)));
        for limit_ms in [50, 100, 200, 400, 800, 1000, 1000, 1000] {
            let limit = Duration::from_millis(limit_ms);
            let wait = waits.next_wait();
            assert!(wait >= limit / 2 && wait <= limit, "{wait:?} of {limit:?}");
        }
    }
}

#[test]
fn the_same_entropy_gives_the_same_waits() {
    let draw = |seed: u128| {
        let mut waits = Retry::default().waits(&Entropy::new(move || Ok(seed)));
        std::array::from_fn::<_, 8, _>(|_| waits.next_wait())
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn waits_go_on_for_ever() {
    let mut waits = Retry::default().waits(&Entropy::new(|| Ok(1)));
    let longest = Retry::default().longest_wait;
    assert!(waits.nth_wait(10_000) >= longest / 2);
}
