//! Tokens that are accepted and refused, and rings that change.

use super::*;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xylem_ambient::{Clock, Entropy};

/// A private key that `openssl genpkey -algorithm ed25519` made.
const OPENSSL: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIGgHby2fzG8O2kA3UTWQ+dJzHoKQUkxQoTRIGqNdIKaI
-----END PRIVATE KEY-----
";

struct Setup {
    dir: tempfile::TempDir,
    seconds: Arc<AtomicU64>,
    clock: Clock,
    entropy: Entropy,
}

impl Setup {
    fn new() -> Setup {
        let seconds = Arc::new(AtomicU64::new(1_000_000));
        let now = Arc::clone(&seconds);
        let setup = Setup {
            dir: tempfile::tempdir().unwrap(),
            seconds,
            clock: Clock::new(move || now.load(Ordering::Relaxed) * 1_000_000),
            entropy: Entropy::system(),
        };
        Ring::create(&setup.keys(), &setup.entropy).unwrap();
        setup
    }

    fn keys(&self) -> std::path::PathBuf {
        self.dir.path().join("keys")
    }

    fn ring(&self) -> Ring {
        Ring::open(&self.keys()).unwrap()
    }

    fn claims(&self, rights: &[(Right, &str)]) -> Claims {
        let rights = rights.iter().map(|(can, on)| RightOn {
            can: *can,
            on: on.parse().unwrap(),
        });
        let ring = self.ring();
        ring.claims("somebody", rights.collect(), &self.clock, &self.entropy)
            .unwrap()
    }

    fn token(&self) -> (Claims, String) {
        let claims = self.claims(&[(Right::Write, "dev")]);
        let token = self.ring().sign(&claims).unwrap();
        (claims, token)
    }
}

#[test]
fn a_token_says_what_it_allows() {
    let setup = Setup::new();
    let claims = setup.claims(&[
        (Right::Admin, "ci/*"),
        (Right::Write, "dev"),
        (Right::Read, "main"),
        (Right::Write, "id:00ff"),
    ]);
    let token = setup.ring().sign(&claims).unwrap();
    let read = setup.ring().verify(&token, &setup.clock).unwrap();
    assert_eq!(read, claims);
    for (right, name, id, allowed) in [
        (Right::Admin, "ci/1", None, true),
        (Right::Read, "ci/1", None, true),
        (Right::Read, "ci", None, false),
        (Right::Admin, "dev", None, false),
        (Right::Write, "dev", None, true),
        (Right::Write, "dev2", None, false),
        (Right::Read, "main", None, true),
        (Right::Write, "main", None, false),
        (Right::Write, "main", Some("00ff"), true),
        (Right::Write, "main", Some("00fe"), false),
        (Right::Admin, "main", Some("00ff"), false),
    ] {
        let said = read.allows(right, name, id);
        assert_eq!(said, allowed, "{right} on {name} {id:?}");
    }
    assert!(!read.allows_all(Right::Read));
    let all = setup.claims(&[(Right::Write, "*")]);
    assert!(all.allows_all(Right::Read) && !all.allows_all(Right::Admin));
    assert!(all.allows(Right::Write, "anything", None));
}

#[test]
fn scopes_are_read_and_written() {
    for text in ["*", "main", "ci/*", "c*", "id:0123abcd"] {
        let scope: Scope = text.parse().unwrap();
        assert_eq!(scope.to_string(), text);
    }
    for text in ["", "**", "a b", "main@1", "id:", "id:xyz", "/*", "a//b"] {
        assert!(text.parse::<Scope>().is_err(), "{text:?}");
    }
}

#[test]
fn a_token_ends() {
    let setup = Setup::new();
    let mut claims = setup.claims(&[(Right::Read, "*")]);
    claims.exp = Some(1_000_100);
    let token = setup.ring().sign(&claims).unwrap();
    let verified = |at: u64| {
        setup.seconds.store(at, Ordering::Relaxed);
        setup.ring().verify(&token, &setup.clock).map(|_| ())
    };
    assert_eq!(verified(1_000_099), Ok(()));
    // Clocks may differ by half a minute.
    assert_eq!(verified(1_000_129), Ok(()));
    assert_eq!(verified(1_000_130), Err(Refused::Expired { seconds: 30 }));
}

#[test]
fn a_revoked_token_is_refused_and_others_are_not() {
    let setup = Setup::new();
    let (claims, token) = setup.token();
    let (_, other) = setup.token();
    Ring::revoke(&setup.keys(), &claims.jti).unwrap();
    Ring::revoke(&setup.keys(), &claims.jti).unwrap();
    let ring = setup.ring();
    assert_eq!(ring.verify(&token, &setup.clock), Err(Refused::Revoked));
    assert!(ring.verify(&other, &setup.clock).is_ok());
    assert!(ring.is_revoked(&ring.record_of(&claims)));
    // What was made with it ends with it.
    let mut child = setup.claims(&[(Right::Write, "id:00")]);
    child.parent = Some(claims.jti.clone());
    let child = ring.sign(&child).unwrap();
    assert_eq!(ring.verify(&child, &setup.clock), Err(Refused::Revoked));
    assert_eq!(
        std::fs::read_to_string(setup.keys().join("revoked")).unwrap(),
        format!("{}\n", claims.jti)
    );
}

#[test]
fn keys_are_exchanged_without_a_stop() {
    let setup = Setup::new();
    let (old_claims, old) = setup.token();
    let record = setup.ring().record_of(&old_claims);
    let before = Ring::stamp(&setup.keys()).unwrap();
    Ring::add_key(&setup.keys(), &setup.entropy).unwrap();
    assert_ne!(Ring::stamp(&setup.keys()).unwrap(), before);
    let (_, new) = setup.token();
    let ring = setup.ring();
    assert!(ring.verify(&old, &setup.clock).is_ok());
    assert!(ring.verify(&new, &setup.clock).is_ok());
    assert!(!ring.is_revoked(&record));
    assert_eq!(Ring::drop_old_keys(&setup.keys()).unwrap(), 1);
    let ring = setup.ring();
    assert!(ring.is_revoked(&record));
    assert_eq!(ring.verify(&old, &setup.clock), Err(Refused::UnknownKey));
    assert!(ring.verify(&new, &setup.clock).is_ok());
    assert_eq!(Ring::drop_old_keys(&setup.keys()).unwrap(), 0);
}

#[test]
fn keys_of_openssl_serve() {
    let setup = Setup::new();
    std::fs::write(setup.keys().join("7.pem"), OPENSSL).unwrap();
    let (claims, token) = setup.token();
    let verified = setup.ring().verify(&token, &setup.clock);
    assert_eq!(verified, Ok(claims));
    std::fs::remove_file(setup.keys().join("7.pem")).unwrap();
    let verified = setup.ring().verify(&token, &setup.clock);
    assert_eq!(verified, Err(Refused::UnknownKey));
}

#[test]
fn forged_tokens_are_refused() {
    let setup = Setup::new();
    let (claims, token) = setup.token();
    let ring = setup.ring();
    let refused = |token: &str| ring.verify(token, &setup.clock).unwrap_err();
    let parts: Vec<&str> = token.split('.').collect();

    // Another payload under the same signature.
    let mut more = claims.clone();
    more.rights[0].can = Right::Admin;
    let forged = ring.sign(&more).unwrap();
    let payload = forged.split('.').nth(1).unwrap();
    let mixed = format!("{}.{payload}.{}", parts[0], parts[2]);
    assert_eq!(refused(&mixed), Refused::Signature);

    // No signature, and a header that says so.
    let none = "eyJhbGciOiJub25lIn0";
    assert_eq!(
        refused(&format!("{none}.{}.", parts[1])),
        Refused::Malformed
    );
    assert_eq!(
        refused(&format!("{}.{}.", parts[0], parts[1])),
        Refused::Signature
    );

    // A signature by a public value, as if that were a shared secret.
    let kid = jsonwebtoken::decode_header(&token).unwrap().kid;
    let mut header = Header::new(Algorithm::HS256);
    header.kid.clone_from(&kid);
    let secret = EncodingKey::from_secret(kid.as_deref().unwrap().as_bytes());
    let hmac = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
    assert_eq!(refused(&hmac), Refused::Malformed);

    // Another project's key; under this one's name, too; and its project with our key.
    let other = Setup::new();
    let (_, foreign) = other.token();
    assert_eq!(refused(&foreign), Refused::UnknownKey);
    let signature = foreign.split('.').nth(2).unwrap();
    let renamed = format!("{}.{}.{signature}", parts[0], parts[1]);
    assert_eq!(refused(&renamed), Refused::Signature);
    let mut claims = claims;
    claims.project = other.ring().project().to_owned();
    let misplaced = ring.sign(&claims).unwrap();
    assert_eq!(refused(&misplaced), Refused::OtherProject);

    for text in ["", ".", "..", "a.b.c", "secret", "\u{fffd}.x.y"] {
        assert_eq!(refused(text), Refused::Malformed, "{text:?}");
    }
}

#[test]
fn every_changed_byte_is_noticed() {
    let setup = Setup::new();
    let (_, token) = setup.token();
    let ring = setup.ring();
    // The last character of the signature has bits that mean nothing.
    for at in 0..token.len() - 1 {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let text = String::from_utf8(bytes).unwrap();
        assert!(ring.verify(&text, &setup.clock).is_err(), "byte {at}");
    }
}

#[test]
fn what_was_issued_is_listed_without_the_token() {
    let setup = Setup::new();
    assert_eq!(Ring::issued(&setup.keys()).unwrap(), []);
    let mut claims = setup.claims(&[(Right::Admin, "ci/*")]);
    claims.exp = Some(5);
    let ring = setup.ring();
    let first = ring.record_of(&claims);
    Ring::record(&setup.keys(), &first).unwrap();
    let (second, token) = setup.token();
    let second = ring.record_of(&second);
    Ring::record(&setup.keys(), &second).unwrap();
    let issued = Ring::issued(&setup.keys()).unwrap();
    assert_eq!(issued, [first, second]);
    let text = std::fs::read_to_string(setup.keys().join("issued")).unwrap();
    let signature = token.split('.').nth(2).unwrap();
    assert!(!text.contains(signature));
}

#[test]
fn rings_are_closed_to_others_and_their_faults_named() {
    let setup = Setup::new();
    let dir = setup.keys();
    Ring::revoke(&dir, "x").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["1.pem", "project", "revoked"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    let fault = || Ring::open(&dir).unwrap_err().to_string();
    std::fs::write(dir.join("2.pem"), "no key").unwrap();
    assert!(fault().contains("2.pem"), "{}", fault());
    std::fs::write(dir.join("2.pem"), OPENSSL.replace("PRIVATE", "PUBLIC")).unwrap();
    assert!(fault().contains("PUBLIC KEY"), "{}", fault());
    std::fs::remove_file(dir.join("2.pem")).unwrap();
    std::fs::remove_file(dir.join("1.pem")).unwrap();
    assert!(fault().contains("no key"), "{}", fault());
    assert!(Ring::exists(&dir) && !Ring::exists(&dir.join("elsewhere")));
    assert!(Ring::open(&dir.join("elsewhere")).is_err());
}

#[test]
fn a_ring_that_was_begun_is_finished() {
    let setup = Setup::new();
    let dir = setup.keys();
    let (_, token) = setup.token();
    std::fs::remove_file(dir.join("project")).unwrap();
    assert!(!Ring::exists(&dir));
    Ring::create(&dir, &setup.entropy).unwrap();
    assert!(!dir.join("2.pem").exists());
    // Of a ring that never was one, no token was given away.
    let verified = setup.ring().verify(&token, &setup.clock);
    assert_eq!(verified, Err(Refused::OtherProject));
}
