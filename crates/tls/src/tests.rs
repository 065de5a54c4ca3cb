//! Tests of certificates and of the server's configuration.

use crate::authority::{self, AuthorityError, Paths};
use crate::{ServerFiles, ServerTls, Versions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xylem_ambient::{Clock, Entropy};

const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// A clock that a test sets, at a day of 2026 at first.
fn clock() -> (Clock, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(20_600 * DAY_US));
    let read = Arc::clone(&now);
    (Clock::new(move || read.load(Ordering::Relaxed)), now)
}

fn ensure(dir: &Path, names: &[&str], clock: &Clock) -> Result<Paths, AuthorityError> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    authority::ensure(dir, &names, clock, &Entropy::system())?;
    Ok(Paths::in_dir(dir))
}

/// Whether the certificate in the PEM text `text` is one of `authority`.
fn is_signed_by(text: &str, authority: &str) -> bool {
    let [of, by] = [text, authority].map(|text| {
        let mut all = x509_parser::pem::Pem::iter_from_buffer(text.as_bytes());
        all.find_map(|pem| pem.ok().filter(|pem| pem.label == "CERTIFICATE"))
            .unwrap()
    });
    let by = by.parse_x509().unwrap();
    let of = of.parse_x509().unwrap();
    of.verify_signature(Some(by.public_key())).is_ok()
}

fn contents(paths: &Paths) -> [String; 3] {
    [&paths.authority, &paths.server, &paths.client]
        .map(|path| std::fs::read_to_string(path).unwrap())
}

#[test]
fn certificates_are_made_once_for_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("tls");
    let (clock, _) = clock();
    let paths = ensure(&dir, &["localhost", "127.0.0.1", "::1"], &clock).unwrap();
    let made = contents(&paths);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let mode = std::fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // Fewer names are no reason for another certificate.
    ensure(&dir, &["localhost", "::1"], &clock).unwrap();
    assert_eq!(contents(&paths), made);
}

#[test]
fn a_certificate_is_made_anew_for_a_new_name_and_before_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, now) = clock();
    let paths = ensure(dir.path(), &["localhost"], &clock).unwrap();
    let [authority, server, client] = contents(&paths);

    ensure(dir.path(), &["localhost", "db.example.com"], &clock).unwrap();
    let [same, renamed, untouched] = contents(&paths);
    assert_eq!((&same, &untouched), (&authority, &client));
    assert_ne!(renamed, server);

    // The clients' certificate is valid for two years.
    now.fetch_add(59 * DAY_US, Ordering::Relaxed);
    ensure(dir.path(), &["db.example.com"], &clock).unwrap();
    assert_eq!(contents(&paths)[1], renamed);
    now.fetch_add(2 * DAY_US, Ordering::Relaxed);
    ensure(dir.path(), &["db.example.com"], &clock).unwrap();
    let [same, renewed, untouched] = contents(&paths);
    assert_eq!((&same, &untouched), (&authority, &client));
    assert_ne!(renewed, renamed);
    let expires = authority::validity(&paths.server).unwrap().end;
    let expires = expires.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(expires.as_secs() / (DAY_US / 1_000_000), 20_600 + 61 + 90);
}

#[test]
fn computes_have_an_authority_of_their_own_and_a_certificate_for_a_year_at_least() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, now) = clock();
    let paths = ensure(dir.path(), &["localhost"], &clock).unwrap();
    let before = contents(&paths);
    let ensure = || {
        let names = ["localhost".to_owned()];
        let file = dir.path().join("one.pem");
        let entropy = Entropy::system();
        authority::ensure_compute(dir.path(), &file, &names, &clock, &entropy).unwrap();
        std::fs::read_to_string(&file).unwrap()
    };
    let made = ensure();
    assert_eq!(contents(&paths), before);
    let theirs = [&paths.authority, &paths.compute_authority];
    let [project, computes] = theirs.map(|path| std::fs::read_to_string(path).unwrap());
    assert_ne!(project, computes);
    for (authority, is_theirs) in [(&project, false), (&computes, true)] {
        assert_eq!(is_signed_by(&made, authority), is_theirs);
        assert_eq!(is_signed_by(&before[1], authority), !is_theirs);
    }
    now.fetch_add(364 * DAY_US, Ordering::Relaxed);
    assert_eq!(ensure(), made);
    now.fetch_add(2 * DAY_US, Ordering::Relaxed);
    assert_ne!(ensure(), made);
    // Clients trust the authority: nothing takes its place by itself.
    std::fs::remove_file(&paths.compute_authority).unwrap();
    let names = ["localhost".to_owned()];
    let file = dir.path().join("two.pem");
    let made = authority::ensure_compute(dir.path(), &file, &names, &clock, &Entropy::system());
    assert!(made.is_err() && !file.exists());
}

#[test]
fn names_are_read_with_one_spelling_for_each_address() {
    let names = crate::names::listed(" db.example.com, [2001:DB8::1],,10.0.0.1 ");
    let wanted = ["db.example.com", "2001:db8::1", "10.0.0.1"];
    assert_eq!(names.unwrap(), wanted);
    assert_eq!(
        crate::names::listed("a,not a name").unwrap_err(),
        "not a name"
    );
}

#[test]
fn a_damaged_certificate_and_one_of_another_authority_are_replaced() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (clock, _) = clock();
    let paths = ensure(dir.path(), &["localhost"], &clock).unwrap();
    let theirs = ensure(other.path(), &["localhost"], &clock).unwrap();
    for wrong in [
        "".to_owned(),
        contents(&paths)[1][..200].to_owned(),
        contents(&paths)[0].clone(),
        contents(&theirs)[1].clone(),
    ] {
        std::fs::write(&paths.server, &wrong).unwrap();
        ensure(dir.path(), &["localhost"], &clock).unwrap();
        assert_ne!(contents(&paths)[1], wrong);
        open(&paths).unwrap();
    }
}

#[test]
fn an_authority_whose_key_is_kept_elsewhere_serves_until_a_certificate_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, now) = clock();
    let paths = ensure(dir.path(), &["localhost"], &clock).unwrap();
    std::fs::remove_file(&paths.authority_key).unwrap();
    ensure(dir.path(), &["localhost"], &clock).unwrap();
    now.fetch_add(80 * DAY_US, Ordering::Relaxed);
    let error = ensure(dir.path(), &["localhost"], &clock).unwrap_err();
    assert!(error.to_string().contains("ca.key"), "{error}");
}

#[test]
fn an_authority_that_is_damaged_is_an_error_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, _) = clock();
    let paths = ensure(dir.path(), &["localhost"], &clock).unwrap();
    std::fs::write(&paths.authority, "no certificate").unwrap();
    let error = ensure(dir.path(), &["localhost"], &clock).unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    assert_eq!(contents(&paths)[0], "no certificate");
}

#[test]
fn an_authority_that_clients_trust_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, _) = clock();
    let paths = ensure(dir.path(), &["localhost"], &clock).unwrap();
    let key = std::fs::read(&paths.authority_key).unwrap();
    std::fs::rename(&paths.authority, dir.path().join("elsewhere")).unwrap();
    let error = ensure(dir.path(), &["localhost"], &clock).unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    assert_eq!(std::fs::read(&paths.authority_key).unwrap(), key);
    // What a crash during the first start leaves is no authority yet.
    std::fs::remove_file(&paths.server).unwrap();
    ensure(dir.path(), &["localhost"], &clock).unwrap();
}

#[test]
fn certificates_from_the_future_are_not_taken_for_good_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, now) = clock();
    let paths = ensure(dir.path(), &["localhost"], &clock).unwrap();
    let past = now.fetch_add(3000 * DAY_US, Ordering::Relaxed);
    ensure(dir.path(), &["localhost"], &clock).unwrap();
    let future = contents(&paths)[1].clone();
    now.store(past, Ordering::Relaxed);
    ensure(dir.path(), &["localhost"], &clock).unwrap();
    assert_ne!(contents(&paths)[1], future);
    // An authority from the future cannot be replaced, and is reported.
    now.store(past - 10 * DAY_US, Ordering::Relaxed);
    let error = ensure(dir.path(), &["localhost"], &clock).unwrap_err();
    assert!(error.to_string().contains("clock"), "{error}");
}

fn open(paths: &Paths) -> Result<ServerTls, xylem_channel::TlsError> {
    let files = ServerFiles {
        certificate: paths.server.clone(),
        key: paths.server.clone(),
        clients: Some(paths.authority.clone()),
    };
    ServerTls::open(files, Versions::Newest, &[b"h2"])
}

#[test]
fn new_files_are_taken_and_wrong_ones_leave_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, _) = clock();
    let paths = ensure(dir.path(), &["localhost"], &clock).unwrap();
    let tls = open(&paths).unwrap();
    let first = tls.config();
    assert!(!tls.refresh().unwrap());

    let good = contents(&paths)[1].clone();
    std::fs::write(&paths.server, &good[..100]).unwrap();
    let error = tls.refresh().unwrap_err();
    assert!(error.to_string().contains("server.pem"), "{error}");
    assert!(Arc::ptr_eq(&tls.config(), &first));
    // It is said once, and tried each time.
    assert!(!tls.refresh().unwrap());
    let closed = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&paths.server, closed).unwrap();
    assert!(tls.refresh().is_err());

    ensure(dir.path(), &["localhost"], &clock).unwrap();
    assert!(tls.refresh().unwrap());
    assert!(!Arc::ptr_eq(&tls.config(), &first));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, _) = clock();
    let paths = ensure(dir.path(), &["localhost"], &clock).unwrap();
    let files = ServerFiles {
        certificate: paths.server.clone(),
        key: paths.client.clone(),
        clients: None,
    };
    let error = ServerTls::open(files, Versions::Newest, &[b"h2"]).unwrap_err();
    assert!(error.to_string().contains("client.pem"), "{error}");
}
