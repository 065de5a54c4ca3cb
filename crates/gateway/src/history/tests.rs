//! Histories whose end is known.

use super::{Change, History, LAST_PREPARED, Reading};
use crate::conversation::command as c;

impl History {
    fn say(&mut self, code: u8, body: &[u8]) {
        let pending = self.sent(code, body, true);
        self.succeeded(pending, 0);
    }

    fn prepare(&mut self, id: u32, text: &str, parameters: u16) {
        let pending = self.sent(c::STMT_PREPARE, text.as_bytes(), true);
        self.prepared(pending, id, parameters);
    }

    fn execute(&mut self, id: u32, rest: &[u8]) -> bool {
        let body = [&id.to_le_bytes(), rest].concat();
        let pending = self.sent(c::STMT_EXECUTE, &body, true);
        let may_commit = pending.may_commit;
        self.succeeded(pending, 0);
        may_commit
    }

    fn commands(&self) -> Vec<String> {
        let text = |change: &Change| match change {
            Change::Command(one) => String::from_utf8_lossy(&one.payload[1..]).into_owned(),
            Change::Prepared(id) => format!("#{id}"),
        };
        self.changes.iter().map(text).collect()
    }
}

/// Flags, one iteration, no NULL, and the types of two parameters.
const TYPES: &[u8] = &[0, 1, 0, 0, 0, 0, 1, 3, 0, 253, 0];
const NO_TYPES: &[u8] = &[0, 1, 0, 0, 0, 0, 0];

#[test]
fn settings_are_kept_once_in_their_last_order() {
    let mut history = History::default();
    for statement in [
        "SET a = 1",
        "SET b = 1",
        "SELECT 1",
        "SET a = 2",
        "SET b = 1",
    ] {
        history.say(c::QUERY, statement.as_bytes());
    }
    assert_eq!(history.commands(), ["SET a = 1", "SET a = 2", "SET b = 1"]);
    // A statement is prepared under what was set before.
    history.prepare(1, "SELECT ?, ?", 2);
    history.say(c::QUERY, b"SET b = 1");
    history.say(c::INIT_DB, b"shop");
    assert_eq!(
        history.commands(),
        [
            "SET a = 1",
            "SET a = 2",
            "SET b = 1",
            "#1",
            "SET b = 1",
            "shop"
        ]
    );
    assert!(history.is_known());
}

#[test]
fn statements_keep_the_types_that_were_sent_once() {
    let mut history = History::default();
    history.prepare(1, "SELECT ?, ?", 2);
    history.prepare(2, "COMMIT", 0);
    history.prepare(4, "SET @a = ?", 1);
    assert!(!history.execute(1, TYPES));
    assert!(!history.execute(1, NO_TYPES));
    assert_eq!(history.statement(1).unwrap().types, [3, 0, 253, 0]);
    assert!(history.execute(2, &[0, 1, 0, 0, 0]));
    assert!(history.is_known());
    history.say(c::STMT_EXECUTE, &4_u32.to_le_bytes());
    assert!(!history.is_known());
    // One that does not exist here.
    let mut history = History::default();
    history.execute(9, TYPES);
    assert!(!history.is_known());
}

#[test]
fn a_statement_may_be_executed_before_its_number_is_known() {
    for ahead in [true, false] {
        let mut history = History::default();
        let pending = history.sent(c::STMT_PREPARE, b"SELECT ?, ?", true);
        let body = [&LAST_PREPARED.to_le_bytes(), TYPES].concat();
        if ahead {
            let execution = history.sent(c::STMT_EXECUTE, &body, true);
            history.prepared(pending, 7, 2);
            history.succeeded(execution, 0);
        } else {
            history.prepared(pending, 7, 2);
            history.say(c::STMT_EXECUTE, &body);
        }
        assert_eq!(history.statement(7).unwrap().types, [3, 0, 253, 0]);
        assert!(history.is_known());
    }
}

#[test]
fn parameters_that_were_sent_by_themselves_are_lost_until_they_are_used() {
    for code in [c::STMT_EXECUTE, c::STMT_RESET, c::STMT_CLOSE] {
        let mut history = History::default();
        history.prepare(1, "SELECT ?, ?", 2);
        history.sent_long_data(1);
        assert!(!history.is_known());
        match code {
            c::STMT_EXECUTE => assert!(!history.execute(1, TYPES)),
            c::STMT_RESET => history.reset_statement(1),
            _ => history.closed(1),
        }
        assert!(history.is_known());
    }
}

#[test]
fn a_reset_leaves_the_default_database() {
    let mut history = History::default();
    history.say(c::QUERY, b"/* x */ use shop");
    history.say(c::QUERY, b"SET ROLE clerk");
    history.say(c::QUERY, b"SET a = 1");
    history.prepare(1, "SELECT 1", 0);
    let insert = history.sent(c::QUERY, b"INSERT INTO t VALUES (1)", true);
    history.succeeded(insert, 5);
    assert_eq!(history.insert_id, Some(5));
    history.say(c::RESET_CONNECTION, b"");
    assert_eq!(
        history.commands(),
        ["/* x */ use shop", "SET ROLE clerk", ""]
    );
    assert_eq!(history.insert_id, None);
    assert!(history.statement(1).is_none());
}

#[test]
fn a_statement_in_parts_is_the_same() {
    let long = format!("SELECT '{}' /* @ */", "x".repeat(100_000));
    for (code, text) in [
        (c::QUERY, &long[..]),
        (c::QUERY, "SET a = 1"),
        (c::STMT_PREPARE, "SELECT ?"),
    ] {
        let mut whole = History::default();
        let pending = whole.sent(code, text.as_bytes(), true);
        let mut parts = History::default();
        let mut reading = Reading::new(code, true);
        for part in text.as_bytes().chunks(7) {
            reading.feed(part);
        }
        let same = parts.sent_in_parts(reading);
        assert_eq!(format!("{pending:?}"), format!("{same:?}"));
        assert!(parts.is_known());
    }
    let mut history = History::default();
    history.sent(c::STMT_PREPARE, long.as_bytes(), true);
    assert!(!history.is_known());
}

#[test]
fn history_has_a_bound() {
    let mut history = History::default();
    for nth in 0..3000 {
        history.say(
            c::QUERY,
            format!("SET a = '{nth}{}'", "x".repeat(100)).as_bytes(),
        );
        if nth % 7 == 0 {
            history.prepare(nth, &"x".repeat(100), 0);
            history.closed(nth);
        }
    }
    assert!(!history.is_known());
    assert!(history.bytes == 0 && history.changes.is_empty());
    // Statements come and go without a trace.
    let mut history = History::default();
    for nth in 0..3000 {
        history.prepare(nth, &"SELECT x".repeat(100), 2);
        history.execute(nth, TYPES);
        history.closed(nth);
    }
    assert!(history.is_known());
    assert_eq!(history.bytes, 0);
}

#[test]
fn statements_that_are_prepared_ahead_have_a_bound() {
    let mut history = History::default();
    let text = format!("SELECT '{}'", "x".repeat(30_000));
    for _ in 0..8 {
        history.sent(c::STMT_PREPARE, text.as_bytes(), true);
    }
    assert!(history.is_known());
    history.sent(c::STMT_PREPARE, text.as_bytes(), true);
    assert!(!history.is_known());
    // Those that have their numbers, too.
    let mut history = History::default();
    for id in 0..9 {
        history.prepare(id, &text, 0);
    }
    assert!(!history.is_known() && history.statements.is_empty());
}

#[test]
fn what_depends_on_others_stays_where_it_is() {
    let mut history = History::default();
    for statement in ["SET a = 1", "SET b = @@a", "SET a = 1", "SET b = @@a"] {
        history.say(c::QUERY, statement.as_bytes());
    }
    assert_eq!(
        history.commands(),
        ["SET a = 1", "SET b = @@a", "SET a = 1", "SET b = @@a"]
    );
    // A statement that is closed between two that are the same.
    let mut history = History::default();
    for turn in 0..50 {
        history.say(c::QUERY, b"SET autocommit = 0");
        history.prepare(turn, "SELECT 1", 0);
        history.say(c::QUERY, b"SET autocommit = 1");
        history.closed(turn);
    }
    assert_eq!(
        history.commands(),
        ["SET autocommit = 0", "SET autocommit = 1"]
    );
    let sizes = history.changes.iter().map(Change::bytes).sum::<usize>();
    assert_eq!(history.bytes, sizes);
}

#[test]
fn a_list_that_has_failed_may_have_been_executed_in_part() {
    let mut history = History::default();
    let one = history.sent(c::QUERY, b"SET nonsense = 1", true);
    history.failed(one);
    assert!(history.is_known() && history.changes.is_empty());
    let pending = history.sent(c::STMT_PREPARE, b"SELECT", true);
    let body = [&LAST_PREPARED.to_le_bytes(), TYPES].concat();
    history.sent(c::STMT_EXECUTE, &body, true);
    history.failed(pending);
    history.prepare(3, "SELECT ?, ?", 2);
    assert!(history.statement(3).unwrap().types.is_empty());
    let list = history.sent(c::QUERY, b"SET a = 1, nonsense = 1", true);
    history.failed(list);
    assert!(!history.is_known());
}
