//! The certificates of the server and of computes: the modes of their files, and when they expire.

use super::Check;
use crate::app::App;
use crate::compute::record;
use crate::files;
use crate::project::Project;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};
use xylem_tls::authority::{Paths, validity};

const NAME: &str = "certificate";

/// The server renews its own certificate a month before it expires.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

pub(super) fn check(app: &App, checks: &mut Vec<Check>) {
    checks.push(look(app));
}

fn look(app: &App) -> Check {
    let Paths {
        authority,
        authority_key,
        server,
        client,
        compute_authority,
        compute_authority_key,
    } = Paths::in_dir(&app.state.certificates());
    if !authority.exists() {
        return Check::warn(
            NAME,
            format!("{} is missing", authority.display()),
            "restart the server, which makes it: `xylem down`, then `xylem up`",
        );
    }
    let computes: Vec<PathBuf> = record::list(&app.state)
        .into_iter()
        .filter(|(_, compute)| compute.process.is_alive())
        .map(|(name, _)| app.state.compute(&name).certificate_file())
        .filter(|file| file.exists())
        .collect();
    // mariadbd's group may read those of computes.
    let mut secrets = vec![
        (&authority_key, 0o077),
        (&server, 0o077),
        (&client, 0o077),
        (&compute_authority_key, 0o077),
    ];
    secrets.extend(computes.iter().map(|file| (file, 0o037)));
    for (path, closed) in secrets {
        if let Some(mode) = files::mode_of(path).filter(|mode| mode & closed != 0) {
            return Check::fail(
                NAME,
                format!("other users may read {} (mode {mode:o})", path.display()),
                format!("`chmod 600 {}`", path.display()),
            );
        }
    }
    let project = Project::load(&app.state).ok();
    let own = project.and_then(|project| project.settings.server.tls_cert);
    let (served, remedy) = match own {
        None => (server, "restart the server, which renews it"),
        Some(own) => (
            PathBuf::from(own),
            "renew it with the tool that made it, in the same place",
        ),
    };
    let anew = "stop the project, remove its directory tls, start it, and give clients the new ca.pem and compute-ca.pem";
    let now = UNIX_EPOCH + Duration::from_micros(app.clock.now_us());
    let soon = now + SOON;
    let mut dated = vec![(&served, remedy), (&authority, anew)];
    // Made with the first compute.
    if !computes.is_empty() {
        dated.push((&compute_authority, anew));
    }
    let again = "restart that compute, which renews it: `xylem compute stop`, then `start`";
    dated.extend(computes.iter().map(|file| (file, again)));
    for (path, remedy) in dated {
        match validity(path) {
            Err(error) => return Check::fail(NAME, error.to_string(), remedy),
            Ok(valid) if valid.end <= soon => {
                let found = format!("{} has expired or will within two weeks", path.display());
                return Check::fail(NAME, found, remedy);
            }
            Ok(valid) if valid.start > now => {
                let found = format!("{} is not valid yet", path.display());
                return Check::fail(NAME, found, "see whether the clock is right");
            }
            Ok(_) => {}
        }
    }
    Check::ok(NAME, format!("{} is valid", served.display()))
}
