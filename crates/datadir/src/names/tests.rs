use super::{readable, sql, table};

#[test]
fn file_names_for_people() {
    assert_eq!(readable("plain_1"), "plain_1");
    assert_eq!(readable("a@0020b@002ec"), "a b.c");
    assert_eq!(readable("x@4f60"), "x你");
    // MariaDB's own code for common letters stays.
    assert_eq!(readable("@0h@zz@"), "@0h@zz@");
    assert_eq!(readable("@d800é@00"), "@d800é@00");
    assert_eq!(table("my@002ddb", "t"), "`my-db`.`t`");
}

#[test]
fn file_names_in_sql() {
    assert_eq!(sql("proc"), "`proc`");
    assert_eq!(sql("t@002ex"), "`#mysql50#t@002ex`");
    assert_eq!(sql("#sql-1"), "`#mysql50##sql-1`");
    assert_eq!(sql("a`b"), "`a``b`");
}
