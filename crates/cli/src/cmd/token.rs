//! `xylem token create|ls|revoke|rotate`.

use crate::app::{App, LOCK_LIMIT};
use crate::args::token::{
    Lifetime, TokenCommand, TokenCreateArgs, TokenRevokeArgs, TokenRotateArgs,
};
use crate::compute::record;
use crate::failure::Failure;
use crate::keys;
use crate::output;
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;
use std::path::Path;
use xylem_tokens::{Issued, Right, RightOn, Ring, Scope};

/// A token that was made, for people and programs.
#[derive(Debug, Serialize)]
struct TokenReport {
    id: String,
    name: String,
    rights: Vec<RightOn>,
    created: String,
    /// `null`: never.
    expires: Option<String>,
    /// `valid`, `expired` or `revoked`.
    state: &'static str,
    /// Only when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or written, or there is no such token.
pub async fn run(app: &App, command: &TokenCommand) -> Result<()> {
    app.state.require_project()?;
    let _lock = app.state.lock(LOCK_LIMIT).await?;
    let dir = keys::dir(&app.state);
    keys::ensure(app)?;
    match command {
        TokenCommand::Create(args) => create(app, &dir, args),
        TokenCommand::Ls => ls(app, &dir),
        TokenCommand::Revoke(args) => revoke(app, &dir, args),
        TokenCommand::Rotate(args) => rotate(app, &dir, args),
    }
}

fn create(app: &App, dir: &Path, args: &TokenCreateArgs) -> Result<()> {
    let taken = Ring::issued(dir)?
        .into_iter()
        .any(|issued| issued.name == args.name || issued.id == args.name);
    if taken || args.name.trim().is_empty() {
        return Err(Failure::usage(
            match taken {
                true => format!("there is a token {} already", args.name),
                false => "the token needs a name".to_owned(),
            },
            "choose another name: tokens are listed and revoked by it",
        ));
    }
    let ring = Ring::open(dir)?;
    let on = |can: Right, scopes: &[Scope]| -> Vec<RightOn> {
        let scopes = scopes.iter().cloned();
        scopes.map(|on| RightOn { can, on }).collect()
    };
    let rights = [
        on(Right::Read, &args.read),
        on(Right::Write, &args.write),
        on(Right::Admin, &args.admin),
    ]
    .concat();
    let mut claims = ring.claims(&args.name, rights, &app.clock, &app.entropy)?;
    claims.exp = match args.expires {
        Lifetime::Seconds(seconds) => Some(claims.iat.saturating_add(seconds)),
        Lifetime::Never => None,
    };
    let token = ring.sign(&claims)?;
    // Before it is given away: what is not listed cannot be revoked.
    let issued = ring.record_of(&claims);
    Ring::record(dir, &issued)?;
    if app.json {
        let report = TokenReport {
            token: Some(token),
            ..reported(app, &ring, issued)?
        };
        return output::json(&report);
    }
    eprintln!(
        "made token {} of {}; it is shown only now",
        claims.jti, args.name
    );
    output::text_line(&token)
}

fn ls(app: &App, dir: &Path) -> Result<()> {
    let ring = Ring::open(dir)?;
    let issued = Ring::issued(dir)?.into_iter();
    let reports: Vec<TokenReport> = issued
        .map(|issued| reported(app, &ring, issued))
        .collect::<Result<_>>()?;
    if app.json {
        return output::json(&reports);
    }
    let rows: Vec<Vec<String>> = reports
        .into_iter()
        .map(|report| {
            let rights = report.rights.iter();
            let rights = rights.map(|right| format!("{} {}", right.can, right.on));
            vec![
                report.id,
                report.name,
                rights.collect::<Vec<_>>().join(", "),
                report.expires.unwrap_or_else(|| "never".to_owned()),
                report.state.to_owned(),
            ]
        })
        .collect();
    output::text_line(&output::table(
        &["ID", "NAME", "RIGHTS", "EXPIRES", "STATE"],
        &rows,
    ))
}

fn reported(app: &App, ring: &Ring, issued: Issued) -> Result<TokenReport> {
    let time = |seconds: u64| -> Result<String> {
        let seconds = i64::try_from(seconds).context("a time out of range")?;
        Ok(Timestamp::from_second(seconds)?.to_string())
    };
    let ended = |end: u64| end <= app.clock.now_us() / 1_000_000;
    Ok(TokenReport {
        state: match issued.expires {
            _ if ring.is_revoked(&issued) => "revoked",
            Some(end) if ended(end) => "expired",
            _ => "valid",
        },
        created: time(issued.created)?,
        expires: issued.expires.map(time).transpose()?,
        id: issued.id,
        name: issued.name,
        rights: issued.rights,
        token: None,
    })
}

fn revoke(app: &App, dir: &Path, args: &TokenRevokeArgs) -> Result<()> {
    let issued = Ring::issued(dir)?;
    let found = issued
        .iter()
        .find(|issued| issued.id == args.token || issued.name == args.token);
    let Some(found) = found else {
        return Err(Failure::new(
            format!("there is no token {}", args.token),
            format!(
                "`{}` lists the tokens that were made",
                app.command("token ls")
            ),
        ));
    };
    Ring::revoke(dir, &found.id)?;
    let ring = Ring::open(dir)?;
    if app.json {
        return output::json(&reported(app, &ring, found.clone())?);
    }
    output::text_line(&format!("revoked token {} of {}", found.id, found.name))
}

fn rotate(app: &App, dir: &Path, args: &TokenRotateArgs) -> Result<()> {
    Ring::add_key(dir, &app.entropy)?;
    // The owner's token first: this command line needs it when the old keys are gone.
    keys::own_token(app, &Ring::open(dir)?)?;
    let dropped = match args.drop_old {
        true => Ring::drop_old_keys(dir)?,
        false => 0,
    };
    let running = record::list(&app.state)
        .into_iter()
        .filter(|(_, record)| record.process.is_alive());
    let running: Vec<String> = running.map(|(name, _)| name.to_string()).collect();
    if app.json {
        return output::json(
            &serde_json::json!({ "dropped_keys": dropped, "computes_to_restart": if dropped > 0 { running } else { Vec::new() } }),
        );
    }
    if dropped == 0 {
        return output::text_line("signing with a new key; tokens of older keys stay valid");
    }
    output::text_line(&format!(
        "signing with a new key; tokens of {dropped} older keys are refused"
    ))?;
    if !running.is_empty() {
        // Their connections go on; a new one would be refused.
        eprintln!(
            "restart the computes that run: {}; each ends when it has to connect again",
            running.join(", ")
        );
    }
    Ok(())
}
