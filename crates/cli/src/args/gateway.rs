//! Arguments of the gateway.

use clap::Args;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

/// `xylem gateway`
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3300")]
    pub listen: SocketAddr,
    /// Domain of server names in TLS, such as example.com: dev.example.com names branch
    /// dev
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Most connections at a time
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub connections_max: usize,
    /// Most connections of one host, or of one /64 network of IPv6, at a time [default: three
    /// quarters of --connections-max]
    #[arg(long, value_name = "N")]
    pub connections_per_host: Option<NonZeroUsize>,
    /// Let clients of other machines connect without TLS, which shows what they send and
    /// receive to the network
    #[arg(long)]
    pub allow_plaintext: bool,
}
