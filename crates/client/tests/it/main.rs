//! All tests of the crate in one program, because linking each program costs
//! seconds and megabytes.

mod capi;
mod common;
mod garbage;
mod mariadbd;
mod pages;
mod redo;
mod sidefiles;
mod units;
mod wire;
