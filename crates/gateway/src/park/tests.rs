//! The statements that make a session anew.

use super::{Account, Parked};
use crate::own::Row;
use crate::variable::{assignment, unhex};

fn row(name: &str, value: Option<&str>, kind: &str) -> Row {
    let hex = value.map(|value| {
        let digits = value.bytes().map(|byte| format!("{byte:02X}"));
        digits.collect::<String>().into_bytes()
    });
    vec![Some(name.into()), hex, Some(kind.into())]
}

#[test]
fn a_session_is_what_its_statements_have_set() {
    let account = Account {
        user: b"app".to_vec(),
        host: Vec::new(),
        ip: b"10.0.0.7".to_vec(),
    };
    let rows = [
        row("database", Some("sh\u{f6}p"), ""),
        row("role", None, ""),
        row("SQL_MODE", Some("ANSI"), "SET"),
        row("MAX_STATEMENT_TIME", Some("7.500000"), "DOUBLE"),
        row("LOCK_WAIT_TIMEOUT", Some("33"), "BIGINT UNSIGNED"),
        row("CHARACTER_SET_RESULTS", None, "ENUM"),
        row("INIT_CONNECT", Some("it's a \\"), "VARCHAR"),
    ];
    let parked = Parked::of(account.clone(), &rows).unwrap();
    assert_eq!(parked.account, account);
    assert_eq!(parked.database.as_deref(), Some("sh\u{f6}p".as_bytes()));
    assert_eq!(parked.role, None);
    assert_eq!(
        parked.settings.0,
        "SESSION SQL_MODE = 'ANSI', SESSION MAX_STATEMENT_TIME = 7.500000, \
         SESSION LOCK_WAIT_TIMEOUT = 33, SESSION INIT_CONNECT = 'it''s a \\\\'"
    );
    assert_eq!(parked.charsets.0, "SESSION CHARACTER_SET_RESULTS = NULL");
}

#[test]
fn a_variable_is_not_mistaken_for_sql() {
    assert!(assignment(b"A = 1; DROP", Some(b"1"), b"INT").is_err());
    assert!(assignment(b"A", Some(b"\xff"), b"VARCHAR").is_err());
    // A number that is none is text.
    assert_eq!(
        assignment(b"A", Some(b"1, B = 2"), b"INT").unwrap(),
        "A = '1, B = 2'"
    );
    assert!(unhex(b"4").is_err() && unhex(b"4G").is_err());
    assert_eq!(unhex(b"4f4B").unwrap(), b"OK");
}

#[test]
fn an_answer_that_is_none_is_refused() {
    let account = Account {
        user: Vec::new(),
        host: Vec::new(),
        ip: Vec::new(),
    };
    assert!(Parked::of(account.clone(), &[vec![None, None, None]]).is_err());
    assert!(Parked::of(account, &[vec![Some(b"SQL_MODE".to_vec())]]).is_err());
}
