//! The record of a token that was made: all but the token itself.

use crate::claims::RightOn;
use serde::{Deserialize, Serialize};

/// A token that was made. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The token's id.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// The rights that it has.
    pub rights: Vec<RightOn>,
    /// When it was made.
    pub created: u64,
    /// When it ends; `None`: never.
    pub expires: Option<u64>,
    /// The id of the key that has signed it.
    pub key: String,
}
