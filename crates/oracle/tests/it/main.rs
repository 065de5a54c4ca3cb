//! All tests of the crate in one program, because linking each program costs
//! seconds and megabytes.

mod attach;
mod recovery;
