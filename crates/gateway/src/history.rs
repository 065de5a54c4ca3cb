//! The statements of a client that have made its session what it is.
//!
//! A compute that dies takes its sessions with it, and cannot be asked any more what they
//! were. The gateway therefore keeps, for each session, the beginning that it had on the
//! compute and the commands that have changed it since: those whose repetition on another
//! compute has the same effect (`scan.rs`). After a command of which that is not known, the
//! session survives no death of its compute. (A compute that falls asleep is asked itself:
//! `park.rs`.)

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

use crate::conversation::command;
use crate::park::Parked;
use crate::scan::{Effect, Scanned, Scanner};
use std::collections::HashMap;

/// The most bytes that are kept of a session.
const BYTES_MAX: usize = 256 << 10;
/// The longest prepared statement that is kept.
const STATEMENT_BYTES_MAX: usize = 32 << 10;
/// The number by which a client means the statement that it has prepared last.
const LAST_PREPARED: u32 = u32::MAX;
/// The flag of COM_STMT_BULK_EXECUTE that says that types follow.
const BULK_TYPES: u16 = 128;

/// The history of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// The session as it was when it came to this compute; `None`: one that had just logged
    /// in.
    pub base: Option<Box<Parked>>,
    pub changes: Vec<Change>,
    /// The statements that the client has prepared, by their numbers.
    statements: HashMap<u32, Statement>,
    /// The last one that was prepared.
    last: Option<u32>,
    /// The code and the rest of an execution of the one that is being prepared.
    ahead: Option<(u8, Vec<u8>)>,
    /// `LAST_INSERT_ID()`, if a statement has set it since.
    pub insert_id: Option<u64>,
    /// The session has something that is not known.
    unknown: bool,
    /// The bytes of changes and statements.
    bytes: usize,
    /// The bytes of statements that are being prepared.
    preparing: usize,
}

/// A change of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Command(Command),
    /// The prepared statement of this number.
    Prepared(u32),
}

/// A command that has changed a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// As the client has sent it.
    pub payload: Vec<u8>,
    /// COM_RESET_CONNECTION leaves what it has done.
    survives_reset: bool,
    /// Its effect depends on nothing else.
    is_literal: bool,
}

/// A prepared statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statement {
    pub text: Vec<u8>,
    /// How many parameters it has.
    parameters: u16,
    /// Their types, as COM_STMT_EXECUTE has them; empty: none were sent yet.
    pub types: Vec<u8>,
    /// It may end a transaction.
    may_commit: bool,
    /// An execution leaves something in the session that is not known.
    is_unknown: bool,
    /// Parameters were sent by themselves, and not used yet.
    has_long_data: bool,
    /// It is one of [`History::base`].
    in_base: bool,
}

/// A command whose answer has not come yet.
#[derive(Debug)]
pub(crate) struct Pending {
    /// It may end a transaction.
    pub may_commit: bool,
    /// It only asks whether somebody is there.
    pub is_ping: bool,
    on_success: OnSuccess,
}

#[derive(Debug)]
enum OnSuccess {
    Nothing,
    Change(Command),
    Reset,
    Prepare {
        text: Vec<u8>,
        may_commit: bool,
        is_unknown: bool,
    },
}

/// A command that arrives in parts.
#[derive(Debug)]
pub(crate) struct Reading {
    code: u8,
    /// Of a statement.
    scanner: Option<Scanner>,
    /// The bytes behind the code, of commands that are kept.
    body: Option<Vec<u8>>,
}

impl Reading {
    /// Begins to read a command. `backslashes`: in quotes they are escapes.
    pub fn new(code: u8, backslashes: bool) -> Reading {
        Reading {
            code,
            scanner: is_statement(code).then(|| Scanner::new(backslashes)),
            body: (code != command::QUERY).then(Vec::new),
        }
    }

    /// The command's code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Reads the next part of what follows the code.
    pub fn feed(&mut self, part: &[u8]) {
        if let Some(scanner) = &mut self.scanner {
            scanner.feed(part);
        }
        if let Some(body) = &mut self.body {
            // The types of parameters stand before the values.
            let room = STATEMENT_BYTES_MAX + 1 - body.len();
            body.extend_from_slice(&part[..part.len().min(room)]);
        }
    }
}

fn is_statement(code: u8) -> bool {
    matches!(code, command::QUERY | command::STMT_PREPARE)
}

impl History {
    /// That of a session that continues `parked` on another compute.
    pub fn of(parked: Parked) -> History {
        let statements = parked.state.statements().map(|(id, text, types)| {
            // In which sql_mode it was prepared is not known.
            let scanned = [true, false].map(|backslashes| Scanned::of(text, backslashes));
            let statement = Statement {
                parameters: (types.len() / 2) as u16,
                types: types.to_vec(),
                may_commit: scanned.iter().any(|one| one.may_commit),
                is_unknown: scanned.iter().any(|one| one.effect != Effect::Nothing),
                in_base: true,
                ..Statement::default()
            };
            (id, statement)
        });
        History {
            statements: statements.collect(),
            base: Some(Box::new(parked)),
            ..History::default()
        }
    }

    /// Whether the session can be made anew.
    pub fn is_known(&self) -> bool {
        !self.unknown
            && self.bytes <= BYTES_MAX
            && !self.statements.values().any(|one| one.has_long_data)
    }

    /// A prepared statement of [`History::changes`].
    pub fn statement(&self, id: u32) -> Option<&Statement> {
        self.statements.get(&id)
    }

    /// The client has sent a whole command, with `body` behind its code. `backslashes`: in
    /// quotes they are escapes.
    pub fn sent(&mut self, code: u8, body: &[u8], backslashes: bool) -> Pending {
        let is_read = is_statement(code) && !self.unknown;
        let scanned = is_read.then(|| Scanned::of(body, backslashes));
        self.take(code, scanned, body)
    }

    /// The client has sent a command that was read in parts.
    pub fn sent_in_parts(&mut self, reading: Reading) -> Pending {
        let Reading {
            code,
            scanner,
            body,
        } = reading;
        let body = body.unwrap_or_default();
        self.take(code, scanner.map(Scanner::end), &body)
    }

    fn take(&mut self, code: u8, scanned: Option<Scanned>, body: &[u8]) -> Pending {
        let mut pending = Pending {
            may_commit: true,
            is_ping: code == command::PING,
            on_success: OnSuccess::Nothing,
        };
        if self.unknown {
            return pending;
        }
        pending.on_success = match (code, scanned) {
            (command::QUERY, Some(scanned)) => {
                pending.may_commit = scanned.may_commit;
                match (scanned.effect, scanned.text) {
                    (Effect::Nothing, _) => OnSuccess::Nothing,
                    (Effect::Repeatable, Some(text)) => OnSuccess::Change(Command {
                        payload: [&[command::QUERY], &text[..]].concat(),
                        survives_reset: scanned.survives_reset,
                        is_literal: scanned.is_literal,
                    }),
                    // Even where it fails: a part of it may have been executed.
                    _ => self.lose_by(),
                }
            }
            (command::STMT_PREPARE, Some(scanned)) if body.len() <= STATEMENT_BYTES_MAX => {
                pending.may_commit = false;
                self.last = None;
                self.preparing += body.len();
                if self.preparing > BYTES_MAX {
                    self.lose();
                    return pending;
                }
                OnSuccess::Prepare {
                    text: body.to_vec(),
                    may_commit: scanned.may_commit,
                    is_unknown: scanned.effect != Effect::Nothing,
                }
            }
            (command::STMT_EXECUTE | command::STMT_BULK_EXECUTE, _) => {
                pending.may_commit = self.executed(code, body);
                OnSuccess::Nothing
            }
            (command::INIT_DB, _) => {
                pending.may_commit = false;
                OnSuccess::Change(Command {
                    payload: [&[code], body].concat(),
                    survives_reset: true,
                    is_literal: true,
                })
            }
            (command::RESET_CONNECTION, _) => OnSuccess::Reset,
            (
                command::PING | command::STATISTICS | command::FIELD_LIST | command::STMT_FETCH
                | command::STMT_RESET | command::PROCESS_KILL | command::DEBUG
                // Kept by the conversation.
                | command::SET_OPTION,
                _,
            ) => {
                pending.may_commit = false;
                OnSuccess::Nothing
            }
            _ => self.lose_by(),
        };
        pending
    }

    fn lose_by(&mut self) -> OnSuccess {
        self.lose();
        OnSuccess::Nothing
    }

    /// The session has something that is not known. Nothing of its history is of use any
    /// more.
    pub fn lose(&mut self) {
        *self = History {
            unknown: true,
            ..History::default()
        };
    }

    /// The client executes a prepared statement. Whether that may end a transaction.
    fn executed(&mut self, code: u8, body: &[u8]) -> bool {
        let Some((id, rest)) = body.split_first_chunk() else {
            self.lose();
            return true;
        };
        let mut id = u32::from_le_bytes(*id);
        if id == LAST_PREPARED {
            match self.last {
                Some(last) => id = last,
                None => {
                    self.ahead = Some((code, rest.to_vec()));
                    return true;
                }
            }
        }
        let Some(statement) = self.statements.get_mut(&id) else {
            self.lose();
            return true;
        };
        statement.has_long_data = false;
        let sent = types(code, rest, statement.parameters.into());
        if let Some(types) = sent.filter(|types| *types != statement.types) {
            if let Some(base) = self.base.as_mut().filter(|_| statement.in_base) {
                base.state.set_types(id, types);
            } else {
                self.bytes += types.len() - statement.types.len();
            }
            statement.types = types.to_vec();
        }
        let may_commit = statement.may_commit;
        if statement.is_unknown {
            self.lose();
        }
        may_commit
    }

    /// The client sends parameters of a statement by themselves.
    pub fn sent_long_data(&mut self, id: u32) {
        match self.statements.get_mut(&id) {
            Some(statement) => statement.has_long_data = true,
            None => self.lose(),
        }
    }

    /// The client resets a statement.
    pub fn reset_statement(&mut self, id: u32) {
        if let Some(statement) = self.statements.get_mut(&id) {
            statement.has_long_data = false;
        }
    }

    /// The client closes a statement.
    pub fn closed(&mut self, id: u32) {
        let Some(statement) = self.statements.remove(&id) else {
            return;
        };
        if let Some(base) = self.base.as_mut().filter(|_| statement.in_base) {
            base.state.close(id);
        } else {
            self.bytes -= statement.bytes();
            let place = self
                .changes
                .iter()
                .position(|one| *one == Change::Prepared(id));
            if let Some(place) = place {
                self.changes.remove(place);
                self.merge_around(place);
            }
        }
    }

    /// Leaves out the commands before `place` that are repeated behind it.
    fn merge_around(&mut self, place: usize) {
        let (before, behind) = self.changes.split_at(place);
        let first = before
            .iter()
            .rposition(Change::is_barrier)
            .map_or(0, |at| at + 1);
        let behind: Vec<_> = behind.iter().take_while(|one| !one.is_barrier()).collect();
        let repeated: Vec<usize> = (first..place)
            .filter(|at| behind.contains(&&self.changes[*at]))
            .collect();
        for at in repeated.into_iter().rev() {
            let change = self.changes.remove(at);
            self.bytes -= change.bytes();
        }
    }

    /// A command has failed.
    pub fn failed(&mut self, pending: Pending) {
        match pending.on_success {
            // A part of it may have been executed.
            OnSuccess::Change(command) if command.payload.contains(&b',') => self.lose(),
            OnSuccess::Prepare { text, .. } => {
                self.preparing = self.preparing.saturating_sub(text.len());
                self.ahead = None;
            }
            _ => {}
        }
    }

    /// A command has succeeded.
    pub fn succeeded(&mut self, pending: Pending, insert_id: u64) {
        if self.unknown {
            return;
        }
        if insert_id > 0 {
            self.insert_id = Some(insert_id);
        }
        match pending.on_success {
            OnSuccess::Nothing => {}
            OnSuccess::Change(command) => self.change(command),
            OnSuccess::Reset => {
                // The default database and the role stay, and statements go.
                for id in self.statements.keys().copied().collect::<Vec<_>>() {
                    self.closed(id);
                }
                self.insert_id = None;
                self.changes
                    .retain(|change| matches!(change, Change::Command(one) if one.survives_reset));
                self.bytes = self.changes.iter().map(Change::bytes).sum();
                self.change(Command {
                    payload: vec![command::RESET_CONNECTION],
                    survives_reset: false,
                    is_literal: false,
                });
            }
            // Its answer has a number (`prepared`).
            OnSuccess::Prepare { .. } => self.lose(),
        }
    }

    /// A statement was prepared, and has got a number.
    pub fn prepared(&mut self, pending: Pending, id: u32, parameters: u16) {
        if self.unknown {
            return;
        }
        let OnSuccess::Prepare {
            text,
            may_commit,
            is_unknown,
        } = pending.on_success
        else {
            self.lose();
            return;
        };
        self.preparing = self.preparing.saturating_sub(text.len());
        let statement = Statement {
            text,
            parameters,
            types: Vec::new(),
            may_commit,
            is_unknown,
            has_long_data: false,
            in_base: false,
        };
        self.bytes += statement.bytes();
        if self.bytes > BYTES_MAX {
            self.lose();
            return;
        }
        self.statements.insert(id, statement);
        self.changes.push(Change::Prepared(id));
        self.last = Some(id);
        if let Some((code, rest)) = self.ahead.take() {
            self.executed(code, &[&id.to_le_bytes(), &rest[..]].concat());
        }
    }

    /// Adds a command that changes the session.
    fn change(&mut self, command: Command) {
        let is_literal = command.is_literal;
        let change = Change::Command(command);
        // Programs set the same again and again.
        let since = self.changes.iter().rposition(Change::is_barrier);
        let since = since.map_or(0, |at| at + 1);
        let same = self.changes[since..].iter().position(|one| *one == change);
        match same.filter(|_| is_literal) {
            Some(same) => {
                self.changes.remove(since + same);
            }
            None => self.bytes += change.bytes(),
        }
        if self.bytes > BYTES_MAX {
            self.lose();
        } else {
            self.changes.push(change);
        }
    }
}

impl Change {
    fn bytes(&self) -> usize {
        size_of::<Change>()
            + match self {
                Change::Command(command) => command.payload.len(),
                Change::Prepared(_) => 0,
            }
    }

    /// Whether its effect depends on the changes before it, which must stay before it.
    fn is_barrier(&self) -> bool {
        match self {
            Change::Command(command) => !command.is_literal,
            Change::Prepared(_) => true,
        }
    }
}

impl Statement {
    fn bytes(&self) -> usize {
        size_of::<Statement>() + size_of::<Change>() + self.text.len() + self.types.len()
    }
}

/// The types of `count` parameters in an execution, behind the statement's number, if the
/// client has sent them.
fn types(code: u8, rest: &[u8], count: usize) -> Option<&[u8]> {
    let at = if code == command::STMT_BULK_EXECUTE {
        let flags = u16::from_le_bytes(*rest.first_chunk()?);
        (flags & BULK_TYPES != 0).then_some(2)?
    } else {
        // Flags, the count of iterations, and a bit for each NULL.
        let at = 1 + 4 + count.div_ceil(8);
        (*rest.get(at)? != 0).then_some(at + 1)?
    };
    rest.get(at..at + 2 * count)
        .filter(|types| !types.is_empty())
}
