//! The settings that a start goes by: those kept, with those given now.

use crate::app::App;
use crate::args::project::UpArgs;
use crate::compute::record;
use crate::failure::Failure;
use crate::files;
use crate::project::{self, Project};
use crate::settings::{self, PAGE_SIZE, Settings, Switch, WAL_STORE};
use crate::state::StateDir;
use anyhow::Result;
use std::path::Path;

/// A project with the settings given now.
pub(super) struct Settled {
    /// The project.
    pub project: Project,
    /// A setting has changed.
    pub changed: bool,
    /// One of them is the server's.
    pub server_changed: bool,
    /// One of them is that of computes.
    pub computes_changed: bool,
    /// One of them is the gateway's.
    pub gateway_changed: bool,
    /// One of them is the API's.
    pub api_changed: bool,
}

/// The project with the settings given now.
pub(super) fn settle(app: &App, args: &UpArgs) -> Result<Settled> {
    let old = if app.state.has_project() {
        Some(Project::load(&app.state)?)
    } else {
        None
    };
    let mut project = match &old {
        Some(old) => old.clone(),
        None => Project::new(app.now()?),
    };
    for name in &args.unset {
        unset(app, &mut project, name)?;
    }
    let given = &args.settings;
    if old.is_some() {
        check_fixed(app, &project.settings, given)?;
    }
    check_binary_log(&given.compute.mariadbd_args, &app.state)?;
    project.settings = project.settings.with(given)?;
    // Defaults need no mention.
    let store = &mut project.settings.store.wal_store;
    *store = store.take().filter(|wanted| wanted != WAL_STORE);
    let format = &mut project.settings.format.page_size;
    *format = format.filter(|size| *size != PAGE_SIZE);
    for switch in [
        &mut project.settings.gateway.gateway,
        &mut project.settings.api.api,
    ] {
        *switch = switch.filter(|wanted| *wanted != Switch::On);
    }
    let server = &project.settings.server;
    if server.tls_key.is_some() && server.tls_cert.is_none() {
        return Err(Failure::usage(
            "--tls-key is the key of --tls-cert, which is missing",
            "give both, or neither",
        ));
    }
    let changed = old.as_ref() != Some(&project);
    let before = old.as_ref().unwrap_or(&project);
    let (was, is) = (&before.settings, &project.settings);
    let server_changed = (&was.server, &was.listen) != (&is.server, &is.listen);
    let computes_changed =
        was.compute != is.compute || before.ports.mysql_port != project.ports.mysql_port;
    let gateway_changed =
        was.gateway != is.gateway || before.ports.gateway_port != project.ports.gateway_port;
    let api_changed = was.api != is.api || before.ports.api_port != project.ports.api_port;
    project.restore_wal = args.restore_wal;
    Ok(Settled {
        project,
        changed,
        server_changed,
        computes_changed,
        gateway_changed,
        api_changed,
    })
}

/// Refuses to change what is fixed when a project is created.
fn check_fixed(app: &App, kept: &Settings, given: &Settings) -> Result<()> {
    let fixed = |what: &str, kept: &str, wanted: &str, flag: &str| {
        Failure::new(
            format!("the {what} of this project is {kept}, which cannot be changed to {wanted}"),
            format!("leave {flag} out, or create another project with --dir"),
        )
    };
    if let Some(wanted) = &given.store.object_store
        && kept.store.object_store.as_ref() != Some(wanted)
    {
        let default = || xylem_server::place::default_url(&app.state.server_data());
        let kept = kept.store.object_store.clone().unwrap_or_else(default);
        return Err(fixed("object store", &kept, wanted, "--object-store"));
    }
    if let Some(wanted) = &given.store.wal_store
        && kept.wal_store() != wanted
    {
        return Err(fixed("WAL store", kept.wal_store(), wanted, "--wal-store"));
    }
    if let Some(wanted) = given.format.page_size
        && kept.page_size() != wanted
    {
        let (kept, wanted) = (kept.page_size().to_string(), wanted.to_string());
        return Err(fixed("page size", &kept, &wanted, "--page-size"));
    }
    Ok(())
}

/// Gives the setting `name` its default again.
fn unset(app: &App, project: &mut Project, name: &str) -> Result<()> {
    if name == settings::GRPC_PORT {
        let computes = record::list(&app.state);
        if let Some((name, _)) = computes.iter().find(|(_, r)| r.process.is_alive()) {
            return Err(Failure::new(
                format!(
                    "{} runs and waits for its server on its port",
                    name.described()
                ),
                format!("stop it first: `{}`", app.command("down")),
            ));
        }
    }
    let settings = &mut project.settings;
    settings.server = settings::without(&settings.server, name)?;
    if name == settings::TLS_CERT {
        // Of no use by itself.
        settings.server.tls_key = None;
    }
    settings.listen = settings::without(&settings.listen, name)?;
    settings.compute = settings::without(&settings.compute, name)?;
    settings.gateway = settings::without(&settings.gateway, name)?;
    settings.api = settings::without(&settings.api, name)?;
    settings.sleep = settings::without(&settings.sleep, name)?;
    project.ports = settings::without(&project.ports, name)?;
    Ok(())
}

/// Refuses a binary log in a compute's directory that is not the branch's own: it would be
/// removed with the directory. Commits that are only in the binary log yet would be lost, and
/// MariaDB, which finds them prepared, would not start.
///
/// # Errors
/// When an argument puts it there.
pub fn check_binary_log(args: &[String], state: &StateDir) -> Result<()> {
    let computes = files::resolved(&state.computes());
    let inside = args.iter().find(|arg| {
        let place = arg.split_once('=').map(|(_, place)| Path::new(place));
        project::is_binary_log(arg)
            && !project::is_own_binary_log(arg)
            && !place.is_some_and(|place| {
                place.is_absolute() && !files::resolved(place).starts_with(&computes)
            })
    });
    match inside {
        None => Ok(()),
        Some(arg) => Err(Failure::usage(
            format!(
                "{arg} puts the binary log into the compute's directory, which is not durable: commits would be lost"
            ),
            "--log-bin alone keeps it in the branch; or put it on a disk of its own, which outlives the compute: --log-bin=/path/name",
        )),
    }
}
