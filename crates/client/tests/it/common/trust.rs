//! The certificates of the scripted server, and its side of TLS.

use rustls::ServerConnection;
use socket2::Socket;
use std::io;
use std::sync::{Arc, LazyLock};
use xylem_ambient::{Clock, Entropy};
use xylem_channel::{Channel, ClientTls, PROTOCOL};
use xylem_client::trust;
use xylem_tls::authority::{self, Paths};
use xylem_tls::{ServerFiles, ServerTls, Versions};

struct Trust {
    paths: Paths,
    server: ServerTls,
    _dir: tempfile::TempDir,
}

static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let names = ["127.0.0.1".to_owned()];
    authority::ensure(dir.path(), &names, &Clock::system(), &Entropy::system()).unwrap();
    let paths = Paths::in_dir(dir.path());
    let files = ServerFiles {
        certificate: paths.server.clone(),
        key: paths.server.clone(),
        clients: Some(paths.authority.clone()),
    };
    Trust {
        server: ServerTls::open(files, Versions::Newest, &[PROTOCOL]).unwrap(),
        paths,
        _dir: dir,
    }
});

/// The trust of a client that the server accepts.
pub fn client() -> Arc<ClientTls> {
    let Paths {
        authority, client, ..
    } = &TRUST.paths;
    let files = [Some(authority.clone()), Some(client.clone()), None];
    trust::of(files).unwrap().unwrap()
}

/// The paths of the certificates.
pub fn paths() -> &'static Paths {
    &TRUST.paths
}

/// The server's side of a handshake.
pub fn accept(socket: Socket) -> io::Result<Channel> {
    let mut connection = ServerConnection::new(TRUST.server.config()).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut &socket)?;
    }
    while connection.wants_write() {
        connection.write_tls(&mut &socket)?;
    }
    Ok(Channel::tls(socket, connection))
}
