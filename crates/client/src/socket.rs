//! A connection to the page server: a Unix socket on the server's machine, otherwise
//! TCP, with TLS if the configuration says whom to trust. All calls block, a receive at
//! most for [`Limits::tick`].

use crate::config::Limits;
use crate::refusal::Closed;
use crate::shared::Shared;
use crate::sidefiles::Uncaptured;
use socket2::{Domain, SockAddr, Socket as Raw, TcpKeepalive, Type};
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use xylem_channel::{Channel, ClientTls, Wait};
use xylem_wire::{Fault, Hello, Invalid, Kind, Received, Role, Standing, hello};

/// Bytes of redo that the system may hold for the server, and pages for the compute.
const BUFFER_BYTES: usize = 1 << 20;

/// An established connection.
#[derive(Debug)]
pub struct Socket {
    channel: Channel,
    /// The time limit of a receive, in microseconds, as the system knows it.
    tick_us: AtomicU64,
}

/// Progress of a call that does not block for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// This many bytes were transferred.
    Bytes(usize),
    /// Nothing could be transferred yet.
    NotYet,
}

impl Socket {
    /// Connects, introduces this compute, and waits for the server's welcome.
    ///
    /// # Errors
    /// When the server cannot be reached in time, or refuses this compute.
    pub fn connect(shared: &Shared, role: Role) -> Result<(Socket, Received, Standing), Closed> {
        let _ours = Uncaptured::new();
        let config = &shared.config;
        let timeout = config.connect_timeout;
        let limits = &shared.limits;
        let channel = match (&config.socket, &config.tls) {
            (Some(path), _) => Channel::plain(unix(path, timeout)?),
            (None, tls) => {
                let raw = tcp(&config.host, config.port, timeout)?;
                match tls {
                    None => Channel::plain(raw),
                    Some(tls) => secured(raw, tls, shared)?,
                }
            }
        };
        let socket = Socket {
            channel,
            tick_us: AtomicU64::new(0),
        };
        // The server may admit a compute late, while it opens its branches.
        let until = limits.now() + limits.request_timeout();
        socket.set_tick(limits.tick())?;
        let raw = socket.channel.socket();
        raw.set_write_timeout(Some(limits.tick()))?;
        let introduction = hello(&Hello {
            role,
            epoch: config.epoch,
            branch: config.branch.clone(),
            token: config.token.clone().unwrap_or_default(),
        });
        socket.send_all(&introduction, limits)?;
        let mut received = Received::default();
        let standing = loop {
            if shared.is_ending() {
                return Err(Closed::Broken("the library is being shut down".to_owned()));
            }
            if let Some(message) = received.next()? {
                break match message.header.kind {
                    Kind::Welcome => Standing::decode(message.body)?,
                    Kind::Fault => {
                        return Err(Closed::Refused(Fault::decode(message.body)?.into()));
                    }
                    other => return Err(Invalid::Unexpected(other).into()),
                };
            }
            match socket.receive(&mut received)? {
                Progress::Bytes(0) => {
                    return Err(Closed::Broken(
                        "the server closed the connection".to_owned(),
                    ));
                }
                // The limit holds for a server that sends it byte by byte, too.
                Progress::Bytes(_) | Progress::NotYet => {
                    if limits.now() >= until {
                        let ms = limits.request_timeout().as_millis();
                        return Err(Closed::Broken(format!("no welcome within {ms} ms")));
                    }
                }
            }
        };
        limits.heard(limits.now());
        Ok((socket, received, standing))
    }

    /// Limits how long [`Socket::receive`] waits.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_tick(&self, tick: Duration) -> io::Result<()> {
        let us = u64::try_from(tick.as_micros()).unwrap_or(u64::MAX).max(1);
        if self.tick_us.swap(us, Ordering::Relaxed) != us {
            let limit = Duration::from_micros(us);
            self.channel.socket().set_read_timeout(Some(limit))?;
        }
        Ok(())
    }

    /// Waits for bytes and adds them to `received`; 0 bytes mean that the peer closed
    /// the connection.
    ///
    /// # Errors
    /// The system's error.
    pub fn receive(&self, received: &mut Received) -> io::Result<Progress> {
        self.receive_into(received, Wait::Yes)
    }

    /// As [`Socket::receive`], without waiting.
    ///
    /// # Errors
    /// The system's error.
    pub fn receive_ready(&self, received: &mut Received) -> io::Result<Progress> {
        self.receive_into(received, Wait::No)
    }

    fn receive_into(&self, received: &mut Received, wait: Wait) -> io::Result<Progress> {
        let result = self.channel.receive(received.room(), wait);
        if let Ok(count) = result {
            received.filled(count);
        }
        progress(result)
    }

    /// Sends all of `bytes`, and waits while the system has no room for them.
    ///
    /// # Errors
    /// The system's error, or a peer that takes nothing for the request timeout.
    pub fn send_all(&self, bytes: &[u8], limits: &Limits) -> Result<(), Closed> {
        let mut rest = bytes;
        let mut until = None;
        while !rest.is_empty() {
            match progress(self.channel.send(&[IoSlice::new(rest)], Wait::Yes))? {
                Progress::Bytes(count) => {
                    rest = &rest[count..];
                    until = None;
                }
                Progress::NotYet => {
                    let (now, timeout) = (limits.now(), limits.request_timeout());
                    if now >= *until.get_or_insert(now + timeout) {
                        return Err(Closed::Silent(timeout.as_millis()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends what the system has room for. After [`Progress::NotYet`], the next call must
    /// begin with the same bytes.
    ///
    /// # Errors
    /// The system's error.
    pub fn send_ready(&self, parts: &[IoSlice<'_>]) -> io::Result<Progress> {
        progress(self.channel.send(parts, Wait::No))
    }

    /// Waits until the system has room to send, or until `limit` has passed.
    pub fn wait_for_room(&self, limit: Duration) {
        let mut room = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(self.channel.socket()),
            events: libc::POLLOUT,
            revents: 0,
        };
        let ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: `room` is one pollfd. An error means that the next send fails.
        unsafe { libc::poll(&mut room, 1, ms) };
    }

    /// Ends the connection. Blocked calls return.
    pub fn end(&self) {
        self.channel.end(Shutdown::Both);
    }
}

/// Makes the TLS handshake on a new connection.
fn secured(raw: Raw, tls: &ClientTls, shared: &Shared) -> Result<Channel, Closed> {
    let (config, limits) = (&shared.config, &shared.limits);
    let until = limits.now() + config.connect_timeout;
    let tick = config.connect_timeout.min(limits.tick());
    raw.set_read_timeout(Some(tick))?;
    raw.set_write_timeout(Some(tick))?;
    let mut goes_on = || match shared.is_ending() || limits.now() >= until {
        true => Err(ErrorKind::TimedOut.into()),
        false => Ok(()),
    };
    tls.connect(raw, &config.host, &mut goes_on)
        .map_err(|error| {
            let server = config.server();
            Closed::Broken(match error.kind() {
                ErrorKind::TimedOut => format!(
                    "{server}: no TLS handshake within {} ms",
                    config.connect_timeout.as_millis()
                ),
                ErrorKind::InvalidData => format!("{server}: TLS: {error}"),
                _ => format!("{server}: TLS handshake: {error}"),
            })
        })
}

fn progress(result: io::Result<usize>) -> io::Result<Progress> {
    match result {
        Ok(count) => Ok(Progress::Bytes(count)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(Progress::NotYet)
        }
        Err(e) => Err(e),
    }
}

fn unix(path: &Path, timeout: Duration) -> Result<Raw, Closed> {
    let failed = |e: io::Error| Closed::Broken(format!("{}: {e}", path.display()));
    let raw = Raw::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    // The time limit of a connect to a server whose backlog is full.
    raw.set_write_timeout(Some(timeout)).map_err(failed)?;
    raw.connect(&SockAddr::unix(path).map_err(failed)?)
        .map_err(failed)?;
    raw.set_write_timeout(None).map_err(failed)?;
    raw.set_send_buffer_size(BUFFER_BYTES).map_err(failed)?;
    raw.set_recv_buffer_size(BUFFER_BYTES).map_err(failed)?;
    Ok(raw)
}

fn tcp(host: &str, port: u16, timeout: Duration) -> Result<Raw, Closed> {
    let addrs = (host, port)
        .to_socket_addrs()
        .map_err(|e| Closed::Broken(format!("cannot resolve {host}: {e}")))?;
    let mut failure = Closed::Broken(format!("{host} has no address"));
    for addr in addrs {
        match tcp_to(addr, timeout) {
            Ok(raw) => return Ok(raw),
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                failure = Closed::Broken(format!(
                    "{addr}: no connection within {} ms",
                    timeout.as_millis()
                ));
            }
            Err(e) => failure = Closed::Broken(format!("{addr}: {e}")),
        }
    }
    Err(failure)
}

/// A peer that vanishes without a word is noticed after about three times this time:
/// by probes when nothing is sent, and by the lack of TCP acknowledgements otherwise.
const KEEPALIVE: Duration = Duration::from_secs(5);

fn tcp_to(addr: SocketAddr, timeout: Duration) -> io::Result<Raw> {
    let raw = Raw::new(Domain::for_address(addr), Type::STREAM, None)?;
    raw.connect_timeout(&addr.into(), timeout)?;
    raw.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(2);
    raw.set_tcp_keepalive(&keepalive)?;
    raw.set_tcp_user_timeout(Some(3 * KEEPALIVE))?;
    Ok(raw)
}
