//! All tests of the crate in one program: each program that is linked costs
//! seconds and megabytes.
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait for real time, and end when it is over"
)]

mod bucket;
mod cache;
mod common;
mod failures;
mod http;
mod kill;
mod open;
