//! All tests of the crate in one program: each program that is linked costs
//! seconds and megabytes.
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait for real time, and end when it is over"
)]

mod backup;
mod backup_golden;
mod common;
mod conformance;
mod empty;
mod failures;
mod golden;
mod object_conformance;
mod object_faults;
mod object_golden;
mod object_line;
mod pen;
mod recovery;
