use super::parse;

#[test]
fn takes_names_with_reasons_only() {
    let list =
        parse("# why\n\ninnodb.one : reads a file: this one\ninnodb.two 'crypt' : x\n").unwrap();
    assert_eq!(list.for_runner(), "innodb.one : reads a file: this one\n");
    assert!(list.has("innodb.one") && list.has("innodb.one 'none'"));
    assert!(list.has("innodb.two '4k,crypt'"));
    assert!(!list.has("innodb.two") && !list.has("innodb.two '4k'"));
    for wrong in [
        "innodb.one",
        "one : why",
        "a.b :",
        "a.b : x\na.b : y",
        "a.b 'c' : x\na.b 'c' : y",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_list_of_the_repository_can_be_read() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../mariadb/mysqltest/excluded.def"
    );
    assert!(super::read(path.as_ref()).is_ok());
}
