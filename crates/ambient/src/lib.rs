//! Time and randomness, the two inputs that code would otherwise take from the
//! process around it. Both are passed in as values, so that a test can control
//! them. The lints in `clippy.toml` ban the ambient ones everywhere else.

mod clock;
mod entropy;

pub use clock::Clock;
pub use entropy::Entropy;
