//! The beginning of a connection: the greeting, and the client's answer to it.

use crate::bytes::{Reader, put_counted, put_number, put_text};
use crate::refusal::Refusal;

/// Capabilities in a greeting and in the answer to it.
pub(crate) mod caps {
    /// Unset by MariaDB, whose own capabilities follow then.
    pub const MYSQL: u32 = 1;
    pub const CONNECT_WITH_DB: u32 = 1 << 3;
    pub const COMPRESS: u32 = 1 << 5;
    pub const PROTOCOL_41: u32 = 1 << 9;
    pub const SSL: u32 = 1 << 11;
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    pub const CONNECT_ATTRS: u32 = 1 << 20;
    pub const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
    /// Change the form of what follows the login, so that both sides must have them.
    pub const FORM: u32 = PROTOCOL_41 | SESSION_TRACK | DEPRECATE_EOF;
    const SESSION_TRACK: u32 = 1 << 23;
    pub const DEPRECATE_EOF: u32 = 1 << 24;
}

/// The version of the protocol.
const VERSION: u8 = 10;
/// The plugin that the greeting names. The client's answer by it is not used, unless it is one
/// without a password.
const NATIVE: &[u8] = b"mysql_native_password";
/// A plugin that no account has. A server that is told that the client prefers it asks
/// the client to use the account's own, with a challenge.
const NONE: &[u8] = b"xylem_gateway";
/// The payload of a request for TLS: the beginning of an answer.
const SSL_REQUEST_BYTES: usize = 32;

/// The first packet of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub version: Vec<u8>,
    /// The connection's id.
    pub id: u32,
    pub challenge: [u8; 20],
    pub caps: u32,
    /// MariaDB's own capabilities.
    pub more_caps: u32,
    pub charset: u8,
    pub status: u16,
}

impl Greeting {
    /// The payload of the packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_text(&mut out, &self.version);
        out.extend_from_slice(&self.id.to_le_bytes());
        let (first, second) = self.challenge.split_at(8);
        out.extend_from_slice(first);
        out.push(0);
        let [a, b, c, d] = self.caps.to_le_bytes();
        out.extend([a, b, self.charset]);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend([c, d, self.challenge.len() as u8 + 1]);
        out.extend([0; 6]);
        out.extend_from_slice(&self.more_caps.to_le_bytes());
        put_text(&mut out, second);
        put_text(&mut out, NATIVE);
        out
    }

    /// Reads the payload of a packet.
    ///
    /// # Errors
    /// When it is no greeting of version 10.
    pub fn decode(payload: &[u8]) -> Result<Greeting, Refusal> {
        let mut from = Reader::new(payload);
        if from.u8()? != VERSION {
            return Err(Refusal::handshake("Bad handshake of the compute"));
        }
        let version = from.text().to_vec();
        let id = from.u32()?;
        let mut challenge = [0; 20];
        challenge[..8].copy_from_slice(from.bytes(8)?);
        from.u8()?;
        let low = from.u16()?;
        let charset = from.u8()?;
        let status = from.u16()?;
        let high = from.u16()?;
        let caps = u32::from(low) | u32::from(high) << 16;
        from.bytes(1 + 6)?;
        let more_caps = from.u32()?;
        challenge[8..].copy_from_slice(from.bytes(12)?);
        Ok(Greeting {
            version,
            id,
            challenge,
            caps,
            more_caps: match caps & caps::MYSQL {
                0 => more_caps,
                _ => 0,
            },
            charset,
            status,
        })
    }
}

/// Whether a client's first packet asks for TLS.
pub(crate) fn asks_for_tls(payload: &[u8]) -> bool {
    let caps = payload
        .first_chunk()
        .map(|bytes| u32::from_le_bytes(*bytes));
    payload.len() == SSL_REQUEST_BYTES && caps.is_some_and(|caps| caps & caps::SSL != 0)
}

/// A client's answer to the greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub caps: u32,
    pub more_caps: u32,
    pub packet_max: u32,
    pub charset: u8,
    pub user: Vec<u8>,
    pub database: Vec<u8>,
    /// It has answered the greeting's plugin, without a password. That needs no challenge, and a
    /// compute that is told so answers as it would to the client itself. (sqlx does not answer
    /// a switch to this plugin without a password as it should.)
    pub without_password: bool,
    /// The connection attributes, as they came.
    pub attributes: Vec<u8>,
}

impl Answer {
    /// Reads the payload of a packet.
    ///
    /// # Errors
    /// When it ends early, or the client is too old.
    pub fn decode(payload: &[u8]) -> Result<Answer, Refusal> {
        let mut from = Reader::new(payload);
        let caps = from.u32()?;
        let needed = caps::PROTOCOL_41 | caps::SECURE_CONNECTION | caps::PLUGIN_AUTH;
        if caps & needed != needed {
            // ER_NOT_SUPPORTED_AUTH_MODE
            return Err(Refusal::new(
                1251,
                *b"08004",
                "Client does not support authentication protocol requested by server; consider upgrading the client",
            ));
        }
        let packet_max = from.u32()?;
        let charset = from.u8()?;
        from.bytes(19)?;
        let more_caps = from.u32()?;
        let user = from.text().to_vec();
        let response = if caps & caps::PLUGIN_AUTH_LENENC != 0 {
            from.counted()?
        } else {
            let count = from.u8()?;
            from.bytes(count.into())?
        };
        let has_response = !response.is_empty();
        let database = match caps & caps::CONNECT_WITH_DB {
            0 => Vec::new(),
            _ => from.text().to_vec(),
        };
        // The account's plugin is asked for anyway.
        let without_password = from.text() == NATIVE && !has_response;
        let attributes = match caps & caps::CONNECT_ATTRS {
            0 => &[],
            _ if from.rest().is_empty() => &[],
            _ => from.counted()?,
        };
        Ok(Answer {
            caps,
            more_caps: match caps & caps::MYSQL {
                0 => more_caps,
                _ => 0,
            },
            packet_max,
            charset,
            user,
            database,
            without_password,
            attributes: attributes.to_vec(),
        })
    }

    /// The value of the connection attribute `name`, if the client gave one.
    ///
    /// # Errors
    /// When the attributes end early.
    pub fn attribute(&self, name: &[u8]) -> Result<Option<&[u8]>, Refusal> {
        let mut all = Reader::new(&self.attributes);
        while !all.rest().is_empty() {
            let (key, value) = (all.counted()?, all.counted()?);
            if key == name {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The payload of the request for TLS that comes before [`Answer::encode`]'s packet.
    pub fn ask_for_tls(&self) -> Vec<u8> {
        let mut out = self.encode(true);
        out.truncate(SSL_REQUEST_BYTES);
        out
    }

    /// The payload of a packet for a server, which makes it ask for the account's plugin, unless
    /// the client has no password. The client's TLS and compression end at the gateway.
    /// `secure`: the connection to the server has TLS.
    pub fn encode(&self, secure: bool) -> Vec<u8> {
        let mut caps = self.caps & !(caps::SSL | caps::COMPRESS | caps::CONNECT_WITH_DB);
        caps |= caps::PLUGIN_AUTH_LENENC;
        if !self.database.is_empty() {
            caps |= caps::CONNECT_WITH_DB;
        }
        if secure {
            caps |= caps::SSL;
        }
        let mut out = caps.to_le_bytes().to_vec();
        out.extend_from_slice(&self.packet_max.to_le_bytes());
        out.push(self.charset);
        out.extend([0; 19]);
        out.extend_from_slice(&self.more_caps.to_le_bytes());
        put_text(&mut out, &self.user);
        put_number(&mut out, 0);
        if !self.database.is_empty() {
            put_text(&mut out, &self.database);
        }
        put_text(&mut out, if self.without_password { NATIVE } else { NONE });
        if caps & caps::CONNECT_ATTRS != 0 {
            put_counted(&mut out, &self.attributes);
        }
        out
    }
}

/// The command by which a client becomes another user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangeUser<'a> {
    pub user: &'a [u8],
    pub database: &'a [u8],
    /// The character set, the plugin and the attributes, as they came.
    rest: &'a [u8],
}

impl<'a> ChangeUser<'a> {
    /// Reads the payload of a packet behind its command.
    ///
    /// # Errors
    /// When it ends early.
    pub fn decode(payload: &'a [u8]) -> Result<ChangeUser<'a>, Refusal> {
        let mut from = Reader::new(payload);
        let user = from.text();
        from.counted()?;
        let database = from.text();
        Ok(ChangeUser {
            user,
            database,
            rest: from.rest(),
        })
    }

    /// The payload behind the command, which makes the server ask for the account's
    /// plugin.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, self.user);
        out.push(0);
        put_text(&mut out, self.database);
        let mut rest = Reader::new(self.rest);
        if let Ok(charset) = rest.bytes(2) {
            out.extend_from_slice(charset);
            rest.text();
            put_text(&mut out, NONE);
            out.extend_from_slice(rest.rest());
        }
        out
    }
}
