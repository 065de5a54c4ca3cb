//! The names of this machine, for which certificates are.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// The DNS names and addresses in `text`, with commas between them. An address gets the one
/// spelling that it has in a certificate.
///
/// # Errors
/// The first part that is neither.
pub fn listed(text: &str) -> Result<Vec<String>, String> {
    let parts = text.split(',').map(str::trim);
    let parts = parts.filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let address = part.trim_matches(['[', ']']).parse::<IpAddr>();
            if let Ok(address) = address {
                return Ok(address.to_string());
            }
            match xylem_channel::server_name(part) {
                Ok(_) => Ok(part.to_owned()),
                Err(_) => Err(part.to_owned()),
            }
        })
        .collect()
}

/// The names and addresses by which clients reach programs that listen on `addresses`:
/// `localhost`, the machine's name, and the addresses of its interfaces where a program
/// listens on all of them.
pub fn of_listeners(addresses: impl IntoIterator<Item = IpAddr>) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    if let Ok(name) = rustix::system::uname().nodename().to_str()
        && xylem_channel::server_name(name).is_ok()
    {
        names.insert(name.to_owned());
    }
    for address in addresses {
        names.extend(reached(address).iter().map(IpAddr::to_string));
    }
    names
}

/// The addresses at which a listener on `ip` is reached.
fn reached(ip: IpAddr) -> Vec<IpAddr> {
    if !ip.is_unspecified() {
        return vec![ip];
    }
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            // Addresses of one link only cannot be told apart without the link.
            let v6 = address.as_sockaddr_in6().map(|v6| v6.ip());
            v4.or(v6.filter(|v6| !v6.is_unicast_link_local()).map(IpAddr::V6))
        })
        .collect()
}
