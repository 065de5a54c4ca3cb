//! All tests of the crate in one program, because linking each program costs
//! seconds and megabytes.

mod cache;
mod capi;
mod common;
mod frames;
mod garbage;
mod leader;
mod mariadbd;
mod pages;
mod pool;
mod redo;
mod sending;
mod sidefiles;
mod stress;
mod tls;
mod units;
