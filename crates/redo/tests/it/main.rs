//! All tests of the crate in one program, because linking each program costs
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
