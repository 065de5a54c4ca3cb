//! One key: an Ed25519 private key in a PEM file (PKCS #8, RFC 8410), as
//! `openssl genpkey -algorithm ed25519` writes it.

use crate::error::RingError;
use jsonwebtoken::{DecodingKey, EncodingKey};
use ring::digest::{SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::io;
use std::path::Path;
use xylem_ambient::Entropy;

/// The beginning of an Ed25519 private key in PKCS #8, version 1, before the 32 bytes
/// of the key itself (RFC 8410, section 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The label of a private key's PEM file.
const LABEL: &str = "PRIVATE KEY";

/// A key of a ring.
pub(crate) struct Key {
    /// Names the key in a token's header: the beginning of the SHA-256 of its public
    /// half, 16 hexadecimal digits.
    pub id: String,
    pub signs: EncodingKey,
    pub verifies: DecodingKey,
}

/// A new private key, as a PEM file.
pub(crate) fn generate(entropy: &Entropy) -> io::Result<String> {
    let mut der = PKCS8.to_vec();
    for _ in 0..2 {
        der.extend_from_slice(&entropy.next()?.to_le_bytes());
    }
    Ok(pem::encode(&pem::Pem::new(LABEL, der)))
}

/// Reads the key in the file `path`.
pub(crate) fn read(path: &Path) -> Result<Key, RingError> {
    let text = std::fs::read(path).map_err(RingError::io("read", path))?;
    let file = pem::parse(text).map_err(|error| RingError::content(path, error))?;
    if file.tag() != LABEL {
        return Err(RingError::content(
            path,
            format!("it holds a {:?} and no {LABEL:?}", file.tag()),
        ));
    }
    let der = file.contents();
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
        .map_err(|error| RingError::content(path, format!("no Ed25519 key: {error}")))?;
    let public = pair.public_key().as_ref();
    let id = digest(&SHA256, public).as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Key {
        id,
        signs: EncodingKey::from_ed_der(der),
        verifies: DecodingKey::from_ed_der(public),
    })
}
