//! `xylem gateway`: one address for all branches.

use crate::app::App;
use crate::args::gateway::GatewayArgs;
use crate::doctor::installation::mariadb_version;
use crate::failure::Failure;
use crate::gateway::{Branches, metrics};
use crate::home::Home;
use crate::output;
use crate::role::{self, DRAIN, Role, listening};
use crate::session::Session;
use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};
use xylem_gateway::{Gateway, Settings};
use xylem_tls::{ServerTls, Versions};

/// The prefix of the version that MariaDB's servers tell, for old replicas.
const VERSION_PREFIX: &str = "5.5.5-";

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When there is no project, its server does not start, or the address is taken.
pub fn run(app: App, args: &GatewayArgs) -> Result<()> {
    app.state.require_project()?;
    xylem_server::logging::init_plain();
    raise_descriptors(args.connections_max);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("xylem-gateway")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(serve(app, args));
    runtime.shutdown_background();
    served
}

/// Lets the process have as many files as the system allows it: each client takes two.
fn raise_descriptors(connections_max: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files / 2 < connections_max as u64 {
        tracing::warn!(
            "the system allows {files} open files, enough for {} connections, not for {connections_max}: raise `ulimit -n`",
            files / 2
        );
    }
}

async fn serve(app: App, args: &GatewayArgs) -> Result<()> {
    let shutdown = xylem_server::shutdown_signal().context("cannot wait for signals")?;
    let home = Home::find()?;
    let files = role::certificate(&app)?;
    let server = app.state.server_record();
    let runs = server.is_some_and(|server| server.process.is_alive());
    // The server's first start makes the certificates. While `xylem up`, which has the lock,
    // waits for this process, the server runs.
    if !runs || !files.certificate.exists() {
        drop(Session::open(&app, &app.progress()).await?);
    }
    let settings = Settings {
        version: format!("{VERSION_PREFIX}{}", mariadb_version(&home)?),
        tls: Some(ServerTls::open(files, Versions::WithTls12, &[])?),
        require_tls: !args.allow_plaintext,
        domain: args.domain.clone(),
        connections_max: args.connections_max,
        connections_per_host: match args.connections_per_host {
            Some(most) => most.get(),
            None => args.connections_max - args.connections_max / 4,
        },
        drain: DRAIN,
        entropy: app.entropy.clone(),
        clock: app.clock.clone(),
    };
    let listener = listen(args.listen, args.connections_max).map_err(|error| {
        Failure::new(
            format!("cannot listen on {}: {error}", args.listen),
            "choose another address with --listen",
        )
    })?;
    let address = listener.local_addr().context("the gateway's address")?;
    output::text_line(&format!(
        "{} A client names a branch by its user (`app@dev`) or database (`shop@dev`).",
        listening(Role::Gateway, address)
    ))?;
    let state = app.state.clone();
    let branches = Arc::new(Branches::new(app));
    let gateway = Gateway::new(settings, Arc::clone(&branches) as _);
    tokio::select! {
        () = branches.tidy() => {}
        () = gateway.serve(listener, shutdown) => {}
        () = metrics::tell(&state, gateway.clone()) => {}
    }
    branches.remove_moments().await;
    Ok(())
}

/// Listens with room for all clients to arrive at once. The system drops those for whom there
/// is none, and a client of MariaDB, which waits for the greeting, then waits for ever.
fn listen(address: SocketAddr, connections_max: usize) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // The system has a limit of its own (net.core.somaxconn).
    socket.listen(
        u32::try_from(connections_max)
            .unwrap_or(u32::MAX)
            .min(1 << 16),
    )
}
