//! `xylem api`: the HTTP API of the project.

use crate::api::access::Access;
use crate::api::events::Events;
use crate::api::files::Files;
use crate::api::serve::{PROTOCOLS, check_address, serve};
use crate::api::{Api, operations::Operations};
use crate::app::App;
use crate::args::api::ApiArgs;
use crate::failure::Failure;
use crate::output;
use crate::role::{self, Role};
use crate::session::Session;
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use xylem_tls::{ServerTls, Versions};

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When there is no project, its server does not start, or the address is taken.
pub fn run(app: App, args: &ApiArgs) -> Result<()> {
    app.state.require_project()?;
    check_address(args.listen, !args.plaintext, args.allow_plaintext)?;
    xylem_server::logging::init_plain();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("xylem-api")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(listen(app, args));
    runtime.shutdown_background();
    served
}

async fn listen(app: App, args: &ApiArgs) -> Result<()> {
    let files = Files::open(&args.files, app.state.root())?;
    let shutdown = xylem_server::shutdown_signal().context("cannot wait for signals")?;
    let pair = role::certificate(&app)?;
    let server = app.state.server_record();
    let runs = server.is_some_and(|server| server.process.is_alive());
    // The server's first start makes the certificates and keys. While `xylem up`, which has
    // the lock, waits for this process, the server runs.
    if !runs || !pair.certificate.exists() {
        drop(Session::open(&app, &app.progress()).await?);
    }
    let tls = match args.plaintext {
        true => None,
        false => Some(Arc::new(ServerTls::open(
            pair,
            Versions::WithTls12,
            PROTOCOLS,
        )?)),
    };
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failure::new(
            format!("cannot listen on {}: {error}", args.listen),
            "choose another address with --listen",
        )
    })?;
    let address = listener.local_addr().context("the API's address")?;
    let app = app.for_clients();
    let api = Api {
        access: Arc::new(Access::open(&app)?),
        files: Arc::new(files),
        transfers: Arc::default(),
        operations: Arc::new(Operations::new(app.clock.instant())),
        events: Arc::new(Events::new(app.clock.now_us())),
        stopping: CancellationToken::new(),
        app,
    };
    output::text_line(&role::listening(Role::Api, address))?;
    serve(api, listener, tls, shutdown).await;
    Ok(())
}
