//! The course of a session: which commands of the client have no whole answer yet. The
//! gateway may take a session off its compute only between an answer and the next command.
//!
//! Reads the headers of all packets and the beginnings of some, and changes nothing. A
//! conversation that it cannot follow is never idle again, and goes on all the same.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

use crate::bytes::Reader;
use crate::history::{History, Pending, Reading};
use crate::login::{Answer, caps};
use crate::packet::{FULL, HEADER_BYTES, length};
use crate::refusal::Refusal;
use std::collections::VecDeque;

/// Commands, as the first byte of a packet names them.
pub(crate) mod command {
    pub const QUIT: u8 = 0x01;
    pub const INIT_DB: u8 = 0x02;
    pub const QUERY: u8 = 0x03;
    pub const FIELD_LIST: u8 = 0x04;
    pub const STATISTICS: u8 = 0x09;
    pub const PROCESS_KILL: u8 = 0x0c;
    pub const PING: u8 = 0x0e;
    pub const CHANGE_USER: u8 = 0x11;
    pub const BINLOG_DUMP: u8 = 0x12;
    pub const TABLE_DUMP: u8 = 0x13;
    pub const DEBUG: u8 = 0x0d;
    pub const STMT_PREPARE: u8 = 0x16;
    pub const STMT_EXECUTE: u8 = 0x17;
    pub const STMT_SEND_LONG_DATA: u8 = 0x18;
    pub const STMT_CLOSE: u8 = 0x19;
    pub const STMT_RESET: u8 = 0x1a;
    pub const SET_OPTION: u8 = 0x1b;
    pub const STMT_FETCH: u8 = 0x1c;
    pub const DAEMON: u8 = 0x1d;
    pub const BINLOG_DUMP_GTID: u8 = 0x1e;
    pub const RESET_CONNECTION: u8 = 0x1f;
    /// MariaDB's own.
    pub const STMT_BULK_EXECUTE: u8 = 0xfa;
}

/// `SERVER_STATUS_IN_TRANS`
pub(crate) const IN_TRANSACTION: u16 = 1;
/// `SERVER_STATUS_NO_BACKSLASH_ESCAPES`
const NO_BACKSLASH_ESCAPES: u16 = 1 << 9;
/// `SERVER_MORE_RESULTS_EXISTS`
pub(crate) const MORE_RESULTS: u16 = 1 << 3;
/// `SERVER_STATUS_CURSOR_EXISTS`: the rows are fetched by further commands.
pub(crate) const CURSOR_EXISTS: u16 = 1 << 6;
/// `SERVER_STATUS_LAST_ROW_SENT`: the cursor is at its end, and closed.
const LAST_ROW_SENT: u16 = 1 << 7;

/// The first byte of a packet that says that all went well.
pub(crate) const OK: u8 = 0x00;
/// That of a packet which ends a list, and of a request to authenticate otherwise.
pub(crate) const EOF: u8 = 0xfe;
/// That of an error.
pub(crate) const ERR: u8 = 0xff;
/// That of a packet that asks for a file of the client.
pub(crate) const LOCAL_FILE: u8 = 0xfb;
/// The number of an error that is a report of progress.
pub(crate) const PROGRESS: [u8; 2] = [0xff, 0xff];
/// A shorter packet that begins with [`EOF`] ends a list; a longer one is a row.
const EOF_BYTES_MAX: usize = 9;
/// The most of a packet that is looked at.
const LOOK_BYTES: usize = 32;
/// Commands under way at a time, beyond which a client's pipeline is not followed.
const PIPELINE_MAX: usize = 1000;

/// The form of a session's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    /// Lists end with a packet like that of success, and metadata with none.
    deprecate_eof: bool,
}

impl Form {
    /// That of a client that answered a greeting so.
    pub fn of(answer: &Answer) -> Form {
        Form {
            deprecate_eof: answer.caps & caps::DEPRECATE_EOF != 0,
        }
    }

    /// Whether a packet of this length that begins with `first` ends a list.
    pub fn ends_list(self, first: u8, count: usize) -> bool {
        first == EOF
            && count
                < if self.deprecate_eof {
                    FULL
                } else {
                    EOF_BYTES_MAX
                }
    }

    /// The flags of the server's status in a packet that ends a list.
    pub fn status_at_end(self, payload: &[u8]) -> Result<u16, Refusal> {
        if self.deprecate_eof {
            return status_of_ok(payload);
        }
        let mut from = Reader::new(payload);
        from.bytes(1 + 2)?;
        from.u16()
    }

    /// The number of columns.
    pub fn columns(payload: &[u8]) -> Result<u64, Refusal> {
        Reader::new(payload).number()
    }

    /// Whether metadata end with a packet of their own.
    pub fn metadata_end(self) -> bool {
        !self.deprecate_eof
    }
}

/// The flags of the server's status in a packet of success.
pub(crate) fn status_of_ok(payload: &[u8]) -> Result<u16, Refusal> {
    read_ok(payload).map(|(status, _)| status)
}

/// The same, and the value of `LAST_INSERT_ID()` that the command has set, or 0.
fn read_ok(payload: &[u8]) -> Result<(u16, u64), Refusal> {
    let mut from = Reader::new(payload);
    from.u8()?;
    from.number()?;
    let insert_id = from.number()?;
    Ok((from.u16()?, insert_id))
}

/// The next packets of the answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// One packet.
    Single,
    /// The first packet of a result.
    Result,
    /// The first packet of a prepared statement.
    Prepared,
    /// This many packets with metadata, then the rest.
    Metadata(u64, Rest),
    /// The packet behind metadata.
    MetadataEnd(Rest),
    /// Rows until the end of the list.
    Rows,
    /// Steps of an authentication.
    Login,
}

/// The part of an answer behind metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Rows,
    /// Metadata of so many columns.
    Columns(u64),
    Nothing,
}

/// The answers that a session waits for.
#[derive(Debug)]
pub(crate) struct Conversation {
    form: Form,
    /// The answers under way, in the order of their commands.
    expected: VecDeque<Waiting>,
    /// The commands that have made the session what it is.
    pub history: History,
    /// The prepared statements that have open cursors.
    cursors: Vec<u32>,
    /// The option of COM_SET_OPTION, if the client has set it.
    option: Option<[u8; 2]>,
    /// The flags of the server's status, as it said last.
    status: u16,
    /// It cannot be followed.
    lost: bool,
    /// The header and the beginning of the compute's packet that is being read.
    seen: Vec<u8>,
    /// Bytes of that packet that have not come yet.
    left: usize,
    /// The packet continues one that was full.
    continued: bool,
    /// The number of the last packet of the answer under way; 0: it has none yet.
    seq: u8,
    /// The client sends a file that the compute has asked for.
    sends_file: bool,
    /// A command in a transaction has failed since `status` was said.
    is_uncertain: bool,
}

/// The end of a session, whose compute has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted {
    /// A transaction was open before the command.
    pub in_transaction: bool,
    /// Whether one is open is not certain: a command has failed since that was said, and may
    /// have ended it.
    pub is_uncertain: bool,
    /// The command without a whole answer.
    pub command: Option<Unanswered>,
}

/// A command without a whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// The number of the next packet of its answer.
    pub seq: u8,
    /// It may end a transaction.
    pub may_commit: bool,
    /// It only asks whether somebody is there.
    pub is_ping: bool,
}

/// Whether a command is answered by nothing.
pub(crate) fn has_no_answer(code: u8) -> bool {
    matches!(
        code,
        command::QUIT | command::STMT_SEND_LONG_DATA | command::STMT_CLOSE
    )
}

/// A command that waits for its answer.
#[derive(Debug)]
struct Waiting {
    expected: Expected,
    /// The prepared statement that it is about, or 0.
    statement: u32,
    /// Its effect, once the client has sent all of it.
    pending: Option<Pending>,
}

impl Conversation {
    /// That of a session that begins, with the flags of the server's status.
    fn new(form: Form, status: u16) -> Conversation {
        Conversation {
            form,
            expected: VecDeque::new(),
            history: History::default(),
            cursors: Vec::new(),
            option: None,
            status,
            lost: false,
            seen: Vec::with_capacity(HEADER_BYTES + LOOK_BYTES),
            left: 0,
            continued: false,
            seq: 0,
            sends_file: false,
            is_uncertain: false,
        }
    }

    /// That of a session whose client is logging in, until [`Conversation::begin`].
    pub fn login(form: Form) -> Conversation {
        let mut conversation = Conversation::new(form, 0);
        conversation.expect(Expected::Login, 0);
        conversation
    }

    /// That of a session that continues one with this history, in which COM_SET_OPTION has
    /// set `option`.
    pub fn restored(
        form: Form,
        status: u16,
        option: Option<[u8; 2]>,
        history: History,
    ) -> Conversation {
        Conversation {
            option,
            history,
            ..Conversation::new(form, status)
        }
    }

    /// The client has logged in, with the flags of the server's status.
    pub fn begin(&mut self, status: u16) {
        self.expected.clear();
        self.take_status(status);
    }

    /// The reason why the session stays where it is, whatever the compute says.
    pub fn tie(&self) -> Option<&'static str> {
        match self.cursors.is_empty() {
            _ if self.lost => Some("commands that the gateway cannot follow"),
            false => Some("an open cursor"),
            true => None,
        }
    }

    /// The option of COM_SET_OPTION, if the client has set it.
    pub fn option(&self) -> Option<[u8; 2]> {
        self.option
    }

    /// Whether every command has its whole answer, outside of a transaction.
    pub fn is_idle(&self) -> bool {
        self.tie().is_none()
            && self.expected.is_empty()
            && self.seen.is_empty()
            && self.left == 0
            && self.status & IN_TRANSACTION == 0
    }

    /// Whether the client is logging in.
    pub fn is_login(&self) -> bool {
        let front = self.expected.front();
        front.is_some_and(|one| one.expected == Expected::Login)
    }

    /// Whether the compute has nothing to say.
    pub fn is_quiet(&self) -> bool {
        self.expected.is_empty() && !self.lost
    }

    /// Where the compute has ended: whether there is a command that waits for its answer, and
    /// how an error can be put in place of the rest of it. `None`: it cannot.
    pub fn interrupted(&self) -> Option<Interrupted> {
        let at_boundary = self.seen.is_empty() && self.left == 0 && !self.continued;
        if self.lost || self.sends_file || !at_boundary {
            return None;
        }
        let in_transaction = self.status & IN_TRANSACTION != 0;
        let waiting = match self.expected.len() {
            0 => None,
            1 => Some(self.expected.front()?),
            _ => return None,
        };
        let command = match waiting {
            None => None,
            // Clients look for no error among metadata.
            Some(Waiting {
                expected: Expected::Login | Expected::Metadata(..) | Expected::MetadataEnd(_),
                ..
            }) => return None,
            Some(Waiting { pending, .. }) => {
                let pending = pending.as_ref()?;
                Some(Unanswered {
                    seq: self.seq.wrapping_add(1),
                    may_commit: pending.may_commit || self.is_uncertain,
                    is_ping: pending.is_ping,
                })
            }
        };
        Some(Interrupted {
            in_transaction,
            is_uncertain: in_transaction && self.is_uncertain,
            command,
        })
    }

    /// Whether backslashes in quotes are escapes.
    pub fn has_backslashes(&self) -> bool {
        self.status & NO_BACKSLASH_ESCAPES == 0
    }

    /// The flags of the server's status, as it said last.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The client has sent a command. `body` may be only the beginning of what follows it.
    pub fn sent(&mut self, code: u8, body: &[u8]) {
        use self::command as c;
        let mut statement = 0;
        if let c::STMT_EXECUTE
        | c::STMT_FETCH
        | c::STMT_RESET
        | c::STMT_CLOSE
        | c::STMT_SEND_LONG_DATA = code
        {
            let Some(id) = body.first_chunk() else {
                self.lost = true;
                return;
            };
            statement = u32::from_le_bytes(*id);
        }
        let expected = match code {
            c::STMT_CLOSE => {
                self.history.closed(statement);
                return self.close_cursor(statement);
            }
            c::STMT_SEND_LONG_DATA => return self.history.sent_long_data(statement),
            c::QUIT => return,
            c::STATISTICS | c::DEBUG => Expected::Single,
            c::SET_OPTION => {
                self.option = body.first_chunk().copied();
                Expected::Single
            }
            c::FIELD_LIST | c::STMT_FETCH => Expected::Rows,
            c::STMT_PREPARE => Expected::Prepared,
            c::STMT_EXECUTE | c::STMT_RESET => {
                self.close_cursor(statement);
                if code == c::STMT_RESET {
                    self.history.reset_statement(statement);
                }
                Expected::Result
            }
            c::RESET_CONNECTION => {
                self.cursors.clear();
                Expected::Result
            }
            c::CHANGE_USER => {
                self.cursors.clear();
                Expected::Login
            }
            // Go on without an end.
            c::BINLOG_DUMP | c::TABLE_DUMP | c::BINLOG_DUMP_GTID | c::DAEMON => {
                self.lost = true;
                return;
            }
            _ => Expected::Result,
        };
        if self.expected.len() == PIPELINE_MAX {
            self.lost = true;
        }
        if !self.lost {
            self.expect(expected, statement);
        }
    }

    fn expect(&mut self, expected: Expected, statement: u32) {
        self.expected.push_back(Waiting {
            expected,
            statement,
            pending: None,
        });
    }

    /// The client has sent all of the command at once, with `body` behind its code.
    pub fn sent_whole(&mut self, code: u8, body: &[u8]) {
        let backslashes = self.has_backslashes();
        if let Some(waiting) = self.unfinished(code) {
            let pending = self.history.sent(code, body, backslashes);
            self.expected[waiting].pending = Some(pending);
        }
    }

    /// The client has sent the end of a command that was read in parts; `seq` is the number
    /// of its last packet.
    pub fn sent_in_parts(&mut self, reading: Reading, seq: u8) {
        if self.expected.len() == 1 {
            self.seq = seq;
        }
        if let Some(waiting) = self.unfinished(reading.code()) {
            let pending = self.history.sent_in_parts(reading);
            self.expected[waiting].pending = Some(pending);
        }
    }

    /// The place of the command whose end the client has just sent, if it has an answer. The
    /// compute may have refused it before.
    fn unfinished(&mut self, code: u8) -> Option<usize> {
        if has_no_answer(code) || self.lost {
            return None;
        }
        let last = self.expected.len().checked_sub(1);
        let last = last.filter(|last| self.expected[*last].pending.is_none());
        if last.is_none() {
            self.history.lose();
        }
        last
    }

    /// The compute has sent these bytes.
    pub fn received(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            // The header, then as much of the payload as is looked at.
            let wanted = match self.seen.first_chunk::<HEADER_BYTES>() {
                None => HEADER_BYTES,
                Some(head) => HEADER_BYTES + length(*head).min(LOOK_BYTES),
            };
            let taken = (wanted - self.seen.len()).min(bytes.len());
            self.seen.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            let Some(head) = self.seen.first_chunk::<HEADER_BYTES>() else {
                continue;
            };
            let count = length(*head);
            if self.seen.len() < HEADER_BYTES + count.min(LOOK_BYTES) {
                continue;
            }
            let continued = std::mem::replace(&mut self.continued, count == FULL);
            if !continued && self.packet(count).is_err() {
                self.lost = true;
            }
            self.left = count.saturating_sub(LOOK_BYTES);
            self.seen.clear();
        }
    }

    /// Takes the packet in `seen`, whose whole length is `count`.
    fn packet(&mut self, count: usize) -> Result<(), Refusal> {
        use Expected as E;
        let payload = &self.seen[HEADER_BYTES..];
        let Some(&Waiting {
            expected,
            statement,
            ..
        }) = self.expected.front()
        else {
            // The compute ends the session, or nothing that is known here.
            self.lost = true;
            return Ok(());
        };
        self.seq = self.seen[HEADER_BYTES - 1];
        self.sends_file = false;
        let first = *payload.first().ok_or_else(Refusal::malformed)?;
        // No row and no metadata begin with it.
        if first == ERR {
            let progress = payload.get(1..3) == Some(&PROGRESS);
            if !progress {
                let failed = self.expected.pop_front();
                self.seq = 0;
                self.is_uncertain |= self.status & IN_TRANSACTION != 0;
                if let Some(pending) = failed.and_then(|one| one.pending) {
                    self.history.failed(pending);
                }
            }
            return Ok(());
        }
        let mut insert_id = 0;
        let next = match expected {
            E::Single => None,
            E::Result => match first {
                OK => {
                    let (status, set) = read_ok(payload)?;
                    insert_id = set;
                    self.take_status(status);
                    self.more()
                }
                LOCAL_FILE => {
                    self.sends_file = true;
                    Some(E::Result)
                }
                _ => {
                    let columns = Form::columns(payload)?;
                    Some(self.metadata(columns, Rest::Rows))
                }
            },
            E::Prepared => {
                let mut from = Reader::new(payload);
                from.u8()?;
                let id = from.u32()?;
                let (columns, parameters) = (from.u16()?, from.u16()?);
                let pending = self.expected.front_mut().and_then(|one| one.pending.take());
                match pending {
                    Some(pending) => self.history.prepared(pending, id, parameters),
                    None => self.history.lose(),
                }
                let columns = u64::from(columns);
                match u64::from(parameters) {
                    0 => self.columns_of(columns),
                    parameters => Some(E::Metadata(parameters, Rest::Columns(columns))),
                }
            }
            E::Metadata(count, rest) if count > 1 => Some(E::Metadata(count - 1, rest)),
            E::Metadata(_, rest) if self.form.metadata_end() => Some(E::MetadataEnd(rest)),
            E::Metadata(_, rest) => self.after_metadata(rest),
            E::MetadataEnd(rest) => {
                let status = self.form.status_at_end(payload)?;
                self.take_status(status);
                match self.status & CURSOR_EXISTS {
                    0 => self.after_metadata(rest),
                    _ => {
                        self.cursors.push(statement);
                        None
                    }
                }
            }
            E::Rows if self.form.ends_list(first, count) => {
                let status = self.form.status_at_end(payload)?;
                self.take_status(status);
                if self.status & LAST_ROW_SENT != 0 {
                    self.close_cursor(statement);
                } else if self.status & CURSOR_EXISTS != 0 && !self.cursors.contains(&statement) {
                    self.cursors.push(statement);
                }
                self.more()
            }
            E::Rows => Some(E::Rows),
            E::Login if first == OK => {
                let status = status_of_ok(payload)?;
                self.take_status(status);
                None
            }
            E::Login => Some(E::Login),
        };
        match (next, self.expected.front_mut()) {
            (Some(next), Some(front)) => front.expected = next,
            _ => {
                self.seq = 0;
                let done = self.expected.pop_front();
                // That of a statement which was prepared was taken with its number. Where the
                // client has not sent all of the command, `unfinished` finds that out.
                if let Some(pending) = done.and_then(|done| done.pending) {
                    self.history.succeeded(pending, insert_id);
                }
            }
        }
        Ok(())
    }

    /// Takes the flags of the server's status.
    fn take_status(&mut self, status: u16) {
        self.status = status;
        self.is_uncertain = false;
    }

    fn close_cursor(&mut self, statement: u32) {
        self.cursors.retain(|open| *open != statement);
    }

    fn more(&self) -> Option<Expected> {
        (self.status & MORE_RESULTS != 0).then_some(Expected::Result)
    }

    fn metadata(&self, columns: u64, rest: Rest) -> Expected {
        match columns {
            0 if self.form.metadata_end() => Expected::MetadataEnd(rest),
            0 => Expected::Rows,
            _ => Expected::Metadata(columns, rest),
        }
    }

    fn columns_of(&self, columns: u64) -> Option<Expected> {
        (columns > 0).then_some(Expected::Metadata(columns, Rest::Nothing))
    }

    fn after_metadata(&self, rest: Rest) -> Option<Expected> {
        match rest {
            Rest::Rows => Some(Expected::Rows),
            Rest::Columns(columns) => self.columns_of(columns),
            Rest::Nothing => None,
        }
    }
}
