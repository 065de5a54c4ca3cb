//! Arguments of `xylem token`.

use crate::work::token::{Lifetime, scope};
use clap::{Args, Subcommand};
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
    #[arg(long, value_name = "BRANCHES", group = "rights", value_parser = scope)]
    pub read: Vec<Scope>,
    /// Allow being the compute of these branches
    #[arg(long, value_name = "BRANCHES", group = "rights", value_parser = scope)]
    pub write: Vec<Scope>,
    /// Allow creating, renaming, restoring and removing these branches
    #[arg(long, value_name = "BRANCHES", group = "rights", value_parser = scope)]
    pub admin: Vec<Scope>,
    /// Time until the token ends, such as 30d; `never`
    #[arg(long, value_name = "TIME|never", default_value = "30d", value_parser = Lifetime::parse)]
    pub expires: Lifetime,
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
