//! All tests of the crate in one program: each program that is linked costs
//! seconds and megabytes.

mod cli;
mod inspect;
mod kit;
