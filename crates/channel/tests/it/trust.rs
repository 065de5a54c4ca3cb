//! Servers and clients that are not trusted are refused, and the error says why.

use super::{PATIENCE, accept, certificates, client, server, sockets};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::path::PathBuf;
use xylem_channel::{Channel, ClientTls, Identity, PROTOCOL, TlsError, Wait};
use xylem_tls::authority::Paths;

/// The client's side of a handshake that must fail.
fn refused(tls: &ClientTls, socket: socket2::Socket, host: &str) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = tls.connect(socket, host, &mut || Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    error.to_string()
}

#[test]
fn a_server_of_another_authority_or_another_name_is_refused() {
    let (mine, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mine = certificates(mine.path(), "db.example.com");
    let theirs = certificates(theirs.path(), "db.example.com");

    let (one, other) = sockets();
    let accepting = accept(other, &server(&theirs, false));
    let why = refused(&client(&mine), one, "db.example.com");
    assert!(why.contains("invalid peer certificate"), "{why}");
    assert!(accepting.join().unwrap().is_err());

    let (one, other) = sockets();
    let accepting = accept(other, &server(&mine, false));
    let why = refused(&client(&mine), one, "other.example.com");
    assert!(why.contains("not valid for name"), "{why}");
    assert!(accepting.join().unwrap().is_err());
}

#[test]
fn a_server_without_tls_is_told_from_one_that_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let paths = certificates(dir.path(), "localhost");
    let (one, other) = sockets();
    (&other).write_all(b"XYLEM, but no TLS at all").unwrap();
    let why = refused(&client(&paths), one, "localhost");
    assert!(why.contains("corrupt message"), "{why}");
}

#[test]
fn a_client_needs_a_certificate_where_the_server_wants_one() {
    let dir = tempfile::tempdir().unwrap();
    let paths = certificates(dir.path(), "127.0.0.1");
    let tls = server(&paths, true);

    let own = Identity {
        certificate: paths.client.clone(),
        key: paths.client.clone(),
    };
    let known = ClientTls::new(
        xylem_tls::provider(),
        PROTOCOL,
        paths.authority.clone(),
        Some(own),
    );
    let (one, other) = sockets();
    let accepting = accept(other, &tls);
    let known = known.unwrap();
    let one = known.connect(one, "127.0.0.1", &mut || Ok(())).unwrap();
    let other = accepting.join().unwrap().unwrap();
    one.send(&[IoSlice::new(b"x")], Wait::Yes).unwrap();
    assert_eq!(other.receive(&mut [0; 10], Wait::Yes).unwrap(), 1);

    // With TLS 1.3 the client learns of it when it receives.
    let (one, other) = sockets();
    one.set_read_timeout(Some(PATIENCE)).unwrap();
    let accepting = accept(other, &tls);
    let unknown = client(&paths).connect(one, "127.0.0.1", &mut || Ok(()));
    assert!(accepting.join().unwrap().is_err());
    let why = unknown.and_then(|channel: Channel| channel.receive(&mut [0; 10], Wait::Yes));
    let why = why.unwrap_err().to_string();
    assert!(why.contains("CertificateRequired"), "{why}");
}

#[test]
fn a_handshake_that_takes_too_long_ends_when_the_caller_says() {
    let dir = tempfile::tempdir().unwrap();
    let paths = certificates(dir.path(), "localhost");
    // The peer listens, and says nothing or a byte at a time.
    let (one, other) = sockets();
    let dribbling = std::thread::spawn(move || {
        // The beginning of a record of 4 KiB.
        let mut bytes = [0x16, 3, 3, 0x10].into_iter().chain(std::iter::repeat(0));
        while (&other).write_all(&[bytes.next().unwrap()]).is_ok() {
            std::thread::yield_now();
        }
    });
    one.set_read_timeout(Some(std::time::Duration::from_millis(5)))
        .unwrap();
    let mut asked = 0;
    let mut goes_on = || {
        asked += 1;
        match asked {
            3 => Err(io::Error::from(ErrorKind::TimedOut)),
            _ => Ok(()),
        }
    };
    let outcome = client(&paths).connect(one, "localhost", &mut goes_on);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(asked, 3);
    dribbling.join().unwrap();
}

#[test]
fn a_new_authority_is_taken_without_a_restart() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old_paths = certificates(old.path(), "localhost");
    let new_paths = certificates(new.path(), "localhost");
    let tls = client(&old_paths);
    let serving = server(&new_paths, false);
    let (one, other) = sockets();
    let accepting = accept(other, &serving);
    refused(&tls, one, "localhost");
    assert!(accepting.join().unwrap().is_err());

    let both = [&old_paths, &new_paths].map(|paths| std::fs::read(&paths.authority).unwrap());
    std::fs::write(&old_paths.authority, both.concat()).unwrap();
    let (one, other) = sockets();
    let accepting = accept(other, &serving);
    tls.connect(one, "localhost", &mut || Ok(())).unwrap();
    accepting.join().unwrap().unwrap();
}

#[test]
fn a_file_that_is_of_no_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let paths = certificates(dir.path(), "localhost");
    let error = |authority: PathBuf, identity: Option<Identity>| -> String {
        let tls = ClientTls::new(xylem_tls::provider(), PROTOCOL, authority, identity);
        let error: TlsError = tls.unwrap_err();
        error.to_string()
    };
    let absent = dir.path().join("absent.pem");
    let why = error(absent.clone(), None);
    assert!(
        why.contains("absent.pem") && why.contains("No such file"),
        "{why}"
    );
    let why = error(paths.authority_key.clone(), None);
    assert!(
        why.contains("ca.key") && why.contains("no certificate"),
        "{why}"
    );
    let pair = |certificate: &PathBuf, key: &PathBuf| {
        Some(Identity {
            certificate: certificate.clone(),
            key: key.clone(),
        })
    };
    let Paths {
        authority,
        authority_key,
        client,
        ..
    } = &paths;
    let why = error(authority.clone(), pair(authority, authority));
    assert!(
        why.contains("ca.pem") && why.contains("no private key"),
        "{why}"
    );
    let why = error(authority.clone(), pair(client, authority_key));
    assert!(why.contains("ca.key"), "{why}");
}
