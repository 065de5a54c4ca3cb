//! TCP ports: which are free, which to use, and which process has one.

use crate::failure::{Failure, Kind};
use anyhow::Result;
use std::net::{IpAddr, SocketAddr, TcpListener};

/// How many ports after the wanted one are tried.
const TRIES: u16 = 200;

/// A port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The port.
    pub port: u16,
    /// The one that would have been taken, had it been free.
    pub instead_of: Option<u16>,
}

/// Whether `port` can be listened on at `address` now.
pub fn is_free(address: IpAddr, port: u16) -> bool {
    TcpListener::bind(SocketAddr::new(address, port)).is_ok()
}

/// A port to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Whose port it is, for errors.
    pub what: &'a str,
    /// The flag that sets it, for errors.
    pub flag: &'a str,
    /// The address to listen on.
    pub address: IpAddr,
    /// The port that people asked for, which must be free.
    pub explicit: Option<u16>,
    /// Otherwise the first port to try.
    pub preferred: u16,
}

impl Wanted<'_> {
    /// The explicit port, or the first free one from the preferred port on that is
    /// not in `avoid`.
    ///
    /// # Errors
    /// When the explicit port is taken, or no free one is found.
    pub fn choose(&self, avoid: &[u16]) -> Result<Choice> {
        let Wanted {
            what,
            flag,
            address,
            preferred,
            ..
        } = *self;
        if let Some(port) = self.explicit {
            if is_free(address, port) {
                return Ok(Choice {
                    port,
                    instead_of: None,
                });
            }
            let owner = owner(port).map_or_else(String::new, |owner| format!(" by {owner}"));
            return Err(Failure::of(
                Kind::Conflict,
                format!("port {port}, given for {what}, is taken on {address}{owner}"),
                format!(
                    "give another port with {flag}, or stop the program that listens there (`ss -ltnp 'sport = :{port}'` shows it)"
                ),
            ));
        }
        let last = preferred.saturating_add(TRIES);
        let free = (preferred..=last).find(|port| !avoid.contains(port) && is_free(address, *port));
        match free {
            Some(port) => Ok(Choice {
                port,
                instead_of: (port != preferred).then_some(preferred),
            }),
            None => Err(Failure::new(
                format!("no free port for {what} on {address} from {preferred} to {last}"),
                format!(
                    "give a port with {flag}, or check that {address} is an address of this machine"
                ),
            )),
        }
    }
}

/// The system's error for a port that is taken (`EADDRINUSE`).
const IN_USE: &str = "os error 98";

/// Whether a server or gateway that was to listen on `address` found it taken, according
/// to its log file.
pub fn was_taken(log: &str, address: SocketAddr) -> bool {
    let failed = format!("cannot listen on {address}:");
    log.lines()
        .any(|line| line.contains(&failed) && line.contains(IN_USE))
}

/// The process that listens on a port, as far as this user may know:
/// `mariadbd (pid 17)`.
pub fn owner(port: u16) -> Option<String> {
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(text) = std::fs::read_to_string(table) {
            inodes.extend(listening_inodes(&text, port));
        }
    }
    let wanted: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if wanted.is_empty() {
        return None;
    }
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let has = files.flatten().any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|target| {
                wanted
                    .iter()
                    .any(|name| target.as_os_str() == name.as_str())
            })
        });
        if has {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// The socket inodes that listen on `port`, from the text of `/proc/net/tcp`.
pub fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let listens = fields.get(3) == Some(&"0A");
            let here = fields.get(1).is_some_and(|local| local.ends_with(&suffix));
            if listens && here {
                fields.get(9)?.parse().ok()
            } else {
                None
            }
        })
        .collect()
}

/// The address at which a local client reaches a listener on `bind`.
pub fn reachable(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(v4) if v4.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}
