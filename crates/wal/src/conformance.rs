//! The suite that every backend of [`Wal`] passes: each guarantee of the
//! contract, as a test that panics where it is broken.
//!
//! A backend describes itself as a [`Store`] and calls [`run`] from a test;
//! [`history`] is for a property test that draws the seeds.

mod history;
mod lifecycle;
mod line;
mod reading;
mod store;
mod times;
mod tools;
mod writing;

pub use history::history;
pub use store::{HandClock, Store};

use crate::BoxFuture;

type Case = fn(&dyn Store) -> BoxFuture<'_, ()>;

const CASES: &[(&str, Case)] = &[
    ("a new WAL is empty", |s| {
        Box::pin(lifecycle::new_wal_is_empty(s))
    }),
    (
        "durable entries are there after the WAL is opened again",
        |s| Box::pin(lifecycle::durable_after_reopen(s)),
    ),
    ("durable entries survive a crash", |s| {
        Box::pin(lifecycle::durable_after_crash(s))
    }),
    ("closing waits for what is queued", |s| {
        Box::pin(lifecycle::close_drains(s))
    }),
    ("nothing is taken after closing", |s| {
        Box::pin(lifecycle::closed_refuses(s))
    }),
    ("a second opener is refused", |s| {
        Box::pin(lifecycle::second_opener(s))
    }),
    ("an epoch's number is never given twice", |s| {
        Box::pin(lifecycle::epochs_not_reused(s))
    }),
    ("epochs are known after everything was trimmed", |s| {
        Box::pin(lifecycle::epochs_after_trim(s))
    }),
    ("entries come back in order, once, whole", |s| {
        Box::pin(reading::order(s))
    }),
    ("every position can be read from", |s| {
        Box::pin(reading::from_every_position(s))
    }),
    ("positions that are none are refused", |s| {
        Box::pin(reading::no_such_position(s))
    }),
    ("a reader follows", |s| Box::pin(reading::follow(s))),
    ("readers see only what is durable", |s| {
        Box::pin(reading::only_durable(s))
    }),
    ("trimming lets go of the past and of nothing else", |s| {
        Box::pin(reading::trim(s))
    }),
    ("times are the clock's", |s| {
        Box::pin(times::of_the_clock(s))
    }),
    ("times do not go back with the clock", |s| {
        Box::pin(times::never_back(s))
    }),
    ("a clock that is set is followed and told", |s| {
        Box::pin(times::steps(s))
    }),
    ("frames are numbered without a gap", |s| {
        Box::pin(line::numbering(s))
    }),
    ("a refused group changes nothing", |s| {
        Box::pin(line::refused_group(s))
    }),
    ("a resend is taken once", |s| Box::pin(line::resend(s))),
    ("a frame that is too large is refused", |s| {
        Box::pin(line::too_large(s))
    }),
    ("an epoch must be sealed and begun", |s| {
        Box::pin(line::begin_rules(s))
    }),
    ("old epochs are fenced", |s| Box::pin(line::fenced(s))),
    ("late frames of an old epoch stay out", |s| {
        Box::pin(line::late_frames(s))
    }),
    ("concurrent seals get different epochs", |s| {
        Box::pin(line::concurrent_seals(s))
    }),
    ("a computes' fight leaves one line", |s| {
        Box::pin(writing::takeovers(s))
    }),
    ("concurrent appends of one epoch are taken once", |s| {
        Box::pin(writing::concurrent(s))
    }),
    ("memory is bounded and the writer waits", |s| {
        Box::pin(writing::back_pressure(s))
    }),
    ("a group larger than the queue passes", |s| {
        Box::pin(writing::large_group(s))
    }),
    ("a fenced append that waits for room is let go", |s| {
        Box::pin(writing::fenced_while_waiting(s))
    }),
    ("an append that is given up leaves no gap", |s| {
        Box::pin(writing::cancelled(s))
    }),
];

/// Runs every test, each on a new store.
///
/// # Panics
/// When a guarantee is broken.
pub fn run<S: Store>(make: impl Fn() -> S) {
    for (name, case) in CASES {
        println!("conformance: {name}");
        let store = make();
        tools::block_on(case(&store));
    }
    for seed in 0..8 {
        println!("conformance: random history {seed}");
        history(&make(), seed, 60);
    }
}
