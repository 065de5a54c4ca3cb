//! Work on tokens and the keys that sign them. Callers need no server.

use crate::app::App;
use crate::compute::record;
use crate::failure::{Failure, Kind};
use crate::keys;
use crate::lock::Lock;
use crate::report::token::{RotatedReport, TokenReport};
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;
use xylem_server::span::Span;
use xylem_tokens::{RightOn, Ring, Scope};

/// A token to be made.
#[derive(Clone, Debug)]
pub struct New {
    /// Its owner's name, for people.
    pub name: String,
    /// Its rights.
    pub rights: Vec<RightOn>,
    /// How long it is valid.
    pub expires: Lifetime,
}

/// How long a token is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// For this many seconds.
    Seconds(u64),
    /// Until it is revoked.
    Never,
}

/// The longest time that a token may be valid: a hundred years.
const LIFETIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Lifetime {
    /// Reads a time with its unit, or `never`.
    ///
    /// # Errors
    /// When it is neither, or out of range.
    pub fn parse(text: &str) -> Result<Lifetime, String> {
        if text == "never" {
            return Ok(Lifetime::Never);
        }
        let span: Span = text
            .parse()
            .map_err(|error| format!("{error}; or write never"))?;
        match span.0 {
            time if time.as_secs() == 0 => {
                Err("a token must be valid for a second at least".to_owned())
            }
            time if time > LIFETIME_MAX => {
                Err("a token may be valid for 100 years; or write never".to_owned())
            }
            time => Ok(Lifetime::Seconds(time.as_secs())),
        }
    }
}

impl std::fmt::Display for Lifetime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lifetime::Seconds(seconds) => write!(f, "{seconds}s"),
            Lifetime::Never => f.write_str("never"),
        }
    }
}

/// Branches by their names: ids are for the tokens of computes.
///
/// # Errors
/// When no branch can have such a name.
pub fn scope(text: &str) -> Result<Scope, String> {
    match text.parse()? {
        Scope::Id(_) => Err("name branches, or the beginning of names and *".to_owned()),
        scope => Ok(scope),
    }
}

/// The directory of the keys, which are made if there are none.
async fn open(app: &App) -> Result<(PathBuf, Lock)> {
    app.state.require_project()?;
    let lock = app.lock().await?;
    keys::ensure(app)?;
    Ok((keys::dir(&app.state), lock))
}

/// Makes a token.
///
/// # Errors
/// When there is one of that name.
pub async fn create(app: &App, new: &New) -> Result<TokenReport> {
    let (dir, _lock) = open(app).await?;
    let taken = Ring::issued(&dir)?
        .into_iter()
        .any(|issued| issued.name == new.name || issued.id == new.name);
    if taken || new.name.trim().is_empty() {
        let (kind, what) = match taken {
            true => (
                Kind::Conflict,
                format!("there is a token {} already", new.name),
            ),
            false => (Kind::Invalid, "the token needs a name".to_owned()),
        };
        return Err(Failure::usage_of(
            kind,
            what,
            "choose another name: tokens are listed and revoked by it",
        ));
    }
    let ring = Ring::open(&dir)?;
    let mut claims = ring.claims(&new.name, new.rights.clone(), &app.clock, &app.entropy)?;
    claims.exp = match new.expires {
        Lifetime::Seconds(seconds) => Some(claims.iat.saturating_add(seconds)),
        Lifetime::Never => None,
    };
    let token = ring.sign(&claims)?;
    // Before it is given away: what is not listed cannot be revoked.
    let issued = ring.record_of(&claims);
    Ring::record(&dir, &issued)?;
    Ok(TokenReport {
        token: Some(token),
        ..TokenReport::new(issued, &ring, &app.clock)?
    })
}

/// The tokens that were made, the oldest one first. The owner's is made anew if it is gone.
///
/// # Errors
/// When the list cannot be read.
pub async fn list(app: &App) -> Result<Vec<TokenReport>> {
    let (_, _lock) = open(app).await?;
    known(app)
}

/// As [`list`], without the lock on the state directory: files are replaced as a whole.
///
/// # Errors
/// When the list cannot be read, or there are no keys.
pub fn known(app: &App) -> Result<Vec<TokenReport>> {
    let dir = keys::dir(&app.state);
    let ring = Ring::open(&dir)?;
    let issued = Ring::issued(&dir)?.into_iter();
    issued
        .map(|issued| TokenReport::new(issued, &ring, &app.clock))
        .collect()
}

/// A token that was made, given by its id or its name.
///
/// # Errors
/// When there is none, or the list cannot be read.
pub fn find(app: &App, token: &str) -> Result<TokenReport> {
    let mut known = known(app)?.into_iter();
    let found = known.find(|known| known.id == token || known.name == token);
    found.ok_or_else(|| no_token(app, token))
}

fn no_token(app: &App, token: &str) -> anyhow::Error {
    Failure::of(
        Kind::NotFound,
        format!("there is no token {token}"),
        format!(
            "`{}` lists the tokens that were made",
            app.command("token ls")
        ),
    )
}

/// Revokes a token, given by its id or its name.
///
/// # Errors
/// When there is none.
pub async fn revoke(app: &App, token: &str) -> Result<TokenReport> {
    let (dir, _lock) = open(app).await?;
    let issued = Ring::issued(&dir)?;
    let found = issued
        .iter()
        .find(|issued| issued.id == token || issued.name == token);
    let Some(found) = found else {
        return Err(no_token(app, token));
    };
    Ring::revoke(&dir, &found.id)?;
    TokenReport::new(found.clone(), &Ring::open(&dir)?, &app.clock)
}

/// Signs with a new key from now on; `drop_old` removes the older ones.
///
/// # Errors
/// When a key cannot be written.
pub async fn rotate(app: &App, drop_old: bool) -> Result<RotatedReport> {
    let (dir, _lock) = open(app).await?;
    Ring::add_key(&dir, &app.entropy)?;
    // The owner's token first: this command line needs it when the old keys are gone.
    keys::own_token(app, &Ring::open(&dir)?)?;
    let dropped_keys = match drop_old {
        true => Ring::drop_old_keys(&dir)?,
        false => 0,
    };
    let running = record::list(&app.state)
        .into_iter()
        .filter(|(_, record)| dropped_keys > 0 && record.process.is_alive());
    Ok(RotatedReport {
        dropped_keys,
        computes_to_restart: running.map(|(name, _)| name.to_string()).collect(),
    })
}
