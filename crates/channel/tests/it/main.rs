//! Tests of the connection with its peer in the same process, over real sockets.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bytes;
mod trust;

use rustls::ServerConnection;
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};
use xylem_channel::{Channel, ClientTls, PROTOCOL};
use xylem_tls::authority::{self, Paths};
use xylem_tls::{ServerFiles, ServerTls, Versions};

/// Makes a project's certificates for the name `host`.
fn certificates(dir: &Path, host: &str) -> Paths {
    let names = [host.to_owned()];
    authority::ensure(dir, &names, &Clock::system(), &Entropy::system()).unwrap();
    Paths::in_dir(dir)
}

/// The server's side, with a certificate of the project in `paths`.
fn server(paths: &Paths, clients: bool) -> ServerTls {
    let files = ServerFiles {
        certificate: paths.server.clone(),
        key: paths.server.clone(),
        clients: clients.then(|| paths.authority.clone()),
    };
    ServerTls::open(files, Versions::Newest, &[PROTOCOL]).unwrap()
}

/// A client that trusts the project in `paths`.
fn client(paths: &Paths) -> ClientTls {
    ClientTls::new(
        xylem_tls::provider(),
        PROTOCOL,
        paths.authority.clone(),
        None,
    )
    .unwrap()
}

/// Two ends of a TCP connection.
fn sockets() -> (Socket, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one: Socket = TcpStream::connect(listener.local_addr().unwrap())
        .unwrap()
        .into();
    one.set_tcp_nodelay(true).unwrap();
    (one, listener.accept().unwrap().0.into())
}

/// Two ends of a connection that holds little in between. With TCP, acknowledgements
/// that are delayed would make a transfer take minutes.
fn narrow() -> (Socket, Socket) {
    let (one, other) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
    for socket in [&one, &other] {
        socket.set_send_buffer_size(4096).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
    }
    (one, other)
}

/// The server's side of a handshake, on a thread of its own.
fn accept(socket: Socket, tls: &ServerTls) -> JoinHandle<io::Result<Channel>> {
    let mut connection = ServerConnection::new(tls.config()).unwrap();
    std::thread::spawn(move || {
        while connection.is_handshaking() {
            connection.complete_io(&mut &socket)?;
        }
        // The client's last words of the handshake may ask for an alert.
        while connection.wants_write() {
            connection.write_tls(&mut &socket)?;
        }
        Ok(Channel::tls(socket, connection))
    })
}

/// Two ends of a connection with TLS on these sockets.
fn pair((one, other): (Socket, Socket)) -> (Channel, Channel) {
    let dir = tempfile::tempdir().unwrap();
    let paths = certificates(dir.path(), "db.example.com");
    let accepting = accept(other, &server(&paths, false));
    let one = client(&paths)
        .connect(one, "db.example.com", &mut || Ok(()))
        .unwrap();
    (one, accepting.join().unwrap().unwrap())
}

/// Receives until the peer ends the connection.
fn receive_all(channel: &Channel) -> Vec<u8> {
    let mut all = Vec::new();
    let mut room = vec![0; 10_000];
    loop {
        match channel.receive(&mut room, xylem_channel::Wait::Yes) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&room[..count]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => panic!("{e}"),
        }
    }
}

/// A time limit that a test does not reach.
const PATIENCE: Duration = Duration::from_secs(20);

type Shared = Arc<Channel>;
