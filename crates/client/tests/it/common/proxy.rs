//! The proxy between the client and the scripted server. It cuts connections at any
//! byte.

use super::{PAGE, START, Script, serve, trust};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use xylem_channel::Channel;
use xylem_client::client::Client;
use xylem_client::config::Config;

/// A way to reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Port,
    Tls,
    Socket,
}

impl Way {
    pub const ALL: [Way; 3] = [Way::Port, Way::Tls, Way::Socket];
}

/// The scripted server and the proxy in front of it.
pub struct Server {
    pub script: Arc<Mutex<Script>>,
    pub addr: SocketAddr,
    /// The Unix socket, beside the port.
    pub path: PathBuf,
    /// A port with TLS.
    pub secure: SocketAddr,
    proxy: Arc<Proxy>,
    _dir: tempfile::TempDir,
}

struct Proxy {
    open: AtomicBool,
    /// Both ends of every connection.
    ends: Mutex<Vec<(Socket, Socket)>>,
    /// Bytes to the client after which all connections break; negative for never.
    budget: AtomicI64,
}

impl Server {
    pub fn start() -> Server {
        let script = Arc::new(Mutex::new(Script {
            page_size: PAGE,
            first_lsn: START,
            epoch: 1,
            ..Default::default()
        }));
        let proxy = Arc::new(Proxy {
            open: AtomicBool::new(true),
            ends: Mutex::default(),
            budget: AtomicI64::new(-1),
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let local = SockAddr::unix(&path).unwrap();
        proxy.listen(Way::Socket, &local, &script);
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let addr = proxy.listen(Way::Port, &any.into(), &script);
        let secure = proxy.listen(Way::Tls, &any.into(), &script);
        Server {
            script,
            addr: addr.as_socket().unwrap(),
            path,
            secure: secure.as_socket().unwrap(),
            proxy,
            _dir: dir,
        }
    }

    pub fn config(&self) -> Config {
        let mut config = Config::new("127.0.0.1", self.addr.port());
        config.epoch = 1;
        config.start_lsn = START;
        config
    }

    /// Connects in this way.
    pub fn config_by(&self, way: Way) -> Config {
        let mut config = self.config();
        match way {
            Way::Port => {}
            Way::Tls => {
                config.port = self.secure.port();
                config.tls = Some(trust::client());
            }
            Way::Socket => {
                // Nobody listens there.
                config.port = 1;
                config.socket = Some(self.path.clone());
            }
        }
        config
    }

    pub fn client(&self) -> Client {
        Client::start(self.config()).unwrap()
    }

    /// A client with one connection for the page reads of threads.
    pub fn narrow_client(&self) -> Client {
        let mut config = self.config();
        config.connections = 1;
        Client::start(config).unwrap()
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.proxy.cut();
    }

    /// Breaks all connections after `count` more bytes to the client, so that a message
    /// is cut as a rule.
    pub fn cut_after(&self, count: u32) {
        self.proxy.budget.store(count.into(), Ordering::SeqCst);
    }

    /// Sets whether the proxy accepts new connections.
    pub fn set_open(&self, open: bool) {
        self.proxy.open.store(open, Ordering::SeqCst);
    }
}

impl Proxy {
    fn listen(
        self: &Arc<Self>,
        way: Way,
        addr: &SockAddr,
        script: &Arc<Mutex<Script>>,
    ) -> SockAddr {
        let domain = match way {
            Way::Socket => Domain::UNIX,
            Way::Port | Way::Tls => Domain::IPV4,
        };
        let listener = Socket::new(domain, Type::STREAM, None).unwrap();
        listener.bind(addr).unwrap();
        listener.listen(128).unwrap();
        let addr = listener.local_addr().unwrap();
        let (proxy, script) = (Arc::clone(self), Arc::clone(script));
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                proxy.connect(way, client, &script);
            }
        });
        addr
    }

    fn connect(self: &Arc<Self>, way: Way, client: Socket, script: &Arc<Mutex<Script>>) {
        // Fails for a Unix socket.
        let _ = client.set_tcp_nodelay(true);
        let (front, back) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        {
            // Under the lock: a proxy that was closed and then cut has no connection.
            let mut ends = self.ends.lock().unwrap();
            if !self.open.load(Ordering::SeqCst) {
                return;
            }
            ends.push((client.try_clone().unwrap(), front.try_clone().unwrap()));
        }
        let script = Arc::clone(script);
        std::thread::spawn(move || {
            let channel = match way {
                Way::Tls => trust::accept(back).ok(),
                Way::Port | Way::Socket => Some(Channel::plain(back)),
            };
            if let Some(channel) = channel {
                serve::serve(script, channel);
            }
        });
        let (to, from) = (front.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || pump(from, to, None));
        let proxy = Arc::clone(self);
        std::thread::spawn(move || pump(front, client, Some(&proxy)));
    }

    /// Pays for `count` bytes. Returns how many of them pass if the connections break.
    fn spend(&self, count: usize) -> Option<usize> {
        if self.budget.load(Ordering::SeqCst) < 0 {
            return None;
        }
        let before = self.budget.fetch_sub(count as i64, Ordering::SeqCst);
        (0..count as i64)
            .contains(&before)
            .then_some(before as usize)
    }

    fn cut(&self) {
        for (client, server) in self.ends.lock().unwrap().drain(..) {
            let _ = server.shutdown(Shutdown::Both);
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

/// Copies until an end. `proxy` is there for bytes to the client.
fn pump(mut from: Socket, mut to: Socket, proxy: Option<&Proxy>) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        let passes = proxy.and_then(|proxy| proxy.spend(count));
        let sent = to.write_all(&piece[..passes.unwrap_or(count)]);
        if let (Some(_), Some(proxy)) = (passes, proxy) {
            proxy.cut();
        }
        if sent.is_err() && proxy.is_none() {
            // The server's last words are still on their way to the client.
            return;
        }
        if sent.is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
