//! The keys of a project's tokens, and the token of its owner: whoever can read the state
//! directory may do everything.

use crate::app::App;
use crate::files;
use crate::state::StateDir;
use anyhow::{Context, Result};
use std::path::PathBuf;
use xylem_tokens::{Right, RightOn, Ring, Scope};

/// The name of the owner's token.
const OWNER: &str = "owner";

/// The directory of the keys.
pub fn dir(state: &StateDir) -> PathBuf {
    state.root().join("keys")
}

/// Makes keys and the owner's token if they are missing, or if the token is not valid
/// any more. The caller holds the state directory's lock.
///
/// # Errors
/// When a file cannot be read or written.
pub fn ensure(app: &App) -> Result<()> {
    let dir = dir(&app.state);
    if !Ring::exists(&dir) {
        Ring::create(&dir, &app.entropy)?;
    }
    let ring = Ring::open(&dir)?;
    let own = app.state.token()?;
    if own.is_some_and(|own| ring.verify(&own, &app.clock).is_ok()) {
        return Ok(());
    }
    own_token(app, &ring)
}

/// Writes a new token for the owner, signed by the newest key.
///
/// # Errors
/// When it cannot be signed or written.
pub fn own_token(app: &App, ring: &Ring) -> Result<()> {
    let rights = vec![RightOn {
        can: Right::Admin,
        on: Scope::All,
    }];
    let claims = ring.claims(OWNER, rights, &app.clock, &app.entropy)?;
    let token = ring.sign(&claims)?;
    files::write_durable(
        &app.state.token_file(),
        format!("{token}\n").as_bytes(),
        files::SECRET,
    )
    .context("the owner's token")
}
