//! Sessions that leave their compute and come back to another one of the branch.
//!
//! A session is what its statements have set: variables, the database, a role, and the
//! statements that it has prepared (`park/state.rs`). All that is read from the compute when
//! the session leaves it. A session that has more, such as an open transaction or a temporary
//! table, stays (INNODB_PAGE_SERVER_SESSIONS says so). The diagnostics of the last statement
//! are lost: warnings, `FOUND_ROWS()` and `ROW_COUNT()`.

mod state;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

use crate::computes::Reached;
use crate::conversation::{Form, OK, command};
use crate::history::{Change, History};
use crate::login::Answer;
use crate::own::{self, Row, hex};
use crate::packet::{self, Broken};
use crate::refusal::Refusal;
use crate::variable;
use state::State;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// The account of a session, as the compute knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub user: Vec<u8>,
    /// The client's host, if it was looked up.
    pub host: Vec<u8>,
    pub ip: Vec<u8>,
    /// The host of the account itself, such as `%`.
    pub account_host: Vec<u8>,
}

/// A session that is on no compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    account: Account,
    /// The statement that sets its variables, but for the next ones.
    settings: Settings,
    /// The statement that sets its character sets.
    charsets: Settings,
    database: Option<Vec<u8>>,
    role: Option<Vec<u8>>,
    /// Its user variables and prepared statements.
    pub state: State,
}

/// The most bytes that the gateway keeps of a session.
const PARKED_BYTES_MAX: usize = 256 << 10;

/// The errors of a database that is gone, or that the account may not use any more:
/// `ER_DBACCESS_DENIED_ERROR` and `ER_BAD_DB_ERROR`.
const NO_DATABASE: [u16; 2] = [1044, 1049];

/// Variables with their values, as the list of a SET statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settings(String);

/// Reads a session: its database, its role, and the variables that differ from those of a
/// new session. A variable counts that the server's own start does not set again (origin
/// SQL), and so do those that a login sets by what the client wants. Three cannot be set by
/// a session. `sql_mode` is always read, because it decides how the others are written.
/// `LIMIT` stands against `sql_select_limit`, and only ASCII against the session's character
/// set.
const CAPTURE: &str = "SELECT 'database', HEX(CONVERT(DATABASE() USING utf8mb4)), '' \
    UNION ALL SELECT 'role', HEX(CONVERT(CURRENT_ROLE() USING utf8mb4)), '' \
    UNION ALL SELECT VARIABLE_NAME, HEX(CONVERT(SESSION_VALUE USING utf8mb4)), VARIABLE_TYPE \
    FROM information_schema.SYSTEM_VARIABLES \
    WHERE READ_ONLY = 'NO' AND (VARIABLE_SCOPE = 'SESSION' \
    AND (NOT SESSION_VALUE <=> GLOBAL_VALUE OR GLOBAL_VALUE_ORIGIN = 'SQL') \
    AND VARIABLE_NAME NOT IN ('CHARACTER_SET_DATABASE', 'COLLATION_DATABASE', \
    'CHARACTER_SET_CONNECTION', 'STORAGE_ENGINE', 'DEBUG', 'DEBUG_DBUG', 'DEBUG_SYNC', \
    'MAX_ALLOWED_PACKET', 'NET_BUFFER_LENGTH', 'MAX_USER_CONNECTIONS') \
    AND LEFT(VARIABLE_NAME, 18) <> 'INNODB_PAGE_SERVER' \
    OR VARIABLE_NAME IN ('SQL_MODE', 'CHARACTER_SET_CLIENT', 'CHARACTER_SET_RESULTS', \
    'COLLATION_CONNECTION', 'LAST_INSERT_ID', 'SQL_LOG_BIN', 'SKIP_REPLICATION', \
    'SKIP_PARALLEL_REPLICATION', 'PSEUDO_SLAVE_MODE', 'DEFAULT_MASTER_CONNECTION')) \
    LIMIT 10000";

impl Parked {
    /// Reads the session on `stream`, which is idle.
    ///
    /// # Errors
    /// When the connection broke, or the compute refuses to say (`Refused`: the session
    /// goes on).
    pub async fn capture(
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        form: Form,
        account: Account,
    ) -> Result<Parked, Broken> {
        let rows = own::query(stream, form, CAPTURE.as_bytes()).await?;
        let state = own::query(stream, form, state::CAPTURE.as_bytes()).await?;
        let parked = Parked::of(account, &rows, &state)?;
        packet::write(stream, 0, &[command::QUIT]).await?;
        Ok(parked)
    }

    /// The session that [`CAPTURE`] and [`state::CAPTURE`] tell about.
    fn of(account: Account, rows: &[Row], state: &[Row]) -> Result<Parked, Refusal> {
        let mut parked = Parked {
            account,
            settings: Settings::default(),
            charsets: Settings::default(),
            database: None,
            role: None,
            state: State::of(state)?,
        };
        for row in rows {
            let [Some(name), value, Some(kind)] = &row[..] else {
                return Err(Refusal::malformed());
            };
            let value = value.as_deref().map(variable::unhex).transpose()?;
            match &name[..] {
                b"database" => parked.database = value,
                b"role" => parked.role = value,
                b"CHARACTER_SET_CLIENT" => {
                    parked.charsets.add(name, value.as_deref(), kind)?;
                    parked.state.charset = value.unwrap_or_default();
                }
                b"CHARACTER_SET_RESULTS" | b"COLLATION_CONNECTION" => {
                    parked.charsets.add(name, value.as_deref(), kind)?;
                }
                _ => parked.settings.add(name, value.as_deref(), kind)?,
            }
        }
        parked.check()?;
        Ok(parked)
    }

    /// Refuses a session that [`Parked::restore`] could not make anew.
    fn check(&self) -> Result<(), Refusal> {
        let bytes = self.settings.0.len() + self.state.bytes();
        if bytes > PARKED_BYTES_MAX {
            return Err(Refusal::gone(format!(
                "variables and prepared statements of {bytes} bytes"
            )));
        }
        if self.database.is_none() && self.state.needs_database() {
            return Err(Refusal::gone(
                "prepared statements of a database that is gone",
            ));
        }
        Ok(())
    }

    /// Makes the session anew at a compute, for a client that logged in with `answer`.
    /// Returns its number there.
    ///
    /// # Errors
    /// When the compute does not answer (`Io`), or the session cannot be had any more
    /// (`Refused`), for example because its account was dropped.
    pub async fn restore(
        &self,
        compute: &Reached,
        answer: &Answer,
    ) -> Result<(UnixStream, u32), Broken> {
        let form = Form::of(answer);
        let (mut stream, inner) = own::login(compute, answer).await?;
        own::query(&mut stream, form, b"SET NAMES utf8mb4, sql_mode = ''").await?;
        self.state.set_variables(&mut stream, form).await?;
        // Some variables need rights that the client need not have any more.
        self.settings.set(&mut stream, form).await?;
        self.account.take_on(&mut stream, form).await?;
        if let Some(role) = &self.role {
            set_role(&mut stream, form, role).await?;
        }
        let mut database = self.database.as_deref();
        if let Some(name) = database
            && !use_database(&mut stream, form, name).await?
        {
            // As in a session whose database is dropped.
            database = None;
        }
        self.charsets.set(&mut stream, form).await?;
        self.state.prepare(&mut stream, form, database).await?;
        Ok((stream, inner))
    }
}

impl Account {
    /// Turns a session of Xylem's own account into one of this account.
    async fn take_on(&self, stream: &mut UnixStream, form: Form) -> Result<(), Broken> {
        let Account {
            user,
            host,
            ip,
            account_host,
        } = self;
        // A host that was not looked up is the address.
        let host = if host.is_empty() { ip } else { host };
        let fields = [&user[..], host, ip, account_host];
        let account = fields.map(|field| [field, b"\0"].concat()).concat();
        let become_client = format!("SET innodb_page_server_act_as = {}", hex(&account));
        own::query(stream, form, become_client.as_bytes()).await?;
        Ok(())
    }

    /// Makes a session of this account as it is after a login with `answer`. Returns its
    /// number.
    ///
    /// # Errors
    /// As for [`Parked::restore`].
    pub async fn log_in(
        &self,
        compute: &Reached,
        answer: &Answer,
    ) -> Result<(UnixStream, u32), Broken> {
        let form = Form::of(answer);
        let (mut stream, inner) = own::login(compute, answer).await?;
        let init = own::query(&mut stream, form, b"SELECT LENGTH(@@init_connect)").await?;
        if !matches!(&init[..], [row] if row[..] == [Some(b"0".to_vec())]) {
            // It is executed at a login, but not for an account that may do everything.
            return Err(Refusal::gone("init_connect is set").into());
        }
        let role = format!(
            "SELECT default_role FROM mysql.user WHERE User = {} AND Host = {}",
            hex(&self.user),
            hex(&self.account_host)
        );
        let role = own::query(&mut stream, form, role.as_bytes()).await?;
        let role = role
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next()?);
        self.take_on(&mut stream, form).await?;
        if let Some(role) = role.filter(|role| !role.is_empty()) {
            // A login does without one that was revoked.
            match set_role(&mut stream, form, &role).await {
                Ok(()) | Err(Broken::Refused(_)) => {}
                Err(broken) => return Err(broken),
            }
        }
        if !answer.database.is_empty() {
            use_database(&mut stream, form, &answer.database).await?;
        }
        Ok((stream, inner))
    }
}

/// Makes the changes of `history` on a session that is as it was before them.
///
/// # Errors
/// As for [`Parked::restore`].
pub(crate) async fn repeat(
    history: &History,
    stream: &mut UnixStream,
    form: Form,
) -> Result<(), Broken> {
    for change in &history.changes {
        match change {
            Change::Command(command) => {
                let (code, body) = command
                    .payload
                    .split_first()
                    .ok_or_else(Refusal::malformed)?;
                own::run(stream, form, *code, body).await?;
            }
            Change::Prepared(id) => {
                let Some(statement) = history.statement(*id) else {
                    continue;
                };
                let (text, types) = (&statement.text, &statement.types);
                state::prepare_as(stream, form, *id, text, types).await?;
            }
        }
    }
    if let Some(id) = history.insert_id {
        let set = format!("SET last_insert_id = {id}");
        own::query(stream, form, set.as_bytes()).await?;
    }
    Ok(())
}

/// Activates a role of a session.
async fn set_role(stream: &mut UnixStream, form: Form, role: &[u8]) -> Result<(), Broken> {
    let quoted = String::from_utf8_lossy(role).replace('`', "``");
    let set_role = format!("SET ROLE `{quoted}`");
    own::query(stream, form, set_role.as_bytes()).await?;
    Ok(())
}

/// Makes `database` the default one of a session. False if it is gone, or may not be used any
/// more: then the session's is still the one that it was.
async fn use_database(
    stream: &mut UnixStream,
    form: Form,
    database: &[u8],
) -> Result<bool, Broken> {
    match own::run(stream, form, command::INIT_DB, database).await {
        Err(Broken::Refused(error)) if NO_DATABASE.contains(&error.code) => Ok(false),
        used => used.map(|_| true),
    }
}

impl Settings {
    /// Adds a variable. `kind` is its type, as MariaDB names it.
    fn add(&mut self, name: &[u8], value: Option<&[u8]>, kind: &[u8]) -> Result<(), Refusal> {
        if !self.0.is_empty() {
            self.0.push_str(", ");
        }
        self.0.push_str("SESSION ");
        self.0.push_str(&variable::assignment(name, value, kind)?);
        Ok(())
    }

    /// Sets the variables on a session.
    async fn set(&self, stream: &mut UnixStream, form: Form) -> Result<(), Broken> {
        if self.0.is_empty() {
            return Ok(());
        }
        let statement = format!("SET {}", self.0);
        own::query(stream, form, statement.as_bytes()).await?;
        Ok(())
    }
}

/// The payload of the answer to a ping of a client whose session is parked, with the flags
/// of the server's status: clients go by them.
pub(crate) fn pong(status: u16) -> [u8; 7] {
    let [low, high] = status.to_le_bytes();
    [OK, 0, 0, low, high, 0, 0]
}
