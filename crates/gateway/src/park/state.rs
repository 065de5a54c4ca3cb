//! User variables and prepared statements of a session that is on no compute.

use super::use_database;
use crate::conversation::Form;
use crate::own::{self, Row, hex};
use crate::packet::Broken;
use crate::refusal::Refusal;
use crate::variable;
use tokio::net::UnixStream;

/// Reads them on their own session.
pub(super) const CAPTURE: &str = "SELECT KIND, ID, HEX(CONVERT(NAME USING utf8mb4)), \
    HEX(CONVERT(DB USING utf8mb4)), VALUE, TYPE \
    FROM information_schema.INNODB_PAGE_SERVER_SESSION_STATE ORDER BY ID LIMIT 100000";

/// The type of a parameter that no execution has given one.
const NO_TYPE: [u8; 2] = [6, 0];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The list of a SET statement.
    pub(super) variables: String,
    /// In the order in which they were prepared.
    statements: Vec<Statement>,
    /// The character set of the client, in which the statements are written.
    pub charset: Vec<u8>,
}

/// A prepared statement.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    /// Its number.
    id: u32,
    /// Its name, if SQL has prepared it. ASCII.
    name: String,
    /// The default database when it was prepared.
    database: Vec<u8>,
    text: Vec<u8>,
    /// The types of its parameters, as COM_STMT_EXECUTE has them.
    types: Vec<u8>,
}

impl State {
    /// The state that [`CAPTURE`] tells about.
    pub fn of(rows: &[Row]) -> Result<State, Refusal> {
        let mut state = State::default();
        for row in rows {
            let [
                Some(kind),
                Some(id),
                Some(name),
                Some(database),
                value,
                Some(kind_of_value),
            ] = &row[..]
            else {
                return Err(Refusal::malformed());
            };
            let name = String::from_utf8(variable::unhex(name)?);
            let name = name.map_err(|_| Refusal::malformed())?;
            let value = value.as_deref().map(variable::unhex).transpose()?;
            match &kind[..] {
                b"variable" => state.add_variable(&name, value.as_deref(), kind_of_value)?,
                b"statement" if name.is_ascii() => state.statements.push(Statement {
                    id: number(id)?,
                    name,
                    database: variable::unhex(database)?,
                    text: value.ok_or_else(Refusal::malformed)?,
                    types: variable::unhex(kind_of_value)?,
                }),
                b"statement" => {
                    return Err(Refusal::gone("a prepared statement with such a name"));
                }
                _ => return Err(Refusal::gone(name)),
            }
        }
        Ok(state)
    }

    fn add_variable(
        &mut self,
        name: &str,
        value: Option<&[u8]>,
        kind: &[u8],
    ) -> Result<(), Refusal> {
        let value = match value {
            None => "NULL".to_owned(),
            Some(value) => literal(value, kind)?,
        };
        if !self.variables.is_empty() {
            self.variables.push_str(", ");
        }
        self.variables += &format!("@{} = {value}", identifier(name));
        Ok(())
    }

    /// The statements that the client knows by number: number, text, and types of parameters.
    pub fn statements(&self) -> impl Iterator<Item = (u32, &[u8], &[u8])> {
        let numbered = self.statements.iter().filter(|one| one.name.is_empty());
        numbered.map(|one| (one.id, &one.text[..], &one.types[..]))
    }

    /// The client has sent other types for the parameters of a statement.
    pub fn set_types(&mut self, id: u32, types: &[u8]) {
        if let Some(one) = self.statements.iter_mut().find(|one| one.id == id) {
            one.types = types.to_vec();
        }
    }

    /// The client has closed a statement.
    pub fn close(&mut self, id: u32) {
        self.statements.retain(|one| one.id != id);
    }

    /// The bytes that it has.
    pub fn bytes(&self) -> usize {
        let statements = self.statements.iter();
        let statements =
            statements.map(|one| size_of::<Statement>() + one.text.len() + one.types.len());
        self.variables.len() + statements.sum::<usize>()
    }

    /// Whether its session must have a default database.
    pub fn needs_database(&self) -> bool {
        self.statements.iter().any(|one| !one.database.is_empty())
    }

    /// Sets the user variables on a session.
    pub async fn set_variables(&self, stream: &mut UnixStream, form: Form) -> Result<(), Broken> {
        if !self.variables.is_empty() {
            let set = format!("SET {}", self.variables);
            own::query(stream, form, set.as_bytes()).await?;
        }
        Ok(())
    }

    /// Prepares the statements on a session whose default database is `database`. One that
    /// cannot be prepared any more, because its table or database is gone for example, is left
    /// out.
    ///
    /// # Errors
    /// `Refused`: among others, where the session has no database, and a statement has had one.
    pub async fn prepare(
        &self,
        stream: &mut UnixStream,
        form: Form,
        database: Option<&[u8]>,
    ) -> Result<(), Broken> {
        let database = database.unwrap_or_default();
        let mut at = database;
        for statement in &self.statements {
            if !statement.database.is_empty() && statement.database != at {
                if database.is_empty() {
                    // Nothing leads back to none.
                    return Err(Refusal::gone("its database is gone").into());
                }
                if !use_database(stream, form, &statement.database).await? {
                    continue;
                }
                at = &statement.database;
            }
            if statement.name.is_empty() {
                let Statement {
                    id, text, types, ..
                } = statement;
                prepare_as(stream, form, *id, text, types).await?;
            } else {
                let prepare = self.prepare_by_sql(statement);
                set_next_id(stream, form, statement.id).await?;
                leave_out(own::query(stream, form, prepare.as_bytes()).await)?;
            }
        }
        if at != database && !use_database(stream, form, database).await? {
            return Err(Refusal::gone("its database is gone").into());
        }
        Ok(())
    }

    fn prepare_by_sql(&self, statement: &Statement) -> String {
        let charset = String::from_utf8_lossy(&self.charset);
        let (name, text) = (identifier(&statement.name), hex(&statement.text));
        format!("PREPARE {name} FROM _{charset} {text}")
    }
}

/// Prepares a statement with this number, and gives its parameters their types. A statement
/// that cannot be prepared any more is left out.
pub(super) async fn prepare_as(
    stream: &mut UnixStream,
    form: Form,
    id: u32,
    text: &[u8],
    types: &[u8],
) -> Result<(), Broken> {
    set_next_id(stream, form, id).await?;
    let Some(given) = leave_out(own::prepare(stream, form, text).await)? else {
        return Ok(());
    };
    if given != id {
        return Err(Refusal::gone(format!("Statement {id} is number {given} now")).into());
    }
    if types.chunks(2).any(|kind| kind != NO_TYPE) {
        let types = [&id.to_le_bytes()[..], types].concat();
        let set_types = format!("SET innodb_page_server_statement_types = {}", hex(&types));
        own::query(stream, form, set_types.as_bytes()).await?;
    }
    Ok(())
}

/// Sets the number of the next prepared statement.
async fn set_next_id(stream: &mut UnixStream, form: Form, id: u32) -> Result<(), Broken> {
    let set_id = format!("SET innodb_page_server_statement_id = {id}");
    own::query(stream, form, set_id.as_bytes()).await?;
    Ok(())
}

/// `None` for a statement that the compute refuses to prepare.
fn leave_out<T>(prepared: Result<T, Broken>) -> Result<Option<T>, Broken> {
    match prepared {
        Err(Broken::Refused(error)) => {
            tracing::debug!(%error, "a statement cannot be prepared any more");
            Ok(None)
        }
        prepared => prepared.map(Some),
    }
}

/// A user variable's value as SQL that has its type. `kind` is the type of a number, or the
/// collation of a text.
fn literal(value: &[u8], kind: &[u8]) -> Result<String, Refusal> {
    let kind = std::str::from_utf8(kind).map_err(|_| Refusal::malformed())?;
    if let "INT" | "INT UNSIGNED" | "DOUBLE" | "DECIMAL" = kind {
        let number = std::str::from_utf8(value).ok();
        let number = number.filter(|number| number.parse::<f64>().is_ok_and(f64::is_finite));
        let number = number.ok_or_else(Refusal::malformed)?;
        return Ok(match kind {
            "INT UNSIGNED" => format!("CAST({number} AS UNSIGNED)"),
            "DOUBLE" if !number.contains('e') => format!("{number}e0"),
            "DECIMAL" if !number.contains('.') => format!("{number}."),
            _ => number.to_owned(),
        });
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !kind.bytes().all(plain) {
        return Err(Refusal::malformed());
    }
    Ok(match kind.split_once('_') {
        Some((charset, _)) => format!("_{charset} {} COLLATE {kind}", hex(value)),
        None => hex(value),
    })
}

fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn number(text: &[u8]) -> Result<u32, Refusal> {
    let number = std::str::from_utf8(text).ok();
    number
        .and_then(|number| number.parse().ok())
        .ok_or_else(Refusal::malformed)
}
