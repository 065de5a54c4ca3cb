use super::accounts_sql;

#[test]
fn one_statement_a_line() {
    let local = accounts_sql("it's\\", false);
    assert!(local.contains(r"PASSWORD('it\'s\\')"), "{local}");
    assert!(!local.contains("'%'"));
    assert!(local.lines().all(|line| line.ends_with(';')));
    assert!(accounts_sql("x", true).contains("('%', 'xylem', "));
}
