//! Random numbers for ids.

use crate::error::ServerError;
use xylem_ambient::Entropy;

/// A random number.
///
/// # Errors
/// The system's source of randomness fails.
pub fn number(entropy: &Entropy) -> Result<u128, ServerError> {
    entropy
        .next()
        .map_err(|source| ServerError::io("cannot get random numbers".to_owned(), source))
}
