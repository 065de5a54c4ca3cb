use super::accounts_sql;
use crate::project::Accounts;

#[test]
fn one_statement_a_line() {
    let local = accounts_sql("it's\\", Accounts::Local);
    assert!(local.contains(r"PASSWORD('it\'s\\')"), "{local}");
    assert!(!local.contains("'%'"));
    assert!(local.lines().all(|line| line.ends_with(';')));
    assert!(accounts_sql("x", Accounts::Any).contains("('%', 'xylem', "));
}
