//! Conversations whose course is known.

use super::{Conversation, ERR, Form, IN_TRANSACTION, Interrupted, MORE_RESULTS, command};
use crate::bytes::put_number;
use crate::history::Reading;
use crate::packet::{FULL, header};
use proptest::prelude::*;

/// The beginning of commands about a prepared statement.
const STATEMENT: &[u8] = &[9, 0, 0, 0, 1];

/// Packets with their numbers, as a compute sends them.
#[derive(Default)]
struct Answer {
    bytes: Vec<u8>,
    seq: u8,
}

impl Answer {
    fn packet(&mut self, payload: &[u8]) {
        self.seq = self.seq.wrapping_add(1);
        self.bytes.extend(header(payload.len(), self.seq));
        self.bytes.extend_from_slice(payload);
    }

    fn ok(&mut self, first: u8, status: u16) {
        // Two rows, an identifier of three bytes, no warnings.
        let mut payload = vec![first, 2, 0xfc, 1, 2];
        payload.extend(status.to_le_bytes());
        payload.extend([0, 0]);
        self.packet(&payload);
    }

    fn end(&mut self, form: Form, status: u16) {
        if form.deprecate_eof {
            self.ok(0xfe, status);
        } else {
            let [a, b] = status.to_le_bytes();
            self.packet(&[0xfe, 0, 0, a, b]);
        }
    }

    fn error(&mut self) {
        self.packet(b"\xff\x15\x04#28000Access denied");
    }

    fn metadata(&mut self, form: Form, columns: usize) {
        for _ in 0..columns {
            self.packet(
                b"\x03def\x00\x00\x00\x01a\x00\x0c?\x00\x01\x00\x00\x00\x08\x80\x00\x00\x00\x00",
            );
        }
        if form.metadata_end() {
            self.packet(&[0xfe, 0, 0, 2, 0]);
        }
    }

    fn rows(&mut self, form: Form, rows: &[usize], status: u16) {
        let mut count = Vec::new();
        put_number(&mut count, 2);
        self.packet(&count);
        self.metadata(form, 2);
        for &bytes in rows {
            // The first column of a long row has a length that begins as the end of a
            // list does.
            let mut row = Vec::new();
            put_number(&mut row, bytes as u64);
            row.resize(row.len() + bytes, b'x');
            row.push(0xfb);
            while row.len() >= FULL {
                let rest = row.split_off(FULL);
                self.packet(&row);
                row = rest;
            }
            self.packet(&row);
        }
        self.end(form, status);
    }
}

/// A command and the form of its answer.
#[derive(Clone, Debug)]
enum Step {
    Ok(u16),
    Error,
    Rows(Vec<usize>),
    Several(usize),
    File(usize),
    Prepare(u8, u8),
    Cursor,
    Fetch(Vec<usize>),
    Statistics,
    Fields(usize),
    ChangeUser,
    Close,
    Progress,
    Option,
}

impl Step {
    /// Whether a cursor is open behind it.
    fn leaves_cursor(&self, before: bool) -> bool {
        match self {
            Step::Cursor => true,
            Step::Fetch(_) | Step::ChangeUser | Step::Close => false,
            _ => before,
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let rows = prop::collection::vec(0_usize..400, 0..5);
    prop_oneof![
        (0_u16..4).prop_map(|status| Step::Ok(status & !IN_TRANSACTION)),
        Just(Step::Error),
        rows.clone().prop_map(Step::Rows),
        (1_usize..4).prop_map(Step::Several),
        (0_usize..3).prop_map(Step::File),
        (0_u8..3, 0_u8..3).prop_map(|(columns, parameters)| Step::Prepare(columns, parameters)),
        Just(Step::Cursor),
        rows.prop_map(Step::Fetch),
        Just(Step::Statistics),
        (0_usize..3).prop_map(Step::Fields),
        Just(Step::ChangeUser),
        Just(Step::Close),
        Just(Step::Progress),
        Just(Step::Option),
    ]
}

/// The command of a step, and the answer to it.
fn act(step: &Step, form: Form) -> (u8, Vec<u8>) {
    let mut out = Answer::default();
    let code = match step {
        Step::Ok(status) => {
            out.ok(0, *status);
            command::QUERY
        }
        Step::Error => {
            out.error();
            command::QUERY
        }
        Step::Rows(rows) => {
            out.rows(form, rows, 2);
            command::QUERY
        }
        Step::Several(times) => {
            for _ in 0..*times {
                out.rows(form, &[3], MORE_RESULTS);
                out.ok(0, MORE_RESULTS);
            }
            out.ok(0, 2);
            command::QUERY
        }
        Step::File(times) => {
            for _ in 0..*times {
                out.packet(b"\xfbfile");
                out.ok(0, MORE_RESULTS);
            }
            out.packet(b"\xfbfile");
            out.ok(0, 2);
            command::QUERY
        }
        Step::Prepare(columns, parameters) => {
            out.packet(&[0, 9, 0, 0, 0, *columns, 0, *parameters, 0, 0, 0, 0]);
            for count in [*parameters, *columns] {
                if count > 0 {
                    out.metadata(form, count.into());
                }
            }
            command::STMT_PREPARE
        }
        Step::Cursor => {
            out.packet(&[1]);
            let mut metadata = Answer {
                seq: out.seq,
                ..Answer::default()
            };
            metadata.metadata(
                Form {
                    deprecate_eof: true,
                },
                1,
            );
            out.bytes.extend(metadata.bytes);
            out.seq = metadata.seq;
            out.end(form, 0x42);
            command::STMT_EXECUTE
        }
        Step::Fetch(rows) => {
            for _ in rows {
                out.packet(b"\x00\x00\x01a");
            }
            out.end(form, 0x82);
            command::STMT_FETCH
        }
        Step::Statistics => {
            out.packet(b"Uptime: 7");
            command::STATISTICS
        }
        Step::Fields(count) => {
            for _ in 0..*count {
                out.packet(b"\x03def");
            }
            out.end(form, 2);
            command::FIELD_LIST
        }
        Step::ChangeUser => {
            out.packet(b"\xfemysql_native_password\x00challenge");
            out.ok(0, 2);
            command::CHANGE_USER
        }
        Step::Close => command::STMT_CLOSE,
        Step::Option => {
            out.end(form, 2);
            command::SET_OPTION
        }
        Step::Progress => {
            out.packet(&[ERR, 0xff, 0xff, 1, 1, 2, 0, 0, 0]);
            out.ok(0, 2);
            command::QUERY
        }
    };
    (code, out.bytes)
}

fn forms() -> impl Strategy<Value = Form> {
    any::<bool>().prop_map(|deprecate_eof| Form { deprecate_eof })
}

proptest! {
    /// A session is idle when each command has its whole answer and no cursor is open, and
    /// not a byte before, however the bytes are cut.
    #[test]
    fn idle_means_answered(
        form in forms(),
        steps in prop::collection::vec(step(), 1..8),
        piece in 1_usize..40,
    ) {
        let mut conversation = Conversation::new(form, 2);
        let mut cursor = false;
        for step in &steps {
            prop_assert_eq!(conversation.is_idle(), !cursor);
            cursor = step.leaves_cursor(cursor);
            let (code, answer) = act(step, form);
            conversation.sent(code, STATEMENT);
            if !answer.is_empty() {
                prop_assert!(!conversation.is_idle());
            }
            for (nth, part) in answer.chunks(piece).enumerate() {
                prop_assert!(!conversation.is_idle(), "{:?}: part {}", step, nth);
                conversation.received(part);
            }
            prop_assert_eq!(conversation.is_idle(), !cursor, "{:?} has ended", step);
        }
    }

    /// The same for a client that does not wait for answers.
    #[test]
    fn commands_may_be_sent_ahead(
        form in forms(),
        steps in prop::collection::vec(step(), 1..8),
    ) {
        let mut conversation = Conversation::new(form, 2);
        let mut answers = Vec::new();
        for step in &steps {
            // Which cursor an answer opens is known when it comes.
            prop_assume!(!matches!(step, Step::Cursor));
            let (code, answer) = act(step, form);
            conversation.sent(code, STATEMENT);
            answers.extend(answer);
        }
        if let Some((last, first)) = answers.split_last() {
            conversation.received(first);
            prop_assert!(!conversation.is_idle());
            conversation.received(&[*last]);
        }
        prop_assert!(conversation.is_idle());
    }

    /// The gateway survives whatever a compute sends.
    #[test]
    fn any_bytes_are_taken(
        form in forms(),
        codes in prop::collection::vec(any::<u8>(), 0..6),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut conversation = Conversation::new(form, 2);
        for code in codes {
            conversation.sent(code, STATEMENT);
        }
        for part in bytes.chunks(7) {
            conversation.received(part);
        }
    }
}

#[test]
fn a_transaction_is_not_idle() {
    let mut conversation = Conversation::new(Form::default(), 2);
    let mut answer = Answer::default();
    answer.ok(0, IN_TRANSACTION);
    conversation.sent(command::QUERY, b"");
    conversation.received(&answer.bytes);
    assert!(!conversation.is_idle());
    let mut answer = Answer::default();
    answer.ok(0, 2);
    conversation.sent(command::QUERY, b"");
    conversation.received(&answer.bytes);
    assert!(conversation.is_idle());
}

#[test]
fn what_an_option_has_set_is_known() {
    let mut conversation = Conversation::new(Form::default(), 2);
    assert_eq!(conversation.option(), None);
    conversation.sent(command::SET_OPTION, &[1, 0]);
    assert_eq!(conversation.option(), Some([1, 0]));
    let mut answer = Answer::default();
    answer.end(Form::default(), 2);
    conversation.received(&answer.bytes);
    assert!(conversation.is_idle());
}

#[test]
fn a_session_is_busy_until_its_login_has_ended() {
    let mut conversation = Conversation::login(Form::default());
    assert!(!conversation.is_idle());
    assert_eq!(conversation.tie(), None);
    conversation.begin(2);
    assert!(conversation.is_idle());
    assert_eq!(conversation.status(), 2);
}

#[test]
fn a_cursor_is_open_until_its_statement_is_reset() {
    for code in [
        command::STMT_RESET,
        command::STMT_EXECUTE,
        command::RESET_CONNECTION,
    ] {
        let mut conversation = Conversation::new(Form::default(), 2);
        let (execute, answer) = act(&Step::Cursor, Form::default());
        conversation.sent(execute, STATEMENT);
        conversation.received(&answer);
        assert_eq!(conversation.tie(), Some("an open cursor"));
        let mut answer = Answer::default();
        answer.ok(0, 2);
        conversation.sent(code, STATEMENT);
        conversation.received(&answer.bytes);
        assert!(conversation.is_idle());
    }
}

#[test]
fn a_row_of_several_packets_is_one() {
    let form = Form::default();
    let mut answer = Answer::default();
    // The second packet of the row begins with a byte of the row, and the third has none.
    answer.rows(form, &[FULL - 5, 2 * FULL], 2);
    let mut conversation = Conversation::new(form, 2);
    conversation.sent(command::QUERY, b"");
    let (last, first) = answer.bytes.split_last().unwrap();
    conversation.received(first);
    assert!(!conversation.is_idle());
    conversation.received(&[*last]);
    assert!(conversation.is_idle());
}

#[test]
fn a_stream_without_an_end_is_never_idle() {
    let mut conversation = Conversation::new(Form::default(), 2);
    conversation.sent(command::BINLOG_DUMP, b"");
    assert!(!conversation.is_idle());
}

#[test]
fn words_that_nobody_asked_for_are_not_followed() {
    let mut conversation = Conversation::new(Form::default(), 2);
    let mut answer = Answer::default();
    answer.error();
    conversation.received(&answer.bytes);
    assert!(!conversation.is_idle());
}

/// A session whose one command has no whole answer.
fn interrupted_by(code: u8, body: &[u8], answer: &[u8]) -> Option<(bool, Option<(u8, bool)>)> {
    let mut conversation = Conversation::new(Form::default(), 2 | IN_TRANSACTION);
    conversation.sent(code, body);
    conversation.sent_whole(code, body);
    conversation.received(answer);
    let Interrupted {
        in_transaction,
        command,
        ..
    } = conversation.interrupted()?;
    Some((in_transaction, command.map(|one| (one.seq, one.may_commit))))
}

#[test]
fn an_answer_that_breaks_off_can_be_ended_between_two_packets() {
    let q = command::QUERY;
    assert_eq!(
        interrupted_by(q, b"SELECT 1", b""),
        Some((true, Some((1, false))))
    );
    assert_eq!(
        interrupted_by(q, b"COMMIT", b""),
        Some((true, Some((1, true))))
    );
    let mut rows = Answer::default();
    rows.rows(Form::default(), &[3, 4], 2);
    // Before it, and behind the metadata and each row.
    let ends: Vec<usize> = (0..rows.bytes.len())
        .filter(|end| {
            let said = interrupted_by(q, b"SELECT 1", &rows.bytes[..*end]);
            said.is_some_and(|(_, command)| command.is_some())
        })
        .collect();
    assert_eq!(ends.len(), 4);
    let last = interrupted_by(q, b"SELECT 1", &rows.bytes[..ends[3]]);
    assert_eq!(last, Some((false, Some((7, false)))));
    // An answer that is whole.
    let mut answer = Answer::default();
    answer.ok(0, 2);
    assert_eq!(
        interrupted_by(q, b"COMMIT", &answer.bytes),
        Some((false, None))
    );
    // A client that sends a file, one that logs in again, and one that is ahead.
    let mut file = Answer::default();
    file.packet(b"\xfbfile");
    assert_eq!(
        interrupted_by(
            q,
            b"LOAD DATA LOCAL INFILE 'file' INTO TABLE t",
            &file.bytes
        ),
        None
    );
    assert_eq!(interrupted_by(command::CHANGE_USER, b"", b""), None);
    let mut conversation = Conversation::new(Form::default(), 2);
    for _ in 0..2 {
        conversation.sent(q, b"SELECT 1");
        conversation.sent_whole(q, b"SELECT 1");
    }
    assert_eq!(conversation.interrupted(), None);
}

#[test]
fn only_what_has_succeeded_is_history() {
    let mut conversation = Conversation::new(Form::default(), 2);
    let mut say = |code: u8, body: &[u8], answer: &Answer| {
        conversation.sent(code, body);
        conversation.sent_whole(code, body);
        conversation.received(&answer.bytes);
        assert!(conversation.is_idle());
        (
            conversation.history.is_known(),
            conversation.history.changes.len(),
        )
    };
    let (mut ok, mut error, mut prepared) =
        (Answer::default(), Answer::default(), Answer::default());
    ok.ok(0, 2);
    error.error();
    // A statement with one column, and one parameter.
    prepared.packet(&[0, 9, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    prepared.metadata(Form::default(), 1);
    prepared.metadata(Form::default(), 1);
    assert_eq!(say(command::QUERY, b"SET NAMES latin1", &ok), (true, 1));
    assert_eq!(say(command::QUERY, b"SET nonsense = 1", &error), (true, 1));
    assert_eq!(
        say(command::STMT_PREPARE, b"SELECT ?", &prepared),
        (true, 2)
    );
    assert_eq!(
        say(command::STMT_PREPARE, b"SELECT FROM", &error),
        (true, 2)
    );
    assert_eq!(say(command::INIT_DB, b"shop", &ok), (true, 3));
    // Its OK has an identifier.
    assert_eq!(conversation.history.insert_id, Some(513));
    // Though it has failed.
    conversation.sent(command::QUERY, b"SET @a = 1");
    conversation.sent_whole(command::QUERY, b"SET @a = 1");
    conversation.received(&error.bytes);
    assert!(!conversation.history.is_known());
}

#[test]
fn after_an_error_it_is_not_certain_that_a_transaction_is_open() {
    let mut conversation = Conversation::new(Form::default(), 2 | IN_TRANSACTION);
    let said = |conversation: &Conversation| {
        let interrupted = conversation.interrupted().unwrap();
        (interrupted.in_transaction, interrupted.is_uncertain)
    };
    assert_eq!(said(&conversation), (true, false));
    let mut say = |statement: &[u8], answer: &Answer, end: bool| {
        conversation.sent(command::QUERY, statement);
        conversation.sent_whole(command::QUERY, statement);
        if end {
            conversation.received(&answer.bytes);
        }
        let command = conversation.interrupted().unwrap().command;
        (said(&conversation), command.map(|one| one.may_commit))
    };
    let (mut error, mut ok) = (Answer::default(), Answer::default());
    error.error();
    ok.ok(0, 2 | IN_TRANSACTION);
    assert_eq!(
        say(b"CREATE TABLE t (a INT)", &error, true),
        ((true, true), None)
    );
    assert_eq!(say(b"SELECT 1", &ok, true), ((true, false), None));
    assert_eq!(
        say(b"INSERT INTO t VALUES (1)", &error, true),
        ((true, true), None)
    );
    // What the error has ended makes this one commit by itself.
    assert_eq!(
        say(b"INSERT INTO t VALUES (1)", &ok, false),
        ((true, true), Some(true))
    );
}

#[test]
fn the_answer_to_a_command_of_several_packets_is_numbered_behind_them() {
    let mut conversation = Conversation::new(Form::default(), 2);
    conversation.sent(command::QUERY, b"INSERT");
    let mut reading = Reading::new(command::QUERY, true);
    reading.feed(b"INSERT INTO t VALUES (1)");
    conversation.sent_in_parts(reading, 3);
    let command = conversation.interrupted().unwrap().command.unwrap();
    assert_eq!((command.seq, command.may_commit), (4, false));
}
