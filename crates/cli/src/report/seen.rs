//! The state of a server that may not run.

use super::branch::{self, BranchReport};
use super::finding::FindingRow;
use crate::app::App;
use crate::control::Control;
use crate::state::ServerRecord;
use xylem_proto::control::StatusResponse;

/// The server's state, as far as it is known.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its record in the state directory.
    pub record: Option<ServerRecord>,
    /// Its status, if it answers.
    pub status: Option<StatusResponse>,
    /// Its branches, if it answers.
    pub branches: Vec<BranchReport>,
    /// The findings of the newest scrubs, without orphans.
    pub damage: Vec<FindingRow>,
    /// Why it does not answer although its process runs.
    pub trouble: Option<anyhow::Error>,
}

/// Asks the server, if it runs.
pub async fn look(app: &App) -> Seen {
    match app.state.token() {
        Ok(token) => look_as(app, token).await,
        Err(error) => Seen {
            record: app.state.server_record(),
            trouble: Some(error),
            ..Seen::default()
        },
    }
}

/// Asks the server, if it runs, as the bearer of `token`: branches that this one may not
/// read are left out.
pub async fn look_as(app: &App, token: Option<String>) -> Seen {
    let state = &app.state;
    let mut seen = Seen {
        record: state.server_record(),
        ..Seen::default()
    };
    let Some(record) = seen.record.as_ref().filter(|r| r.process.is_alive()) else {
        return seen;
    };
    let asked = async {
        let control = Control::with_token(app, record, token).await?;
        let status = control.status().await?;
        // A server that still opens its branches cannot list them.
        let branches = if status.state == "ready" {
            control.branches(false).await?
        } else {
            Vec::new()
        };
        let scrubs = match status.state.as_str() {
            "ready" => control.last_scrubs().await?.branches,
            _ => Vec::new(),
        };
        anyhow::Ok((status, branches, scrubs))
    };
    match asked.await {
        Ok((status, branches, scrubs)) => {
            let found = scrubs.iter().flat_map(|s| &s.findings);
            seen.damage = found
                .filter(|f| f.kind != "orphan")
                .map(FindingRow::from)
                .collect();
            seen.status = Some(status);
            seen.branches = branch::reports(branches);
        }
        Err(error) => seen.trouble = Some(error),
    }
    seen
}
