//! Tokens: JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037) by a key of the
//! project. A token says what its bearer may do on which branches, and until when.
//!
//! A project's keys are in one directory, the [`Ring`]. The newest one signs; all of them
//! verify, so that a new key invalidates nothing. The server and the command line read
//! the same directory; nothing else can make a token.

mod claims;
mod error;
mod issued;
mod key;
mod ring;
mod watched;

pub use claims::{Claims, Right, RightOn, Scope};
pub use error::{Refused, RingError};
pub use issued::Issued;
pub use ring::{Ring, Stamp};
pub use watched::Watched;

#[cfg(test)]
mod tests;
