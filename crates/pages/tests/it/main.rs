//! All tests of the crate in one program: each program that is linked costs
//! seconds and megabytes.
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait for real threads, by the system's clock"
)]

mod common;
mod concurrent;
mod corruption;
mod crash;
mod fork;
mod golden;
mod history;
mod inspect;
mod load;
mod local_wal;
mod memory;
mod merges;
mod model;
mod objects;
mod owners;
mod read_ahead;
mod scrub;
mod scrub_live;
mod spaces;
mod upkeep;
