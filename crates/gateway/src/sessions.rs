//! The sessions of a compute, as the compute tells them.

use crate::own::{Own, Row};
use crate::packet::Broken;
use crate::park::Account;
use crate::refusal::Refusal;
use std::time::Duration;

/// How long the compute may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

const SESSIONS: &str = "SELECT ID, USER, HOST, IP, ACCOUNT_HOST, TIES, DUE \
    FROM information_schema.INNODB_PAGE_SERVER_SESSIONS";

/// A session on a compute, or a thread of the compute's own.
pub(crate) struct Session {
    pub id: u32,
    pub account: Account,
    /// The part of it that could not be restored, or nothing.
    pub ties: String,
    /// When the event scheduler executes the next event.
    pub due: Option<u64>,
}

impl Session {
    /// Whether it is the event scheduler and not a client.
    pub fn is_scheduler(&self) -> bool {
        self.ties == "event scheduler"
    }

    /// Whether its account could not be had again.
    pub fn has_lost_account(&self) -> bool {
        self.ties == "account" || self.ties == "limits of the account"
    }
}

/// The sessions of a compute, also those of its own.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn sessions(own: &mut Own) -> Result<Vec<Session>, Broken> {
    let rows = within(own.query(SESSIONS)).await?;
    let sessions = rows
        .iter()
        .map(|row| session(row).ok_or_else(Refusal::malformed));
    Ok(sessions.collect::<Result<_, _>>()?)
}

fn session(row: &Row) -> Option<Session> {
    let [
        Some(id),
        Some(user),
        Some(host),
        Some(ip),
        Some(account_host),
        Some(ties),
        Some(due),
    ] = &row[..]
    else {
        return None;
    };
    let due: u64 = number(due)?;
    Some(Session {
        id: number(id)?,
        account: Account {
            user: user.clone(),
            host: host.clone(),
            ip: ip.clone(),
            account_host: account_host.clone(),
        },
        ties: String::from_utf8_lossy(ties).into_owned(),
        due: (due > 0).then_some(due),
    })
}

pub(crate) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// An answer of a compute, which may take [`ANSWER`].
///
/// # Errors
/// When it takes longer, or breaks.
pub(crate) async fn within<T>(
    answer: impl Future<Output = Result<T, Broken>>,
) -> Result<T, Broken> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Broken::Io(std::io::ErrorKind::TimedOut.into())),
    }
}
