//! Time and randomness, the two things that code takes from the process around
//! it. Both are passed in as values, so that a test can hold them; the lints in
//! `clippy.toml` ban the ambient ones everywhere else.

mod clock;
mod entropy;

pub use clock::Clock;
pub use entropy::Entropy;
