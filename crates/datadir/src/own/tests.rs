use super::*;

#[test]
fn the_plugins_files_have_these_names() {
    for (name, source) in [
        (
            BINLOG_OWNER_FILE,
            include_str!("../../../../mariadb/innobase/page_server/page_server_prepared.cc"),
        ),
        (
            START_PAGES_FILE,
            include_str!("../../../../mariadb/innobase/page_server/page_server_start.cc"),
        ),
    ] {
        let line = source.lines().find(|line| line.contains(" FILE_NAME[]"));
        assert_eq!(line.and_then(|line| line.split('"').nth(1)), Some(name));
    }
}
