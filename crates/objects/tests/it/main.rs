//! All tests of the crate in one program: each program that is linked costs
//! seconds and megabytes.

mod bucket;
mod cache;
mod common;
mod failures;
mod http;
mod kill;
mod open;
