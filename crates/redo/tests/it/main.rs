//! All tests of the crate in one program: each program that is linked costs
//! seconds and megabytes.

mod apply;
mod common;
mod describe;
mod framing;
mod items;
mod legacy;
mod logfile;
mod nameslog;
mod records;
mod robust;
mod seal;
