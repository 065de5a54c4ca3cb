//! The rule beside a simulated store, with clients who always have more.

use super::{Go, Pace};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
const SMALL: u64 = 700;

/// A store that carries out so many puts at a time, in order.
struct Store {
    free: Vec<Instant>,
    /// How long it is at work on each.
    work: Duration,
    /// The way there and back.
    way: Duration,
}

/// A store and the rule, at a moment.
struct Run {
    pace: Pace,
    store: Store,
    now: Instant,
    /// When puts that are on their way arrive, and when they were sent.
    under_way: BTreeSet<(Instant, Instant)>,
}

/// The objects sent in a while.
#[derive(Debug)]
struct Seen {
    per_second: f64,
    most_under_way: usize,
    longest: Duration,
}

impl Run {
    fn new(servers: usize, work: Duration, way: Duration) -> Run {
        let mut run = Run {
            pace: Pace::new(16, 2000),
            store: Store {
                free: Vec::new(),
                work,
                way,
            },
            now: Instant::now(),
            under_way: BTreeSet::new(),
        };
        run.change(servers, work, way);
        run
    }

    /// From now on the store is like this.
    fn change(&mut self, servers: usize, work: Duration, way: Duration) {
        self.store = Store {
            free: vec![self.now; servers],
            work,
            way,
        };
    }

    fn send(&mut self) {
        let Store { free, work, way } = &mut self.store;
        free.sort_unstable();
        free[0] = free[0].max(self.now) + *work;
        self.under_way.insert((free[0] + *way, self.now));
        self.pace.sent(self.now);
    }

    fn last(&mut self, lasts: Duration) -> Seen {
        let until = self.now + lasts;
        let (mut sent, mut most, mut longest) = (0, 0, Duration::ZERO);
        while self.now < until {
            let mut next = until;
            match self.pace.next(self.now, self.under_way.len(), false) {
                Go::Now => {
                    self.send();
                    sent += 1;
                    most = most.max(self.under_way.len());
                    continue;
                }
                Go::At(at) => next = next.min(at),
                Go::Arrival => assert!(!self.under_way.is_empty(), "it would wait for ever"),
            }
            if let Some((at, began)) = self.under_way.first().copied()
                && at <= next
            {
                self.under_way.pop_first();
                self.now = at;
                longest = longest.max(at - began);
                self.pace.arrived(at, at - began, SMALL);
            } else {
                self.now = next;
            }
        }
        Seen {
            per_second: f64::from(sent) / lasts.as_secs_f64(),
            most_under_way: most,
            longest,
        }
    }
}

#[test]
fn a_store_that_is_far_away_is_sent_eight_objects_to_a_latency() {
    for latency in [5, 20, 50] {
        let mut run = Run::new(100, MS / 100, MS * latency);
        run.last(MS * latency * 100);
        let seen = run.last(MS * latency * 100);
        let to_a_latency = seen.per_second * f64::from(latency) / 1e3;
        assert!((7.5..8.5).contains(&to_a_latency), "{latency}: {seen:?}");
        assert!(seen.most_under_way <= 9, "{seen:?}");
    }
}

#[test]
fn a_saturated_store_is_not_pushed_further() {
    // Two puts at a time, 1000 in a second; more of them on their way wait.
    let mut run = Run::new(2, MS * 2, MS / 10);
    for _ in 0..10 {
        let seen = run.last(Duration::from_secs(10));
        assert!(seen.most_under_way <= 8, "{seen:?}");
        assert!(seen.per_second > 900.0, "{seen:?}");
        assert!(seen.longest < MS * 10, "{seen:?}");
    }
}

#[test]
fn fewer_objects_are_sent_when_latency_grows_with_their_number() {
    let mut run = Run::new(100, MS / 100, MS * 20);
    let before = (run.last(MS * 3000), run.last(MS * 1000)).1;
    assert!(before.most_under_way >= 8, "{before:?}");
    // It was 20 ms away; now it can do 100 in a second.
    run.change(1, MS * 10, MS * 20);
    let after = (run.last(MS * 10_000), run.last(MS * 5000)).1;
    assert!(after.most_under_way <= 6, "{after:?}");
    assert!(after.per_second > 80.0, "{after:?}");
}

#[test]
fn a_store_that_has_become_slow_for_good_is_measured_anew() {
    let mut run = Run::new(100, MS / 100, MS * 10);
    run.last(MS * 5000);
    run.change(100, MS / 100, MS * 40);
    let at_first = (run.last(MS * 5000), run.last(MS * 5000)).1;
    assert!(at_first.per_second < 60.0, "{at_first:?}");
    run.last(MS * 30_000);
    let later = run.last(MS * 5000);
    assert!(later.per_second > 180.0, "{later:?}");
}

#[test]
fn no_more_requests_are_made_than_are_allowed() {
    let mut run = Run::new(100, MS / 1000, MS / 10);
    let seen = run.last(Duration::from_secs(5));
    // The burst, and what the time has earned.
    assert!(seen.per_second <= 2000.0 + 200.0 / 5.0 + 1.0, "{seen:?}");
    assert!(seen.per_second > 1900.0, "{seen:?}");
}

#[test]
fn one_client_alone_never_waits() {
    let mut pace = Pace::new(16, 2000);
    let mut now = Instant::now();
    for _ in 0..1000 {
        assert_eq!(pace.next(now, 0, false), Go::Now);
        pace.sent(now);
        now += MS * 5;
        pace.arrived(now, MS * 5, SMALL);
    }
    // Where nothing was held back, nothing is known of more objects.
    assert_eq!(pace.per_latency, 2);
}

#[test]
fn full_objects_are_sent_at_once_up_to_the_number_that_may_be_on_their_way() {
    let mut run = Run::new(100, MS / 100, MS * 20);
    run.last(MS * 3000);
    let under_way = run.under_way.len();
    run.send();
    assert!(matches!(
        run.pace.next(run.now, under_way, false),
        Go::At(_)
    ));
    assert_eq!(run.pace.next(run.now, 15, true), Go::Now);
    assert_eq!(run.pace.next(run.now, 16, true), Go::Arrival);
    // Their latency is that of their size.
    for _ in 0..100 {
        run.pace.arrived(run.now + MS * 500, MS * 500, 4 << 20);
    }
    assert_eq!(run.pace.usual, Some(MS * 20 + MS / 100));
    assert_eq!(run.pace.late(SMALL), Some((MS * 20 + MS / 100) * 4));
    assert_eq!(run.pace.late(4 << 20), None);
}
