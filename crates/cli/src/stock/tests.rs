use super::*;
use std::os::unix::fs::PermissionsExt;

/// An installation whose MariaDB only complains.
fn complaining(dir: &Path) -> Home {
    let home = Home::at(dir.join("home"));
    let program = home.mariadbd();
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    std::fs::write(
        &program,
        "#!/bin/sh\necho '[ERROR] no such table' >&2\nexit 1\n",
    )
    .unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    home
}

#[tokio::test]
async fn the_log_that_an_error_names_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let home = complaining(dir.path());
    let keep_log = dir.path().join("export.log");
    let work = tempfile::tempdir().unwrap();
    let stock = Stock {
        home: &home,
        data: dir.path(),
        work: work.path(),
        keep_log: &keep_log,
        page_size: 16_384,
        undo_tablespaces: 3,
        force_recovery: 0,
        fast_shutdown: 1,
        roll_back_prepared: false,
    };
    let error = stock.run("starting it", "SELECT 1;\n").await.unwrap_err();
    drop(work);
    let text = crate::failure::describe(&error);
    assert!(text.contains("[ERROR] no such table"), "{text}");
    assert!(text.contains(&*keep_log.to_string_lossy()), "{text}");
    let log = std::fs::read_to_string(&keep_log).unwrap();
    assert_eq!(log, "[ERROR] no such table\n");
    assert_eq!(files::mode_of(&keep_log), Some(0o600));
}
