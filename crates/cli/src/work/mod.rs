//! The work of the commands on branches, computes and tokens, of imports and exports, without
//! what they print: the command line and the HTTP API do the same.

pub mod branch;
pub mod compute;
pub mod export;
pub mod import;
pub mod token;

use crate::timing::Timer;

/// The time on `timer` in milliseconds.
fn took_ms(timer: &Timer) -> u64 {
    u64::try_from(timer.elapsed().as_millis()).unwrap_or(u64::MAX)
}
