//! Xylem's own account on a compute, over the compute's Unix socket: the gateway asks it
//! about sessions, and gives clients their sessions back through it.

use crate::computes::Reached;
use crate::conversation::{ERR, Form, MORE_RESULTS, OK, status_of_ok};
use crate::login::{Answer, Greeting, caps};
use crate::packet::{self, Broken, Packet};
use crate::refusal::Refusal;
use crate::{bytes, conversation};
use conversation::command;
use sha1::{Digest, Sha1};
use std::fmt::Write as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// The plugin of Xylem's own account.
const NATIVE: &[u8] = b"mysql_native_password";
/// The character set utf8mb4_general_ci.
const UTF8MB4: u8 = 45;
/// The most rows of an answer: as many sessions and variables as there can be.
const ROWS_MAX: usize = 100_000;
/// The largest packet that the gateway's own sessions take.
const PACKET_MAX: u32 = 1 << 24;

/// A row of an answer. `None` is NULL.
pub(crate) type Row = Vec<Option<Vec<u8>>>;

/// A session of Xylem's own account that the gateway uses for itself.
#[derive(Debug)]
pub(crate) struct Own {
    stream: UnixStream,
    form: Form,
    statements: u64,
}

impl Own {
    /// Logs in at a compute.
    pub async fn open(compute: &Reached) -> Result<Own, Broken> {
        let answer = Answer {
            caps: caps::PROTOCOL_41
                | caps::SECURE_CONNECTION
                | caps::PLUGIN_AUTH
                | caps::DEPRECATE_EOF,
            more_caps: 0,
            packet_max: PACKET_MAX,
            charset: UTF8MB4,
            user: Vec::new(),
            database: Vec::new(),
            without_password: false,
            attributes: Vec::new(),
        };
        let (stream, _) = login(compute, &answer).await?;
        let form = Form::of(&answer);
        Ok(Own {
            stream,
            form,
            statements: 0,
        })
    }

    /// Runs a statement, and returns its rows.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Broken> {
        self.statements += 1;
        query(&mut self.stream, self.form, sql.as_bytes()).await
    }

    /// Ends the session.
    pub async fn close(mut self) {
        let _ = packet::write(&mut self.stream, 0, &[command::QUIT]).await;
    }

    /// The statements that it has run.
    pub fn statements(&self) -> u64 {
        self.statements
    }
}

/// Logs in at a compute, with a session of the form that `answer` asks for. Returns the
/// number of the session.
pub(crate) async fn login(compute: &Reached, answer: &Answer) -> Result<(UnixStream, u32), Broken> {
    let mut stream = UnixStream::connect(&compute.own.socket).await?;
    let greeting = Greeting::decode(&packet::answer(&mut stream).await?.payload)?;
    if answer.caps & caps::FORM & !greeting.caps != 0 {
        return Err(Refusal::gone("The compute has another version than before").into());
    }
    let own = Answer {
        user: compute.own.user.clone().into_bytes(),
        database: Vec::new(),
        without_password: false,
        caps: answer.caps & (greeting.caps | caps::SSL),
        more_caps: answer.more_caps & greeting.more_caps,
        ..answer.clone()
    };
    packet::write(&mut stream, 1, &own.encode(false)).await?;
    let asked = packet::answer(&mut stream).await?;
    let mut from = bytes::Reader::new(&asked.payload);
    if from.u8()? != conversation::EOF || from.text() != NATIVE {
        return Err(Refusal::gone("The compute does not know Xylem's own account").into());
    }
    let scrambled = scramble(compute.own.password.as_bytes(), from.text());
    packet::write(&mut stream, asked.seq.wrapping_add(1), &scrambled).await?;
    packet::answer(&mut stream).await?;
    Ok((stream, greeting.id))
}

/// The answer of `mysql_native_password` to a challenge: SHA1(password) XOR
/// SHA1(challenge, SHA1(SHA1(password))).
fn scramble(password: &[u8], challenge: &[u8]) -> [u8; 20] {
    let once = Sha1::digest(password);
    let twice = Sha1::digest(once);
    let mask = Sha1::new().chain_update(challenge).chain_update(twice);
    let mut scrambled: [u8; 20] = mask.finalize().into();
    for (byte, once) in scrambled.iter_mut().zip(once) {
        *byte ^= once;
    }
    scrambled
}

/// Runs a statement on a session that is idle, and returns its rows.
pub(crate) async fn query(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    form: Form,
    sql: &[u8],
) -> Result<Vec<Row>, Broken> {
    run(stream, form, command::QUERY, sql).await
}

/// Runs a command that is answered as a statement is.
///
/// # Errors
/// `Refused`: the compute has answered with an error, and the session is idle again. `Io`:
/// the session cannot be used any more.
pub(crate) async fn run(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    form: Form,
    command: u8,
    body: &[u8],
) -> Result<Vec<Row>, Broken> {
    let mut payload = vec![command];
    payload.extend_from_slice(body);
    packet::write(stream, 0, &payload).await?;
    let mut rows = Vec::new();
    loop {
        let first = packet::answer(stream).await?;
        if first.payload.first() == Some(&OK) {
            if status_of_ok(&first.payload).map_err(garbled)? & MORE_RESULTS == 0 {
                return Ok(rows);
            }
            continue;
        }
        let columns = Form::columns(&first.payload).map_err(garbled)?;
        let metadata = columns + u64::from(form.metadata_end());
        for _ in 0..metadata {
            packet::answer(stream).await?;
        }
        let status = loop {
            let Packet { payload, .. } = packet::answer(stream).await?;
            match payload.first() {
                Some(&first) if form.ends_list(first, payload.len()) => {
                    break form.status_at_end(&payload).map_err(garbled)?;
                }
                _ => {}
            }
            if rows.len() == ROWS_MAX {
                return Err(garbled(Refusal::malformed()));
            }
            rows.push(row(&payload, columns).map_err(garbled)?);
        };
        if status & MORE_RESULTS == 0 {
            return Ok(rows);
        }
    }
}

/// Prepares a statement on a session that is idle, and returns its number.
pub(crate) async fn prepare(
    stream: &mut UnixStream,
    form: Form,
    sql: &[u8],
) -> Result<u32, Broken> {
    let payload = [&[command::STMT_PREPARE], sql].concat();
    packet::write(stream, 0, &payload).await?;
    let prepared = packet::answer(stream).await?;
    let mut from = bytes::Reader::new(&prepared.payload);
    let mut head = || Ok((from.u8()?, from.u32()?, from.u16()?, from.u16()?));
    let (_, id, columns, parameters) = head().map_err(garbled)?;
    for count in [parameters, columns] {
        let end = u16::from(count > 0 && form.metadata_end());
        for _ in 0..count + end {
            packet::answer(stream).await?;
        }
    }
    Ok(id)
}

/// Sets what COM_SET_OPTION sets, on a session that is idle.
pub(crate) async fn set_option(stream: &mut UnixStream, option: [u8; 2]) -> Result<(), Broken> {
    let [low, high] = option;
    packet::write(stream, 0, &[command::SET_OPTION, low, high]).await?;
    packet::answer(stream).await?;
    Ok(())
}

/// An answer that cannot be read: nobody knows what the session's next bytes are.
fn garbled(_: Refusal) -> Broken {
    Broken::Io(std::io::ErrorKind::InvalidData.into())
}

/// The columns of a row as text.
fn row(payload: &[u8], columns: u64) -> Result<Row, Refusal> {
    const NULL: u8 = 0xfb;
    let mut from = bytes::Reader::new(payload);
    let mut row = Vec::new();
    for _ in 0..columns {
        row.push(match from.rest().first() {
            Some(&NULL) => {
                from.u8()?;
                None
            }
            _ => Some(from.counted()?.to_vec()),
        });
    }
    Ok(row)
}

/// An error that the compute answered with.
pub(crate) fn error(payload: &[u8]) -> Option<Refusal> {
    let rest = payload.strip_prefix(&[ERR])?;
    let (code, rest) = rest.split_first_chunk()?;
    let (state, message) = match rest.strip_prefix(b"#") {
        Some(rest) => rest.split_first_chunk()?,
        None => (b"HY000", rest),
    };
    let message = String::from_utf8_lossy(message).into_owned();
    Some(Refusal::new(u16::from_le_bytes(*code), *state, message))
}

/// Bytes as a literal that means the same whatever the session's settings are.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::from("X'");
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out.push('\'');
    out
}
