//! Errors as MariaDB's clients know them.

use std::borrow::Cow;

/// An error for a client: MariaDB's number and SQLSTATE, and a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// MariaDB's number of the error.
    pub code: u16,
    /// Its SQLSTATE.
    pub state: [u8; 5],
    /// The message.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// An error with MariaDB's number `code` and the SQLSTATE `state`.
    pub fn new(code: u16, state: [u8; 5], message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            code,
            state,
            message: message.into(),
        }
    }

    /// `ER_HANDSHAKE_ERROR`: the peer does not speak the protocol.
    pub fn handshake(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(1043, *b"08S01", message)
    }

    /// A packet that ends early or has a wrong length.
    pub(crate) fn malformed() -> Refusal {
        Refusal::handshake("Bad handshake: a packet ends early")
    }

    /// `ER_BAD_DB_ERROR`: there is no such branch.
    pub fn no_branch(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(1049, *b"42000", message)
    }

    /// `ER_CON_COUNT_ERROR`: as many connections are open as there may be.
    pub fn too_many(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(1040, *b"08004", message)
    }

    /// `ER_SERVER_SHUTDOWN`: the gateway or the compute ends; another attempt may work.
    pub fn gone(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(1053, *b"08S01", message)
    }

    /// `ER_LOCK_DEADLOCK`: the transaction was rolled back, and can be tried again.
    pub(crate) fn rolled_back(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(1213, *b"40001", message)
    }

    /// The payload of an error packet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0xff];
        out.extend_from_slice(&self.code.to_le_bytes());
        out.push(b'#');
        out.extend_from_slice(&self.state);
        out.extend_from_slice(self.message.as_bytes());
        out
    }
}
