//! The state directory: names, secrets, settings.

use super::kit::{entropy, project, state};
use crate::files;
use crate::process::Process;
use crate::project::{Accounts, Project};
use crate::role::{Role, RoleRecord};
use crate::state::{SOCKET_PATH_MAX, ServerRecord, StateDir, socket_path};
use std::os::unix::fs::PermissionsExt;
use xylem_types::BranchName;

#[test]
fn only_the_owner_enters() {
    let (_dir, state) = state();
    assert_eq!(files::mode_of(state.root()), Some(0o700));
}

#[test]
fn without_a_project_commands_say_what_to_do() {
    let (_dir, state) = state();
    let text = crate::failure::describe(&state.require_project().unwrap_err());
    assert!(
        text.contains("xylem up") && text.contains("--dir"),
        "{text}"
    );
    assert!(Project::load(&state).is_err());
}

#[test]
fn a_directory_that_cannot_be_looked_into_is_not_one_without_a_project() {
    let (_dir, state) = state();
    let file = state.root().join("file");
    std::fs::write(&file, "").unwrap();
    let state = StateDir::find(Some(&file)).unwrap();
    let text = crate::failure::describe(&state.require_project().unwrap_err());
    assert!(
        text.contains("cannot look into") && text.contains("--dir"),
        "{text}"
    );
}

#[test]
fn the_password_is_made_once_and_secret() {
    let (_dir, state) = state();
    assert_eq!(state.password().unwrap(), None);
    let password = state.make_password(&entropy()).unwrap();
    assert_eq!(password.len(), 32);
    assert!(password.bytes().all(|b| b.is_ascii_alphanumeric()));
    assert_eq!(state.make_password(&entropy()).unwrap(), password);
    assert_eq!(files::mode_of(&state.password_file()), Some(0o600));
}

#[test]
fn settings_come_back() {
    let (_dir, state) = state();
    let mut project = project();
    project.save(&state).unwrap();
    assert_eq!(Project::load(&state).unwrap(), project);
    project.settings.compute.bind = "0.0.0.0".parse().ok();
    project.ports.mysql_port = Some(3310);
    project.settings.compute.mariadbd_args = vec!["--a=\"b\"".to_owned()];
    project.accounts = Accounts::Local;
    project.accounts_of.insert("0a".to_owned(), Accounts::Any);
    project.half_made = true;
    project.save(&state).unwrap();
    assert_eq!(Project::load(&state).unwrap(), project);
    assert!(project.accounts < project.accounts_wanted());
}

#[test]
fn a_setting_of_another_version_is_not_lost_in_silence() {
    let (_dir, state) = state();
    let mut text = toml::to_string(&project()).unwrap();
    text.insert_str(0, "log_store = \"object\"\n");
    std::fs::write(state.project_file(), text).unwrap();
    let error = Project::load(&state).unwrap_err();
    let said = crate::failure::describe(&error);
    assert!(
        said.contains("unknown key \"log_store\"") && said.contains("hint:"),
        "{said}"
    );
}

#[test]
fn a_server_record_comes_back() {
    let (_dir, state) = state();
    assert_eq!(state.server_record(), None);
    let record = ServerRecord {
        process: Process {
            pid: 7,
            start_time: 8,
        },
        grpc: "127.0.0.1:8080".to_owned(),
        http: "127.0.0.1:8081".to_owned(),
        socket: Some("/s/server.sock".into()),
        authority: None,
        stopped: false,
        log_from: 9,
    };
    state.set_server_record(&record).unwrap();
    assert_eq!(state.server_record(), Some(record));
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(state.server_file()).unwrap()).unwrap();
    assert_eq!(json["pid"], 7);
    std::fs::write(state.server_file(), "{").unwrap();
    assert_eq!(state.server_record(), None);
}

#[test]
fn a_gateway_record_comes_back() {
    let (_dir, state) = state();
    assert_eq!(RoleRecord::load(&state, Role::Gateway), None);
    let record = RoleRecord {
        process: Process {
            pid: 7,
            start_time: 8,
        },
        listen: "[::1]:3306".parse().unwrap(),
        stopped: true,
        log_from: 9,
    };
    record.save(&state, Role::Gateway).unwrap();
    assert_eq!(RoleRecord::load(&state, Role::Gateway), Some(record));
    assert_eq!(files::mode_of(&state.role_file(Role::Gateway)), Some(0o600));
    std::fs::write(state.role_file(Role::Gateway), "{").unwrap();
    assert_eq!(RoleRecord::load(&state, Role::Gateway), None);
}

#[test]
fn a_short_path_keeps_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        socket_path(dir.path(), None, None).unwrap(),
        dir.path().join("mysql.sock")
    );
}

#[test]
fn a_long_path_gets_a_socket_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(SOCKET_PATH_MAX));
    let runtime = dir.path().join("run");
    std::fs::create_dir(&runtime).unwrap();
    let socket = socket_path(&long, Some(&runtime), None).unwrap();
    assert!(socket.starts_with(runtime.join("xylem")));
    assert!(socket.as_os_str().len() <= SOCKET_PATH_MAX);
    assert_eq!(files::mode_of(socket.parent().unwrap()), Some(0o700));
    assert_eq!(
        socket_path(&long, Some(&runtime), None).unwrap(),
        socket,
        "not the same the next time"
    );
    assert_ne!(
        socket_path(&long.join("y"), Some(&runtime), None).unwrap(),
        socket
    );
    let fallback = socket_path(&long, None, None).unwrap();
    assert!(fallback.starts_with("/tmp"));
}

#[test]
fn a_socket_directory_that_others_enter_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(SOCKET_PATH_MAX));
    let private = dir.path().join("xylem");
    std::fs::create_dir(&private).unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(socket_path(&long, Some(dir.path()), None).is_err());
}

#[test]
fn the_longest_path_that_fits_is_kept() {
    let base = "/".to_owned() + &"d".repeat(SOCKET_PATH_MAX - "/mysql.sock".len() - 1);
    let base = std::path::Path::new(&base);
    assert_eq!(
        socket_path(base, None, None).unwrap(),
        base.join("mysql.sock")
    );
}

#[test]
fn computes_lie_by_branch() {
    let (_dir, state) = state();
    let dir = state.compute(&BranchName::main().into());
    assert_eq!(dir.root(), state.root().join("computes/main"));
    assert_eq!(dir.data(), state.root().join("computes/main/data"));
}

#[test]
fn every_name_has_a_directory_of_its_own() {
    use crate::compute::name::ComputeName;
    let (_dir, state) = state();
    for (name, dir) in [
        ("feature/login", "feature+login"),
        ("feature/login@12", "feature+login@12"),
        ("feature-login", "feature-login"),
        ("a..b", "a..b"),
        ("a/b.c/d", "a+b.c+d"),
    ] {
        let name = ComputeName::parse(name).unwrap();
        assert_eq!(
            state.compute(&name).root(),
            state.root().join("computes").join(dir)
        );
        assert_eq!(ComputeName::from_file_name(dir), Some(name));
    }
    for file in [
        "", "..", "a+@1", "@1", "a@", "a@01", "a@1@2", "a@1+b", "a/b",
    ] {
        assert_eq!(ComputeName::from_file_name(file), None, "{file}");
    }
    // Names that a branch cannot have lead nowhere else.
    for name in ["..", "a/../b", "/a", "a/", "a//b", "a+b", "a/b@1/c"] {
        assert!(ComputeName::parse(name).is_err(), "{name}");
    }
}

#[test]
fn a_binary_log_outlives_computes() {
    use crate::cmd::up::check_binary_log;
    let (dir, state) = state();
    std::fs::create_dir_all(state.computes().join("main")).unwrap();
    let outside = dir.path().join("binlog");
    std::os::unix::fs::symlink(state.computes().join("main"), &outside).unwrap();
    let computes = state.computes();
    let computes = computes.to_str().unwrap();
    let refused = [
        "--log-bin=name".to_owned(),
        "--log_bin=./name".to_owned(),
        "--loose_log_bin=name".to_owned(),
        "--log-bin-index=name".to_owned(),
        format!("--log-bin={computes}/main/data/name"),
        format!("--log-bin={computes}/main/../main/name"),
        format!("--loose-log-bin={computes}/../computes/other/name"),
        format!("--log-bin-index={computes}/main/index"),
        format!("--log-bin={}/name", outside.display()),
    ];
    for arg in refused {
        let error = check_binary_log(std::slice::from_ref(&arg), &state).expect_err(&arg);
        assert_eq!(crate::failure::exit_status(&error), 2, "{arg}");
    }
    let taken = [
        format!("--log-bin={}/other/name", dir.path().display()),
        format!("--log-bin={}/binlog/name", state.root().display()),
        "--log-bin".to_owned(),
        "--log_bin=binlog".to_owned(),
        "--log-bin-trust-function-creators=1".to_owned(),
        "--skip-log-bin".to_owned(),
        "--max-connections=7".to_owned(),
    ];
    check_binary_log(&taken, &state).unwrap();
}
