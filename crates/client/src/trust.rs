//! TLS in the compute: its files, and its cryptography.
//!
//! The cryptography is graviola, because ring is under Apache-2.0 in part, which a
//! GPL-2.0-only server cannot link. It uses instructions that processors have since about
//! 2015, and aborts without them; so that is checked before.

use crate::sidefiles::Uncaptured;
use crate::status::{Error, Status};
use std::path::PathBuf;
use std::sync::Arc;
use xylem_channel::{ClientTls, Identity, PROTOCOL};

/// The trust in these files: authorities, certificate, key. Without authorities there is
/// no TLS.
///
/// # Errors
/// When a file cannot be used, or the processor is too old.
pub fn of(
    [authority, certificate, key]: [Option<PathBuf>; 3],
) -> Result<Option<Arc<ClientTls>>, Error> {
    let _ours = Uncaptured::new();
    let invalid = |message: String| Error::new(Status::Invalid, message);
    let identity = match (certificate, key) {
        (None, None) => None,
        (None, Some(_)) => {
            return Err(invalid(
                "a TLS key is set, but no TLS certificate".to_owned(),
            ));
        }
        (Some(certificate), key) => Some(Identity {
            key: key.unwrap_or_else(|| certificate.clone()),
            certificate,
        }),
    };
    let Some(authority) = authority else {
        return match identity {
            None => Ok(None),
            Some(_) => Err(invalid(
                "a TLS certificate is set, but no authorities (CA) to trust".to_owned(),
            )),
        };
    };
    if let Some(lacks) = lacking() {
        return Err(invalid(format!(
            "TLS is not possible here: this processor lacks {lacks}, which the client library's cryptography needs"
        )));
    }
    let provider = Arc::new(rustls_graviola::default_provider());
    ClientTls::new(provider, PROTOCOL, authority, identity)
        .map(|tls| Some(Arc::new(tls)))
        .map_err(|error| invalid(format!("TLS: {error}")))
}

/// The first instructions that graviola needs and that this processor lacks.
fn lacking() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let there = [
        ("aes", is_x86_feature_detected!("aes")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("bmi1", is_x86_feature_detected!("bmi1")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("adx", is_x86_feature_detected!("adx")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
    ];
    #[cfg(target_arch = "aarch64")]
    let there = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("aes", std::arch::is_aarch64_feature_detected!("aes")),
        ("pmull", std::arch::is_aarch64_feature_detected!("pmull")),
        ("sha2", std::arch::is_aarch64_feature_detected!("sha2")),
    ];
    there
        .into_iter()
        .find_map(|(name, there)| (!there).then_some(name))
}
