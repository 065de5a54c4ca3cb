use super::aria_tables;

#[test]
fn tables_of_the_script() {
    let script = "set x=1;\n\
        CREATE TABLE IF NOT EXISTS db ( a int ) engine=Aria transactional=1 CHARACTER SET utf8mb3;\n\
        CREATE TABLE IF NOT EXISTS table_stats (b int) engine=Aria transactional=0;\n\
        CREATE TABLE IF NOT EXISTS proc(c int) ENGINE=ARIA;\n\
        CREATE TABLE IF NOT EXISTS innodb_stats (d int) engine=InnoDB;\n\
        SET @str = 'CREATE TABLE IF NOT EXISTS general_log (e int) engine=CSV';\n";
    assert_eq!(
        aria_tables(script),
        [
            ("db".to_owned(), true),
            ("table_stats".to_owned(), false),
            ("proc".to_owned(), true)
        ]
    );
}
