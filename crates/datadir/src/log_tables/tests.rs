//! Log tables in a directory.

use super::*;

#[test]
fn the_rows_are_emptied_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let mysql = dir.path().join("mysql");
    std::fs::create_dir(&mysql).unwrap();
    for (name, content) in [
        ("general_log.frm", "table"),
        ("general_log.CSV", "rows"),
        ("other.CSV", "kept"),
    ] {
        std::fs::write(mysql.join(name), content).unwrap();
    }
    let written = empty(dir.path()).unwrap();
    let names = ["general_log.CSV", "general_log.CSM"];
    assert_eq!(written, names.map(|name| mysql.join(name)));
    let read = |name: &str| std::fs::read(mysql.join(name)).unwrap();
    assert_eq!(read("general_log.CSV"), b"");
    assert_eq!(read("general_log.CSM"), EMPTY_META);
    assert_eq!(read("other.CSV"), b"kept");
    assert!(!mysql.join("slow_log.CSV").exists());
    assert!(is_rows("mysql/slow_log.CSM") && is_rows("mysql/general_log.CSV"));
    assert!(!is_rows("mysql/general_log.frm") && !is_rows("d/general_log.CSV"));
}
