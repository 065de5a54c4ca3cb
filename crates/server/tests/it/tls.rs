//! TLS on every port: refusals, certificates that change, and peers that stay as they
//! were.

use crate::common::{Server, args, config, page, with};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Code;
use xylem_channel::{Channel, ClientTls, Identity, PROTOCOL, Wait};
use xylem_proto::control::StatusRequest;
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::dial::{self, Way};
use xylem_proto::pageserver::page_server_client::PageServerClient;
use xylem_server::config::{ServerArgs, load};
use xylem_tls::authority::{Paths, ensure};

const LIMIT: Duration = Duration::from_secs(20);

/// Flags of a server with certificates of its own, in `dir`.
fn secure(dir: &Path) -> ServerArgs {
    ServerArgs {
        tls_dir: Some(dir.join("tls").display().to_string()),
        compute_socket: Some(dir.join("sock").display().to_string()),
        ..args(dir)
    }
}

fn paths(dir: &Path) -> Paths {
    Paths::in_dir(&dir.join("tls"))
}

fn trust(protocol: &'static [u8], authority: &Path, identity: Option<&Path>) -> ClientTls {
    let identity = identity.map(|file| Identity {
        certificate: file.to_owned(),
        key: file.to_owned(),
    });
    ClientTls::new(
        xylem_tls::provider(),
        protocol,
        authority.to_owned(),
        identity,
    )
    .unwrap()
}

fn tls_way(server: &Server, authority: &Path, identity: Option<&Path>) -> Way {
    let tls = trust(dial::PROTOCOL, authority, identity);
    Way::Tls(server.addrs.grpc.to_string(), Arc::new(tls))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// Asks for the server's status; the error is that of the connection or of the call.
fn status(way: &Way) -> Result<String, String> {
    runtime().block_on(async {
        let channel = way.connect(LIMIT, |endpoint| endpoint).await;
        let channel = channel.map_err(|error| chain(&error))?;
        let answer = ControlClient::new(channel).status(StatusRequest {}).await;
        answer
            .map(|answer| answer.into_inner().state)
            .map_err(|status| chain(&status))
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut all = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        all += &format!(": {source}");
        next = source.source();
    }
    all
}

/// A connection with TLS to a port.
fn connect(addr: SocketAddr, tls: &ClientTls) -> std::io::Result<Channel> {
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let until = Instant::now() + LIMIT;
    let mut goes_on = || match Instant::now() < until {
        true => Ok(()),
        false => Err(ErrorKind::TimedOut.into()),
    };
    tls.connect(stream.into(), "127.0.0.1", &mut goes_on)
}

/// The answer of the server to `request` on a new connection, until it closes it.
fn ask_plainly(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn hello(role: xylem_wire::Role) -> Vec<u8> {
    xylem_wire::hello(&xylem_wire::Hello {
        role,
        epoch: 0,
        branch: "main".to_owned(),
        token: String::new(),
    })
}

/// The first message of the compute protocol on `channel`.
fn welcome(channel: &Channel) -> Result<(), String> {
    let bytes = hello(xylem_wire::Role::Pages);
    let sent = channel.send(&[IoSlice::new(&bytes)], Wait::Yes);
    assert_eq!(sent.unwrap(), bytes.len());
    let mut received = xylem_wire::Received::default();
    loop {
        if let Some(message) = received.next().unwrap() {
            return match message.header.kind {
                xylem_wire::Kind::Welcome => Ok(()),
                other => Err(format!("{other:?}")),
            };
        }
        match channel.receive(received.room(), Wait::Yes) {
            Ok(0) => return Err("the server closed the connection".to_owned()),
            Ok(count) => received.filled(count),
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn http_get(server: &Server, tls: &ClientTls) -> String {
    let channel = connect(server.addrs.http, tls).unwrap();
    let request = b"GET /readyz HTTP/1.0\r\n\r\n";
    channel.send(&[IoSlice::new(request)], Wait::Yes).unwrap();
    let mut answer = Vec::new();
    let mut room = [0; 4096];
    while let Ok(count @ 1..) = channel.receive(&mut room, Wait::Yes) {
        answer.extend_from_slice(&room[..count]);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn every_port_serves_clients_that_trust_the_projects_authority() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with(config(&secure(dir.path()))).unwrap();
    let authority = paths(dir.path()).authority;

    let way = tls_way(&server, &authority, None);
    assert_eq!(status(&way).unwrap(), "ready");
    let read = runtime().block_on(async {
        let channel = way.connect(LIMIT, |endpoint| endpoint).await.unwrap();
        let mut pages = PageServerClient::new(channel);
        pages.get_page(with(page(0, 0), &[])).await
    });
    // The branch is empty; what matters is that the call was answered.
    assert_ne!(read.unwrap_err().code(), Code::Unavailable);

    let channel = connect(server.addrs.grpc, &trust(PROTOCOL, &authority, None)).unwrap();
    welcome(&channel).unwrap();
    let answer = http_get(&server, &trust(b"http/1.1", &authority, None));
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    // The Unix socket needs none, and has both protocols.
    let socket = Way::Socket(dir.path().join("sock"));
    assert_eq!(status(&socket).unwrap(), "ready");
    let unix = std::os::unix::net::UnixStream::connect(dir.path().join("sock")).unwrap();
    welcome(&Channel::plain(unix.into())).unwrap();
    server.stop();
}

#[test]
fn a_peer_without_tls_is_told_so_in_its_own_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with(config(&secure(dir.path()))).unwrap();
    let get = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
    for addr in [server.addrs.http, server.addrs.grpc] {
        let answer = String::from_utf8(ask_plainly(addr, get)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("requires TLS"), "{answer}");
    }
    for role in [xylem_wire::Role::Pages, xylem_wire::Role::Redo] {
        let answer = ask_plainly(server.addrs.grpc, &hello(role));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("innodb_page_server_tls_ca"), "{answer}");
    }
    let plain = Way::Plain(server.addrs.grpc.to_string());
    assert!(status(&plain).is_err());
    // Each of them is counted.
    let socket = Way::Socket(dir.path().join("sock"));
    assert_eq!(status(&socket).unwrap(), "ready");
    let tls = trust(b"http/1.1", &paths(dir.path()).authority, None);
    let channel = connect(server.addrs.http, &tls).unwrap();
    let request = b"GET /metrics HTTP/1.0\r\n\r\n";
    channel.send(&[IoSlice::new(request)], Wait::Yes).unwrap();
    let mut answer = String::new();
    let mut room = [0; 4096];
    while let Ok(count @ 1..) = channel.receive(&mut room, Wait::Yes) {
        answer += &String::from_utf8_lossy(&room[..count]);
    }
    let failures = answer
        .lines()
        .find_map(|line| line.strip_prefix("xylem_tls_failures_total "));
    let failures: u64 = failures.unwrap().parse().unwrap();
    assert!(failures >= 5, "{failures}");
    server.stop();
}

#[test]
fn a_server_of_another_authority_is_refused_by_its_clients() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::with(config(&secure(dir.path()))).unwrap();
    let clock = xylem_ambient::Clock::system();
    let entropy = xylem_ambient::Entropy::system();
    ensure(other.path(), &[], &clock, &entropy).unwrap();
    let wrong = Paths::in_dir(other.path()).authority;
    let why = status(&tls_way(&server, &wrong, None)).unwrap_err();
    assert!(why.contains("invalid peer certificate"), "{why}");
    for (addr, protocol) in [
        (server.addrs.grpc, PROTOCOL),
        (server.addrs.http, &b"http/1.1"[..]),
    ] {
        let error = connect(addr, &trust(protocol, &wrong, None)).unwrap_err();
        assert!(error.to_string().contains("invalid peer certificate"));
    }
    server.stop();
}

#[test]
fn with_mutual_tls_a_client_needs_a_certificate_of_the_right_authority() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = xylem_ambient::Clock::system();
    let entropy = xylem_ambient::Entropy::system();
    ensure(&dir.path().join("tls"), &[], &clock, &entropy).unwrap();
    ensure(other.path(), &[], &clock, &entropy).unwrap();
    let own = paths(dir.path());
    let stranger = Paths::in_dir(other.path()).client;
    let server = Server::with(config(&ServerArgs {
        tls_client_ca: Some(own.authority.display().to_string()),
        ..secure(dir.path())
    }))
    .unwrap();

    let known = tls_way(&server, &own.authority, Some(&own.client));
    assert_eq!(status(&known).unwrap(), "ready");
    let compute = trust(PROTOCOL, &own.authority, Some(&own.client));
    welcome(&connect(server.addrs.grpc, &compute).unwrap()).unwrap();
    for identity in [None, Some(stranger.as_path())] {
        let way = tls_way(&server, &own.authority, identity);
        assert!(status(&way).is_err());
        let compute = trust(PROTOCOL, &own.authority, identity);
        let refused = connect(server.addrs.grpc, &compute)
            .map_err(|error| error.to_string())
            .and_then(|channel| welcome(&channel));
        assert!(refused.is_err());
        let http = trust(b"http/1.1", &own.authority, identity);
        let refused = connect(server.addrs.http, &http).and_then(|channel| {
            let mut room = [0; 100];
            channel.receive(&mut room, Wait::Yes)
        });
        assert!(refused.is_err());
    }
    // The owner's programs on this machine go on without one.
    let socket = Way::Socket(dir.path().join("sock"));
    assert_eq!(status(&socket).unwrap(), "ready");
    server.stop();
}

/// The first bytes of a handshake that offers no version above `version` (RFC 5246).
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    // Suites that servers of those versions had: AES with RSA, with ECDHE, and GCM.
    let suites = [0x00, 0x2f, 0x00, 0x35, 0xc0, 0x13, 0xc0, 0x2b, 0xc0, 0x2f];
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, suites.len() as u8]);
    body.extend(suites);
    body.extend([1, 0]);
    let length = body.len() as u8;
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(body);
    record
}

#[test]
fn no_version_below_tls_1_3_is_spoken() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with(config(&secure(dir.path()))).unwrap();
    for addr in [server.addrs.grpc, server.addrs.http] {
        // SSL 3.0, TLS 1.0, 1.1 and 1.2.
        for version in [[3, 0], [3, 1], [3, 2], [3, 3]] {
            let answer = ask_plainly(addr, &client_hello(version));
            // An alert that ends the connection, and nothing else.
            assert_eq!(answer.len(), 7, "{version:?}: {answer:?}");
            assert_eq!((answer[0], answer[5]), (0x15, 2), "{version:?}: {answer:?}");
        }
        // A real client of 1.2 sees why.
        let mut roots = RootCertStore::empty();
        let authority = xylem_channel::files::certificates(&paths(dir.path()).authority);
        roots.add(authority.unwrap().remove(0)).unwrap();
        let config = ClientConfig::builder_with_provider(xylem_tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = xylem_channel::server_name("127.0.0.1").unwrap();
        let mut old = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = TcpStream::connect(addr).unwrap();
        let error = old.complete_io(&mut stream).unwrap_err();
        assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    }
    server.stop();
}

#[test]
fn a_new_certificate_is_served_without_a_restart_and_open_connections_stay() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = xylem_ambient::Clock::system();
    let entropy = xylem_ambient::Entropy::system();
    let names = ["127.0.0.1".to_owned()];
    ensure(other.path(), &names, &clock, &entropy).unwrap();
    let renewed = Paths::in_dir(other.path());
    let server = Server::with(config(&secure(dir.path()))).unwrap();
    let old = paths(dir.path());
    let open = connect(server.addrs.grpc, &trust(PROTOCOL, &old.authority, None)).unwrap();
    welcome(&open).unwrap();

    // As a tool for certificates does it: one new file.
    std::fs::rename(&renewed.server, &old.server).unwrap();
    let new = tls_way(&server, &renewed.authority, None);
    let until = Instant::now() + LIMIT;
    while status(&new).is_err() {
        assert!(Instant::now() < until, "the new certificate is not served");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(status(&tls_way(&server, &old.authority, None)).is_err());
    let ping = xylem_wire::ping(1);
    open.send(&[IoSlice::new(&ping)], Wait::Yes).unwrap();
    assert_ne!(open.receive(&mut [0; 100], Wait::Yes).unwrap(), 0);
    server.stop();
}

#[test]
fn a_certificate_that_cannot_be_renewed_is_served_as_long_as_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let own = paths(dir.path());
    Server::with(config(&secure(dir.path()))).unwrap().stop();
    // The key is kept elsewhere, and a name is new.
    std::fs::remove_file(&own.authority_key).unwrap();
    std::fs::remove_file(&own.client).unwrap();
    let server = Server::with(config(&ServerArgs {
        tls_names: Some("db.example.com".to_owned()),
        ..secure(dir.path())
    }))
    .unwrap();
    let way = tls_way(&server, &own.authority, None);
    assert_eq!(status(&way).unwrap(), "ready");
    server.stop();
}

#[test]
fn an_address_among_the_names_may_be_written_in_any_way() {
    let dir = tempfile::tempdir().unwrap();
    let own = paths(dir.path());
    let with_names = || {
        config(&ServerArgs {
            tls_names: Some("[2001:DB8:0::1], 192.0.2.7".to_owned()),
            ..secure(dir.path())
        })
    };
    Server::with(with_names()).unwrap().stop();
    let made = std::fs::read(&own.server).unwrap();
    Server::with(with_names()).unwrap().stop();
    assert!(std::fs::read(&own.server).unwrap() == made);
}

/// The error of settings that make no sense.
fn refused(args: &ServerArgs) -> String {
    load(args, &|_| None, None).unwrap_err().to_string()
}

#[test]
fn without_tls_and_tokens_no_address_beyond_loopback_is_listened_on() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Some(dir.path().join("keys").display().to_string());
    let open = |grpc: &str, http: &str| ServerArgs {
        grpc_listen: Some(grpc.to_owned()),
        http_listen: Some(http.to_owned()),
        ..args(dir.path())
    };
    for (args, flag) in [
        (open("0.0.0.0:0", "127.0.0.1:0"), "--grpc-listen"),
        (open("127.0.0.1:0", "[::]:0"), "--http-listen"),
        (open("192.0.2.1:0", "127.0.0.1:0"), "--grpc-listen"),
    ] {
        let why = refused(&args);
        assert!(why.contains(flag) && why.contains("tls_dir"), "{why}");
        // Tokens alone do not do, and certificates alone do not either.
        let why = refused(&ServerArgs {
            keys_dir: keys.clone(),
            ..args.clone()
        });
        assert!(why.contains("without TLS"), "{why}");
        let with_tls = ServerArgs {
            tls_dir: Some("/tls".to_owned()),
            ..args.clone()
        };
        let why = refused(&with_tls);
        assert!(why.contains("without tokens"), "{why}");
        let both = ServerArgs {
            keys_dir: keys.clone(),
            ..with_tls
        };
        load(&both, &|_| None, None).unwrap();
        let told = ServerArgs {
            insecure_listen: Some("true".to_owned()),
            ..args
        };
        load(&told, &|_| None, None).unwrap();
    }
    load(&open("[::1]:0", "[::ffff:127.0.0.1]:0"), &|_| None, None).unwrap();
}

#[test]
fn files_and_settings_of_no_use_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| Some(dir.path().join(name).display().to_string());
    let base = || args(dir.path());
    let why = refused(&ServerArgs {
        tls_key: file("k.pem"),
        ..base()
    });
    assert!(why.contains("tls-key") && why.contains("tls_cert"), "{why}");
    let why = refused(&ServerArgs {
        tls_client_ca: file("ca.pem"),
        ..base()
    });
    assert!(why.contains("tls-client-ca"), "{why}");
    let why = refused(&ServerArgs {
        tls_names: Some("db.example.com".to_owned()),
        ..base()
    });
    assert!(why.contains("tls-names"), "{why}");
    let why = refused(&ServerArgs {
        tls_names: Some("db.example.com, no name".to_owned()),
        ..secure(dir.path())
    });
    assert!(why.contains("\"no name\""), "{why}");

    let started = |args: &ServerArgs| -> String {
        match Server::with(config(args)) {
            Ok(_) => panic!("it started"),
            Err(error) => error.to_string(),
        }
    };
    let why = started(&ServerArgs {
        tls_cert: file("absent.pem"),
        ..base()
    });
    assert!(why.contains("absent.pem"), "{why}");
    let certificates: PathBuf = dir.path().join("tls");
    std::fs::create_dir(&certificates).unwrap();
    std::fs::write(certificates.join("ca.pem"), "nothing").unwrap();
    let why = started(&secure(dir.path()));
    assert!(why.contains("--tls-dir") && why.contains("ca.pem"), "{why}");
}

/// The socket on which [`calls_as_another_user`] calls.
const SOCKET: &str = "XYLEM_TEST_SOCKET";

/// What another user of the machine does in [`grpc_on_the_socket_is_not_for_others`].
#[test]
#[ignore = "another test runs it as another user"]
fn calls_as_another_user() {
    let socket = PathBuf::from(std::env::var_os(SOCKET).unwrap());
    // It reaches the socket, and computes may have any account.
    let unix = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    welcome(&Channel::plain(unix.into())).unwrap();
    let way = Way::Socket(socket);
    assert!(status(&way).is_err());
    let health = runtime().block_on(async {
        let channel = way.connect(LIMIT, |endpoint| endpoint).await;
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel.unwrap());
        client
            .check(tonic_health::pb::HealthCheckRequest::default())
            .await
    });
    assert!(health.is_err());
}

#[test]
fn grpc_on_the_socket_is_not_for_others() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let server = Server::with(config(&secure(dir.path()))).unwrap();
    // Where nobody can execute it.
    let program = dir.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut call = std::process::Command::new(&program);
    call.args(["--ignored", "--exact", "tls::calls_as_another_user"]);
    call.env(SOCKET, dir.path().join("sock")).current_dir("/");
    let out = std::os::unix::process::CommandExt::uid(&mut call, NOBODY)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    // The server's own user goes on.
    let socket = Way::Socket(dir.path().join("sock"));
    assert_eq!(status(&socket).unwrap(), "ready");
    server.stop();
}
