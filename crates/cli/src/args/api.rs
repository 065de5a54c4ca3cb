//! Arguments of the API.

use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `xylem api`
#[derive(Clone, Debug, Args)]
pub struct ApiArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3380")]
    pub listen: SocketAddr,
    /// Speak HTTP without TLS, on loopback only
    #[arg(long)]
    pub plaintext: bool,
    /// With --plaintext: listen where other machines reach it, too, which shows tokens to
    /// the network
    #[arg(long)]
    pub allow_plaintext: bool,
    /// Directory of this machine in which imports read, and exports write; may be given
    /// several times
    #[arg(long, value_name = "DIR")]
    pub files: Vec<PathBuf>,
}
