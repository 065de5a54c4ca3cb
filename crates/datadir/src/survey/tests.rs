use super::{some, survey};

#[test]
fn what_is_no_data_directory_is_refused_with_all_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
    std::fs::write(dir.path().join("mysql_upgrade_info"), "10.6.4-MariaDB\0").unwrap();
    std::fs::write(dir.path().join("bin.000001"), b"\xfebin1234").unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/t.frm"), "garbage").unwrap();
    std::fs::write(dir.path().join("d/t.isl"), "/elsewhere/t.ibd").unwrap();
    let found = survey(dir.path(), false).unwrap();
    let subjects: Vec<&str> = found.refusals.iter().map(|r| r.subject.as_str()).collect();
    for subject in [
        "ib_logfile0",
        "ibdata1",
        "notes.txt",
        "mysql_upgrade_info",
        "d/t.frm",
        "`d`.`t`",
    ] {
        assert!(subjects.contains(&subject), "{subject} in {subjects:?}");
    }
    assert!(found.refusals.iter().all(|r| !r.hint.is_empty()));
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
    assert!(found.notes[0].contains("bin.000001"));
    let lenient = survey(dir.path(), true).unwrap();
    assert_eq!(lenient.refusals.len(), found.refusals.len() - 1);
    assert!(lenient.notes.iter().any(|n| n == "left out: notes.txt"));
}

#[test]
fn long_lists_are_cut() {
    let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(some(&names), "0, 1, 2, 3, 4, 5, 6, 7 and 12 more");
    assert_eq!(some(&names[..2]), "0, 1");
}
