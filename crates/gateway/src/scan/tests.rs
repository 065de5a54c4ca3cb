//! Statements whose effect is known.

use super::{Effect, Scanned, Scanner};
use proptest::prelude::*;

fn scan(statement: &[u8], piece: usize, backslashes: bool) -> Scanned {
    let mut scanner = Scanner::new(backslashes);
    for part in statement.chunks(piece) {
        scanner.feed(part);
    }
    scanner.end()
}

#[test]
fn rows_leave_nothing_and_end_no_transaction() {
    for statement in [
        "SELECT 1",
        "  select a from t where e = 'app@example.com'",
        "/* by the app */ SELECT @@autocommit, @@session.sql_mode",
        "-- a comment @x\nINSERT INTO t VALUES ('it''s; @a', \"@b\", `@c`);",
        "# c @x\nUPDATE t SET a = 'b\\'@c' WHERE d = 1 ; ",
        "WITH a AS (SELECT 1) SELECT * FROM a FOR UPDATE",
        "SELECT a FROM t LOCK IN SHARE MODE",
        "(SELECT 1) UNION (SELECT 2)",
        "SELECT 5--1",
        "SELECT 4/2 /* a ** b */ -- end",
        "DELETE FROM locks",
        "SELECT LAST_INSERT_ID()",
        "SELECT LAST_INSERT_ID ( ), 1",
        "SELECT 1 -- c\n- 1",
    ] {
        let done = scan(statement.as_bytes(), 1, true);
        assert_eq!(done.effect, Effect::Nothing, "{statement}");
        assert!(!done.may_commit, "{statement}");
    }
}

#[test]
fn other_statements_leave_nothing_and_may_commit() {
    for statement in [
        "COMMIT",
        "begin",
        "START TRANSACTION READ ONLY",
        "CREATE TABLE t (a INT)",
        "SET PASSWORD = PASSWORD('x')",
        "SET DEFAULT ROLE r",
        "FLUSH TABLES",
        "UNLOCK TABLES",
        "LOAD DATA LOCAL INFILE 'f' INTO TABLE t",
        "",
    ] {
        let done = scan(statement.as_bytes(), 3, true);
        assert_eq!(done.effect, Effect::Nothing, "{statement}");
        assert!(done.may_commit, "{statement}");
    }
}

#[test]
fn settings_are_repeatable() {
    for statement in [
        "SET NAMES utf8mb4",
        "set autocommit=0",
        "SET sql_mode=(SELECT CONCAT(@@sql_mode, ',ANSI'))",
        "SET @@session.time_zone = '+00:00', lock_wait_timeout = 5",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET ROLE clerk",
        "USE `a@b`",
        "SET tx_isolation = 'READ-COMMITTED'",
    ] {
        let done = scan(statement.as_bytes(), 2, true);
        assert_eq!(done.effect, Effect::Repeatable, "{statement}");
        assert_eq!(done.text.unwrap(), statement.as_bytes());
    }
}

#[test]
fn what_is_not_certain_is_unknown() {
    for statement in [
        "SET @a = 1",
        "SELECT @a := 1",
        "SELECT 1 INTO @`a b`",
        "SELECT 1 INTO @'a'",
        "SELECT 1 INTO @a",
        "SELECT 1 INTO @",
        "SELECT 1; SET autocommit = 0",
        "SELECT GET_LOCK('a', 1)",
        "DO get_lock('a', 1)",
        "CREATE TEMPORARY TABLE t (a INT)",
        "CREATE OR REPLACE TEMPORARY TABLE t (a INT)",
        "SET GLOBAL max_connections = 5",
        "SET @@global.max_connections = 5",
        "SET TRANSACTION READ ONLY",
        "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
        "SET timestamp = 5",
        "SET insert_id = 5",
        "SET `timestamp` = 5",
        "SET \"timestamp\" = 5",
        "SELECT `GET_LOCK`('a', 1)",
        "SELECT 1 -- c\n- 1, @a := 5",
        "SELECT LAST_INSERT_ID(5)",
        "UPDATE t SET id = LAST_INSERT_ID( id + 1)",
        "SET last_insert_id = 5",
        "SET identity = 5",
        "INSERT INTO t VALUES (1) RETURNING id",
        "SET PASSWORD = PASSWORD('x'), sql_mode = ''",
        "SET sql_mode = '', PASSWORD = PASSWORD('x')",
        "SET ROLE a, sql_mode = ''",
        "SET @@tx_isolation = 'READ-COMMITTED'",
        "SET sql_mode = (SELECT v FROM conf)",
        "SET NAMES 'gbk'",
        "SET character_set_client = sjis",
        "LOCK TABLES t READ",
        "FLUSH TABLES WITH READ LOCK",
        "FLUSH TABLES t FOR EXPORT",
        "BEGIN NOT ATOMIC SET autocommit = 0; END",
        "CALL p()",
        "PREPARE s FROM 'SELECT 1'",
        "EXECUTE s",
        "HANDLER t OPEN",
        "XA START 'x'",
        "INSTALL SONAME 'x'",
        "/*!40101 SET NAMES utf8 */",
        "/*M!100100 SET autocommit = 0 */",
        "SELECT 'open",
        "SELECT 1 /* open",
        "CREATE USER a@b",
    ] {
        let done = scan(statement.as_bytes(), 4, true);
        assert_eq!(done.effect, Effect::Unknown, "{statement}");
        assert!(done.may_commit, "{statement}");
    }
    let long = format!("SET sql_mode = '{}'", "x".repeat(5000));
    assert_eq!(scan(long.as_bytes(), 900, true).effect, Effect::Unknown);
}

#[test]
fn a_backslash_escapes_only_where_the_session_says_so() {
    let statement = br"SELECT '\', @a, '";
    assert_eq!(scan(statement, 5, true).effect, Effect::Nothing);
    assert_eq!(scan(statement, 5, false).effect, Effect::Unknown);
}

proptest! {
    /// The parts in which a statement arrives make no difference, whatever it is.
    #[test]
    fn parts_make_no_difference(
        statement in prop_oneof![
            "[sStTuUeE@;'\"`/*! #\n\\-]{0,40}",
            ".{0,60}",
            "(SET|SELECT|BEGIN|FLUSH|USE) [A-Z@ ';/*-]{0,30}",
        ],
        piece in 1_usize..9,
        backslashes: bool,
    ) {
        let whole = scan(statement.as_bytes(), usize::MAX, backslashes);
        prop_assert_eq!(scan(statement.as_bytes(), piece, backslashes), whole);
    }
}

#[test]
fn some_settings_depend_on_nothing_and_some_outlast_a_reset() {
    let of = |statement: &str| {
        let done = scan(statement.as_bytes(), 4, true);
        (done.is_literal, done.survives_reset)
    };
    assert_eq!(of("SET autocommit = 0"), (true, false));
    assert_eq!(of("SET a = @@a * 2"), (false, false));
    assert_eq!(of("SET a = (SELECT 1)"), (false, false));
    assert_eq!(of("/* x */ use shop"), (true, true));
    assert_eq!(of("SET ROLE clerk"), (true, true));
}
