//! TLS: the trust of the client, and its errors.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common::{Server, Way, library, trust};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_channel::ClientTls;
use xylem_client::client::Client;
use xylem_client::config::Config;
use xylem_client::status::Status;
use xylem_client::trust::of;

/// The error of a client that cannot connect.
fn refused(mut config: Config) -> String {
    config.retry_limit_ms = 300;
    let error = Client::start(config).unwrap_err();
    assert_eq!(error.status, Status::Timeout, "{error}");
    error.message
}

fn trust_in(authority: PathBuf) -> Arc<ClientTls> {
    of([Some(authority), None, None]).unwrap().unwrap()
}

#[test]
fn a_server_that_is_not_trusted_gets_no_token() {
    let server = Server::start();
    let mut config = server.config_by(Way::Tls);
    config.token = Some("secret".to_owned());
    let other = tempfile::tempdir().unwrap();
    let names = ["127.0.0.1".to_owned()];
    let clock = xylem_ambient::Clock::system();
    let entropy = xylem_ambient::Entropy::system();
    xylem_tls::authority::ensure(other.path(), &names, &clock, &entropy).unwrap();
    config.tls = Some(trust_in(other.path().join("ca.pem")));
    let why = refused(config.clone());
    assert!(why.contains("TLS: invalid peer certificate"), "{why}");

    // Nor does one that is trusted under another name.
    config.tls = Some(trust::client());
    config.host = "localhost".to_owned();
    let why = refused(config);
    assert!(why.contains("not valid for name"), "{why}");
    assert!(server.script().hellos.is_empty());
}

#[test]
fn the_errors_of_tls_say_what_to_do() {
    let server = Server::start();
    // The server wants a certificate of its clients.
    let mut config = server.config_by(Way::Tls);
    config.tls = Some(trust_in(trust::paths().authority.clone()));
    let why = refused(config.clone());
    assert!(why.contains("CertificateRequired"), "{why}");
    // The server has no TLS.
    config.tls = Some(trust::client());
    config.port = server.addr.port();
    let why = refused(config);
    assert!(why.contains("TLS"), "{why}");
}

#[test]
fn a_server_that_does_not_answer_the_handshake_is_given_up_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::new("127.0.0.1", listener.local_addr().unwrap().port());
    config.tls = Some(trust::client());
    config.connect_timeout = Duration::from_millis(100);
    let began = Instant::now();
    let why = refused(config);
    assert!(why.contains("no TLS handshake within 100 ms"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn files_that_make_no_sense_are_refused_at_once() {
    let error = |files: [Option<&str>; 3]| {
        let error = of(files.map(|file| file.map(PathBuf::from))).unwrap_err();
        assert_eq!(error.status, Status::Invalid);
        error.message
    };
    assert!(of([None, None, None]).unwrap().is_none());
    assert!(error([Some("/missing.pem"), None, None]).contains("/missing.pem"));
    assert!(error([None, Some("/c.pem"), None]).contains("no authorities"));
    assert!(error([None, None, Some("/k.pem")]).contains("no TLS certificate"));
}

/// The licence of ring does not allow that it is part of a GPL-2.0-only server. Its
/// functions written in assembly language have this prefix.
#[test]
fn the_library_that_is_shipped_has_no_ring_in_it() {
    let shipped = std::env::var_os("XYLEM_HOME")
        .map(|home| PathBuf::from(home).join("lib/libxylem_client.so"));
    let Some(shipped) = shipped else {
        // Without a distribution there is only the one beside this test, which shares
        // the features of the whole workspace.
        assert!(library().exists());
        return;
    };
    let bytes = std::fs::read(shipped).unwrap();
    let has = |text: &[u8]| bytes.windows(text.len()).any(|at| at == text);
    assert!(has(b"graviola"));
    assert!(!has(b"ring_core_"));
}
