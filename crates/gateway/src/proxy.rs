//! The header by which a proxy tells its server about the client: version 2 of the PROXY
//! protocol (<https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>), whose numbers
//! are big-endian.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, the command PROXY.
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header for a connection from `client` to `gateway`.
pub(crate) fn header(client: SocketAddr, gateway: SocketAddr) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.push(PROXY);
    match (client.ip().to_canonical(), gateway.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(gateway)) => {
            out.extend([TCP_OVER_IPV4, 0, 12]);
            out.extend(client.octets());
            out.extend(gateway.octets());
        }
        (client, gateway) => {
            out.extend([TCP_OVER_IPV6, 0, 36]);
            out.extend(v6(client));
            out.extend(v6(gateway));
        }
    }
    out.extend(client.port().to_be_bytes());
    out.extend(gateway.port().to_be_bytes());
    out
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
