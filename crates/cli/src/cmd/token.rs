//! `xylem token create|ls|revoke|rotate`.

use crate::api::request::{NewToken, RotateKeys};
use crate::app::App;
use crate::args::token::{TokenCommand, TokenCreateArgs, TokenRevokeArgs, TokenRotateArgs};
use crate::output;
use crate::remote::path;
use crate::report::token::{RotatedReport, TokenReport};
use crate::work::token as work;
use anyhow::Result;
use reqwest::Method;
use xylem_tokens::{Right, RightOn, Scope};

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or written, or there is no such token.
pub async fn run(app: &App, command: &TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create(args) => create(app, args).await,
        TokenCommand::Ls => ls(app).await,
        TokenCommand::Revoke(args) => revoke(app, args).await,
        TokenCommand::Rotate(args) => rotate(app, args).await,
    }
}

async fn create(app: &App, args: &TokenCreateArgs) -> Result<()> {
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
    let made: TokenReport = match &app.remote {
        Some(remote) => {
            let body = NewToken {
                name: args.name.clone(),
                rights,
                expires: Some(args.expires.to_string()),
            };
            remote
                .change(app, Method::POST, &path(&["tokens"]), Some(&body))
                .await?
        }
        None => {
            let new = work::New {
                name: args.name.clone(),
                rights,
                expires: args.expires,
            };
            work::create(app, &new).await?
        }
    };
    if !app.json {
        eprintln!(
            "made token {} of {}; it is shown only now",
            made.id, made.name
        );
    }
    output::print(app, &made, || made.token.clone().unwrap_or_default())
}

async fn ls(app: &App) -> Result<()> {
    let reports: Vec<TokenReport> = match &app.remote {
        Some(remote) => remote.get(&path(&["tokens"])).await?,
        None => work::list(app).await?,
    };
    output::print(app, &reports, || table(&reports))
}

fn table(reports: &[TokenReport]) -> String {
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|report| {
            let rights = report.rights.iter();
            let rights = rights.map(|right| format!("{} {}", right.can, right.on));
            vec![
                report.id.clone(),
                report.name.clone(),
                rights.collect::<Vec<_>>().join(", "),
                report.expires.clone().unwrap_or_else(|| "never".to_owned()),
                report.state.as_str().to_owned(),
            ]
        })
        .collect();
    output::table(&["ID", "NAME", "RIGHTS", "EXPIRES", "STATE"], &rows)
}

async fn revoke(app: &App, args: &TokenRevokeArgs) -> Result<()> {
    let revoked: TokenReport = match &app.remote {
        Some(remote) => {
            let path = path(&["tokens", &args.token]);
            remote
                .change(app, Method::DELETE, &path, None::<&()>)
                .await?
        }
        None => work::revoke(app, &args.token).await?,
    };
    output::print(app, &revoked, || {
        format!("revoked token {} of {}", revoked.id, revoked.name)
    })
}

async fn rotate(app: &App, args: &TokenRotateArgs) -> Result<()> {
    let rotated: RotatedReport = match &app.remote {
        Some(remote) => {
            let body = RotateKeys {
                drop_old: args.drop_old,
            };
            let path = path(&["tokens", "rotate"]);
            remote.change(app, Method::POST, &path, Some(&body)).await?
        }
        None => work::rotate(app, args.drop_old).await?,
    };
    output::print(app, &rotated, || match rotated.dropped_keys {
        0 => "signing with a new key; tokens of older keys stay valid".to_owned(),
        dropped => format!("signing with a new key; tokens of {dropped} older keys are refused"),
    })?;
    if !app.json && !rotated.computes_to_restart.is_empty() {
        // Their connections go on; a new one would be refused.
        eprintln!(
            "restart the computes that run: {}; each ends when it has to connect again",
            rotated.computes_to_restart.join(", ")
        );
    }
    Ok(())
}
