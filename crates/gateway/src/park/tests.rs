//! The statements that make a session anew.

use super::state::State;
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
        account_host: b"%".to_vec(),
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
    let parked = Parked::of(account.clone(), &rows, &[]).unwrap();
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
    // In one line, as an init file has it.
    assert_eq!(
        assignment(b"A", Some(b"a\nb\r\0"), b"VARCHAR").unwrap(),
        "A = 'a\\nb\\r\\0'"
    );
    // The server cuts what it shows.
    let long = "x".repeat(2048);
    assert!(assignment(b"A", Some(&long.as_bytes()[1..]), b"VARCHAR").is_ok());
    assert!(assignment(b"A", Some(long.as_bytes()), b"VARCHAR").is_err());
    assert!(unhex(b"4").is_err() && unhex(b"4G").is_err());
    assert_eq!(unhex(b"4f4B").unwrap(), b"OK");
}

#[test]
fn an_answer_that_is_none_is_refused() {
    let account = Account {
        user: Vec::new(),
        host: Vec::new(),
        ip: Vec::new(),
        account_host: Vec::new(),
    };
    let of = |rows: &[Row], state: &[Row]| Parked::of(account.clone(), rows, state);
    assert!(of(&[vec![None, None, None]], &[]).is_err());
    assert!(of(&[vec![Some(b"SQL_MODE".to_vec())]], &[]).is_err());
    assert!(of(&[], &[vec![Some(b"statement".to_vec())]]).is_err());
    assert!(of(&[], &[]).is_ok());
}

fn state(kind: &str, name: &str, database: &str, value: Option<&[u8]>, type_: &str) -> Row {
    let hex = |bytes: &[u8]| -> Vec<u8> {
        let digits = bytes.iter().map(|byte| format!("{byte:02X}"));
        digits.collect::<String>().into_bytes()
    };
    vec![
        Some(kind.into()),
        Some(b"7".to_vec()),
        Some(hex(name.as_bytes())),
        Some(hex(database.as_bytes())),
        value.map(hex),
        Some(type_.into()),
    ]
}

#[test]
fn user_variables_keep_their_types() {
    let cases: [(Option<&[u8]>, &str, &str); 8] = [
        (Some(b"5"), "INT UNSIGNED", "CAST(5 AS UNSIGNED)"),
        (Some(b"-5"), "INT", "-5"),
        (Some(b"0.1"), "DOUBLE", "0.1e0"),
        (Some(b"1e300"), "DOUBLE", "1e300"),
        (Some(b"12"), "DECIMAL", "12."),
        (
            Some(b"a'b"),
            "latin1_german2_ci",
            "_latin1 X'612762' COLLATE latin1_german2_ci",
        ),
        (Some(b"\xff"), "binary", "X'ff'"),
        (None, "binary", "NULL"),
    ];
    for (value, kind, sql) in cases {
        let one = State::of(&[state("variable", "a`b", "", value, kind)]).unwrap();
        assert_eq!(one.variables, format!("@`a``b` = {sql}"));
    }
    for (value, kind) in [("1; DROP", "INT"), ("inf", "DOUBLE"), ("x", "latin1 X")] {
        assert!(State::of(&[state("variable", "v", "", Some(value.as_bytes()), kind)]).is_err());
    }
}

#[test]
fn a_session_that_is_too_large_or_has_a_tie_stays() {
    let account = Account {
        user: b"app".to_vec(),
        host: Vec::new(),
        ip: Vec::new(),
        account_host: Vec::new(),
    };
    let text = "x".repeat(32 << 10);
    let statement = state("statement", "", "shop", Some(text.as_bytes()), "");
    let database = [row("database", Some("shop"), "")];
    let of = |rows: &[Row], state: &[Row]| Parked::of(account.clone(), rows, state);
    assert!(of(&database, &vec![statement.clone(); 7]).is_ok());
    let why = of(&database, &vec![statement.clone(); 8]).unwrap_err();
    assert!(why.message.contains("bytes"), "{why}");
    let why = of(&[row("database", None, "")], &[statement]).unwrap_err();
    assert!(why.message.contains("database that is gone"), "{why}");
    let why = of(&database, &[state("tie", "a reason", "", None, "")]).unwrap_err();
    assert_eq!(why.message, "a reason");
}
