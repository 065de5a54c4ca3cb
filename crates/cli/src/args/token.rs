//! Arguments of `xylem token`.

use clap::{Args, Subcommand};
use std::time::Duration;
use xylem_server::span::Span;
use xylem_tokens::Scope;

/// `xylem token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print it
    Create(TokenCreateArgs),
    /// List the tokens that were made
    Ls,
    /// Revoke a token: the server refuses it from the next second on
    Revoke(TokenRevokeArgs),
    /// Sign with a new key from now on
    Rotate(TokenRotateArgs),
}

/// `xylem token create`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("rights").required(true).multiple(true)))]
#[command(
    after_help = "BRANCHES is a branch's name, the beginning of names and an asterisk \
    ('ci/*'), or '*' for all branches.\nEach right includes those before it: read, write, admin."
)]
pub struct TokenCreateArgs {
    /// Name of the token's owner, for people
    pub name: String,
    /// Allow reading these branches, also by read-only computes
    #[arg(long, value_name = "BRANCHES", group = "rights", value_parser = branches)]
    pub read: Vec<Scope>,
    /// Allow being the compute of these branches
    #[arg(long, value_name = "BRANCHES", group = "rights", value_parser = branches)]
    pub write: Vec<Scope>,
    /// Allow creating, renaming, restoring and removing these branches
    #[arg(long, value_name = "BRANCHES", group = "rights", value_parser = branches)]
    pub admin: Vec<Scope>,
    /// Time until the token ends, such as 30d; `never`
    #[arg(long, value_name = "TIME|never", default_value = "30d", value_parser = lifetime)]
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

/// Branches by their names: ids are for the tokens of computes.
fn branches(text: &str) -> Result<Scope, String> {
    match text.parse()? {
        Scope::Id(_) => Err("name branches, or the beginning of names and *".to_owned()),
        scope => Ok(scope),
    }
}

fn lifetime(text: &str) -> Result<Lifetime, String> {
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

/// `xylem token revoke`
#[derive(Debug, Args)]
pub struct TokenRevokeArgs {
    /// Id or name of the token, as `xylem token ls` shows it
    pub token: String,
}

/// `xylem token rotate`
#[derive(Debug, Args)]
pub struct TokenRotateArgs {
    /// Refuse everything that older keys have signed, computes' tokens included
    #[arg(long)]
    pub drop_old: bool,
}
