//! The connections of each host, so that one host leaves room for others.
//!
//! Hosts are told apart by their IPv4 address, or by the /64 network of their IPv6 address: a
//! host has a whole network of those. All users of this machine look the same, so loopback
//! has no limit here.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Open connections of each host beyond loopback.
#[derive(Clone, Debug)]
pub struct Hosts {
    max: usize,
    open: Arc<Mutex<HashMap<IpAddr, Host>>>,
}

#[derive(Debug, Default)]
struct Host {
    count: usize,
    /// Somebody was told that the limit is reached, since the host has had a connection.
    told: bool,
}

/// Counts a connection until it is dropped.
#[derive(Debug)]
pub struct Place(Option<(Hosts, IpAddr)>);

/// A host has as many connections as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// The host's address, or its network's.
    pub host: IpAddr,
    /// It is the first refusal since the host has had no connection: worth a line in a log.
    pub is_first: bool,
}

impl Hosts {
    /// A limit of `max` connections for each host.
    pub fn new(max: usize) -> Hosts {
        Hosts {
            max,
            open: Arc::default(),
        }
    }

    /// Counts a connection of `ip`.
    ///
    /// # Errors
    /// When that host may have no other one.
    pub fn admit(&self, ip: IpAddr) -> Result<Place, TooMany> {
        let ip = ip.to_canonical();
        if ip.is_loopback() {
            return Ok(Place(None));
        }
        let host = network(ip);
        let mut open = self.open.lock();
        let known = open.entry(host).or_default();
        if known.count < self.max {
            known.count += 1;
            return Ok(Place(Some((self.clone(), host))));
        }
        let is_first = !std::mem::replace(&mut known.told, true);
        Err(TooMany { host, is_first })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((hosts, host)) = &self.0 {
            let mut open = hosts.open.lock();
            match open.get_mut(host) {
                Some(host) if host.count > 1 => host.count -= 1,
                _ => drop(open.remove(host)),
            }
        }
    }
}

/// The address that counts.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) & !u128::from(u64::MAX);
            Ipv6Addr::from(prefix).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn admit(hosts: &Hosts, ip: &str) -> Result<Place, TooMany> {
        hosts.admit(ip.parse().unwrap())
    }

    #[test]
    fn a_host_that_has_its_share_leaves_the_rest_to_others() {
        let hosts = Hosts::new(2);
        let mut open = Vec::new();
        for _ in 0..2 {
            open.push(admit(&hosts, "192.0.2.1").unwrap());
        }
        assert!(admit(&hosts, "192.0.2.1").unwrap_err().is_first);
        let again = admit(&hosts, "::ffff:192.0.2.1").unwrap_err();
        assert_eq!(again.host.to_string(), "192.0.2.1");
        assert!(!again.is_first);
        open.push(admit(&hosts, "192.0.2.2").unwrap());
        // One that it closes it may open again, and what was refused counts nothing.
        open.remove(0);
        open.push(admit(&hosts, "192.0.2.1").unwrap());
        assert!(admit(&hosts, "192.0.2.1").is_err());
        for _ in 0..5 {
            open.push(admit(&hosts, "127.0.0.1").unwrap());
            open.push(admit(&hosts, "::ffff:127.0.0.1").unwrap());
        }
        drop(open);
        assert!(hosts.open.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_host() {
        let hosts = Hosts::new(1);
        let _one = admit(&hosts, "2001:db8:1:2::1").unwrap();
        assert!(admit(&hosts, "2001:db8:1:2:ffff::2").is_err());
        assert!(admit(&hosts, "2001:db8:1:3::1").is_ok());
    }
}
