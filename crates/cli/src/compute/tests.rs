//! Options, scripts and data directories of computes.

use super::base::Materialise;
use super::bootstrap::{accounts_sql, if_possible, in_innodb, own_account_sql};
use super::mycnf::{Options, PageServer, Tls, reaches, render, render_client};
use super::{decoy, reader, ready};
use crate::account::User;
use crate::project::Accounts;
use crate::tests::kit::{me, project};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use xylem_proto::control::base_item::Item;
use xylem_proto::control::{BaseItem, Directory, FilePage, RedoLogFile, SideFile, Tablespace};

fn options() -> Options<'static> {
    Options {
        basedir: "/h/mariadb/usr".into(),
        share: "/h/mariadb/usr/share/mysql".into(),
        plugin_dir: "/h/lib/plugin".into(),
        datadir: "/s/computes/main/data".into(),
        tmpdir: "/s/computes/main/tmp".into(),
        sql_files: "/s/computes/main/files".into(),
        socket: "/s/computes/main/run/mysql.sock".into(),
        pid_file: "/s/computes/main/run/mariadbd.pid".into(),
        log_error: "/s/computes/main/mariadbd.log".into(),
        bind: "127.0.0.1".parse().unwrap(),
        port: 3306,
        as_root: false,
        certificate: None,
        client_authorities: "/s/client-ca".into(),
        buffer_pool: "256M",
        page_cache: "1G",
        page_cache_file: "/s/computes/main/cache/pages".into(),
        page_size: None,
        undo_tablespaces: None,
        log_file_bytes: Some(4096 * 1024),
        includes: Vec::new(),
        page_server: PageServer {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            socket: Some("/s/server.sock".into()),
            branch: "main",
            epoch: 3,
            start_lsn: 54321,
            token_file: None,
            tls: None,
        },
        bootstrap: false,
        read_only: false,
        has_parent: false,
        binary_log: false,
    }
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|l| l == line)
}

#[test]
fn options_are_all_there() {
    let text = render(&options()).unwrap();
    for line in [
        "basedir = \"/h/mariadb/usr\"",
        "lc-messages-dir = \"/h/mariadb/usr/share/mysql\"",
        "character-sets-dir = \"/h/mariadb/usr/share/mysql/charsets\"",
        "plugin-dir = \"/h/lib/plugin\"",
        "datadir = \"/s/computes/main/data\"",
        "tmpdir = \"/s/computes/main/tmp\"",
        "secure-file-priv = \"/s/computes/main/files\"",
        "socket = \"/s/computes/main/run/mysql.sock\"",
        "port = \"3306\"",
        "bind-address = \"127.0.0.1\"",
        "ignore-builtin-innodb",
        "plugin-load-add = \"ha_innodb.so\"",
        "plugin-maturity = \"unknown\"",
        "enforce-storage-engine = \"InnoDB\"",
        "skip-name-resolve",
        "skip-log-bin",
        "innodb-log-file-size = \"4194304\"",
        "innodb-doublewrite = \"OFF\"",
        "innodb-change-buffering = \"none\"",
        "innodb-buffer-pool-size = \"256M\"",
        "innodb-page-server-cache-size = \"1G\"",
        "innodb-page-server-cache-file = \"/s/computes/main/cache/pages\"",
        "innodb-page-server-enabled = \"ON\"",
        "innodb-page-server-address = \"127.0.0.1\"",
        "innodb-page-server-port = \"8080\"",
        "innodb-page-server-socket = \"/s/server.sock\"",
        "innodb-page-server-branch = \"main\"",
        "innodb-page-server-epoch = \"3\"",
        "innodb-page-server-start-lsn = \"54321\"",
    ] {
        assert!(has(&text, line), "{line} is missing in\n{text}");
    }
    assert!(has(&text, "relay-log-recovery"));
    assert!(!text.contains("token-file") && !text.contains("tls"));
    assert!(!text.contains("read-only"));
    assert!(!text.contains("skip-slave-start") && !text.contains("server-id"));
    assert!(!has(&text, "user = \"root\""));
}

#[test]
fn options_that_vary() {
    let mut options = options();
    options.as_root = true;
    options.bootstrap = true;
    options.read_only = true;
    options.log_file_bytes = None;
    options.page_server.token_file = Some("/s/token".into());
    options.page_server.tls = Some(Tls {
        authority: "/s/ca.pem".into(),
        identity: Some("/s/client.pem".into()),
    });
    options.certificate = Some("/s/compute.pem".into());
    options.includes = vec!["/s/custom.cnf".into()];
    let text = render(&options).unwrap();
    // One's own certificate comes after it, and wins.
    let (before, _) = text.split_once("!include /s/custom.cnf").unwrap();
    assert!(has(before, "ssl-cert = \"/s/compute.pem\""));
    assert!(has(before, "ssl-capath = \"/s/client-ca\""));
    assert!(!before.contains("ssl-key"));
    assert!(has(&text, "user = \"root\""));
    assert!(has(&text, "innodb-page-server-token-file = \"/s/token\""));
    assert!(has(&text, "innodb-page-server-tls-ca = \"/s/ca.pem\""));
    assert!(has(
        &text,
        "innodb-page-server-tls-cert = \"/s/client.pem\""
    ));
    for line in [
        "read-only = \"ON\"",
        "event-scheduler = \"OFF\"",
        "skip-slave-start",
    ] {
        assert!(has(&text, line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("enforce-storage-engine"));
    assert!(!text.contains("innodb-log-file-size"));
}

#[test]
fn a_branch_does_not_go_on_with_the_replication_of_another() {
    let mut options = options();
    options.has_parent = true;
    let id_of = |options: &Options<'_>| {
        let text = render(options).unwrap();
        assert!(has(&text, "skip-slave-start"));
        let ids: Vec<_> = text
            .lines()
            .filter(|l| l.starts_with("server-id"))
            .collect();
        assert_eq!(ids.len(), 1);
        ids[0].to_owned()
    };
    let one = id_of(&options);
    assert_eq!(one, id_of(&options));
    options.page_server.branch = "id:other";
    assert_ne!(one, id_of(&options));
}

#[test]
fn what_people_wrote_cannot_unhinge_a_compute() {
    let mut options = options();
    options.includes = vec![
        "/s/mariadb.cnf".into(),
        "/s/computes/main/custom.cnf".into(),
    ];
    let text = render(&options).unwrap();
    let at = |needle: &str| {
        text.find(needle)
            .unwrap_or_else(|| panic!("{needle} is missing"))
    };
    assert!(at("innodb-buffer-pool-size") < at("!include /s/mariadb.cnf"));
    assert!(at("!include /s/mariadb.cnf") < at("!include /s/computes/main/custom.cnf"));
    let rest = &text[at("custom.cnf\n")..];
    for last in [
        "[mariadbd]",
        "datadir",
        "innodb-page-server-epoch",
        "innodb-doublewrite",
    ] {
        assert!(rest.contains(last), "{last} can be overridden");
    }
}

#[test]
fn odd_paths_are_quoted_or_refused() {
    let mut options = options();
    options.datadir = "/a b/#1/\"q\"\\x".into();
    assert!(has(
        &render(&options).unwrap(),
        r#"datadir = "/a b/#1/\"q\"\\x""#
    ));
    options.datadir = "/a\nskip-grant-tables".into();
    assert!(render(&options).is_err());
}

#[test]
fn clients_get_the_password_from_a_file() {
    let text = render_client("root", Path::new("/s/mysql.sock"), 3307, "pa#ss").unwrap();
    assert!(text.contains("[client]"));
    assert!(has(&text, "password = \"pa#ss\""));
    assert!(has(&text, "socket = \"/s/mysql.sock\""));
    assert!(has(&text, "port = \"3307\""));
}

#[test]
fn aria_tables_become_innodb() {
    let before = "CREATE TABLE a (x int) engine=Aria transactional=1 CHARACTER SET utf8mb3;\n\
        create table b (y int) ENGINE = Aria;\n\
        set default_storage_engine=Aria;\n\
        SET @innodb_or_aria=IF(@have_innodb <> 0, 'InnoDB', 'Aria');\n";
    let after = in_innodb(before);
    assert_eq!(
        after,
        "CREATE TABLE a (x int) engine=InnoDB STATS_PERSISTENT=0  CHARACTER SET utf8mb3;\n\
        create table b (y int) ENGINE=InnoDB STATS_PERSISTENT=0;\n\
        set default_storage_engine=InnoDB;\n\
        SET @innodb_or_aria=IF(@have_innodb <> 0, 'InnoDB', 'Aria');\n"
    );
}

#[test]
fn foreign_keys_of_the_help_tables_go() {
    let before = "CREATE TABLE help_relation ( help_topic_id int not null references help_topic, \
        k int not null references help_keyword, References_priv enum('N','Y'))";
    assert_eq!(
        in_innodb(before),
        "CREATE TABLE help_relation ( help_topic_id int not null, k int not null, References_priv enum('N','Y'))"
    );
}

#[test]
fn other_engines_stay() {
    for text in [
        "CREATE TABLE l (x int) engine=CSV CHARACTER SET utf8mb3",
        "select count(engine) from engines where engine='INNODB'",
        "SELECT support FROM engines WHERE engine = 'CSV'",
        "where engine != 'PERFORMANCE_SCHEMA'",
        ") ENGINE=INNODB STATS_PERSISTENT=0",
        "engine",
        "engine=",
        "naïve ünïcode engine",
        "",
    ] {
        assert_eq!(in_innodb(text), text);
    }
}

#[test]
fn root_gets_its_password_where_it_may_log_in() {
    let local = accounts_sql("root", "secret", Accounts::Local);
    for host in ["localhost", "127.0.0.1", "::1"] {
        assert!(
            local.contains(&format!("USER 'root'@'{host}' IDENTIFIED BY 'secret';")),
            "{local}"
        );
    }
    // Only where nobody has set one.
    assert!(local.starts_with("BEGIN NOT ATOMIC IF EXISTS"));
    assert!(local.contains("='invalid'"));
    // From elsewhere only while computes listen to it, and if it is ours still.
    assert!(!local.contains("USER 'root'@'%' IDENTIFIED"));
    assert!(local.contains("=PASSWORD('secret')) THEN DROP USER 'root'@'%';"));
    let any = accounts_sql("root", "secret", Accounts::Any);
    assert!(any.contains("USER 'root'@'%' IDENTIFIED BY 'secret';"));
    assert!(!any.contains("DROP USER"));
    assert!(accounts_sql("root", "it's", Accounts::Local).contains(r"'it\'s'"));
    // One statement a line: the init file is read so.
    assert!(local.lines().all(|line| line.ends_with("END;")));
}

#[test]
fn xylem_s_own_account_is_seen_to_in_one_line() {
    let sql = own_account_sql("it's");
    assert_eq!(sql.lines().count(), 1);
    assert!(sql.starts_with("BEGIN NOT ATOMIC IF NOT EXISTS") && sql.ends_with("END;\n"));
    assert!(sql.contains(r"PASSWORD('it\'s')"));
    assert!(!sql.contains("'root'"), "{sql}");
}

#[test]
fn a_statement_that_may_fail_is_one_line() {
    let sql = if_possible("SET GLOBAL a = 'x\ny'");
    assert_eq!(sql.lines().count(), 1);
    assert!(
        sql.contains(
            "EXECUTE IMMEDIATE _utf8mb4 X'53455420474c4f42414c2061203d2027780a7927'; END;"
        )
    );
}

#[test]
fn the_log_of_a_running_compute_says_that_it_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ib_logfile0");
    let before = xylem_redo::log_file(xylem_types::Lsn(54_321), 1 << 20);
    std::fs::write(&path, &before).unwrap();
    decoy::put(dir.path()).unwrap();
    let after = std::fs::read(&path).unwrap();
    assert_eq!(after[512..], before[512..]);
    assert_eq!(&after[..4], b"Xyle");
    assert_eq!(&after[16..48], b"Xylem; back up by `xylem export`");
    // Else it would be called damaged, rather than what it is.
    assert_eq!(after[508..512], crc32c::crc32c(&after[..508]).to_be_bytes());
    assert!(xylem_redo::read_log_file_header(&after).is_err());

    // A link leads nowhere.
    let elsewhere = dir.path().join("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(decoy::put(dir.path()).is_err());
    std::fs::remove_file(&path).unwrap();
    std::fs::hard_link(&elsewhere, &path).unwrap();
    assert!(decoy::put(dir.path()).is_err());
}

#[test]
fn a_reader_s_init_file_has_one_statement_a_line() {
    let lines: Vec<&str> = reader::INIT_SQL.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("BEGIN NOT ATOMIC") && lines[0].ends_with("END;"));
    assert!(lines[1].starts_with("UPDATE mysql.global_priv") && lines[1].ends_with(';'));
}

#[test]
fn a_binary_log_and_a_server_s_id_are_one_compute_s() {
    let mut project = project();
    project.settings.compute.mariadbd_args = [
        "--max-connections=9",
        "--log-bin=/b/n",
        "--log_bin_index=/b/i",
        "--server_id=7",
        "--gtid-domain-id=7",
    ]
    .map(str::to_owned)
    .to_vec();
    assert_eq!(project.mariadbd_args_of(true).count(), 5);
    let others: Vec<_> = project.mariadbd_args_of(false).collect();
    assert_eq!(others, ["--max-connections=9"]);
    assert!(!project.has_binary_log());
}

#[test]
fn each_branch_may_have_a_binary_log_of_its_own() {
    for arg in ["--log-bin", "--log_bin=binlog", "--loose-log-bin="] {
        let mut project = project();
        project.settings.compute.mariadbd_args = vec![arg.to_owned(), "--port=1".to_owned()];
        assert!(project.has_binary_log(), "{arg}");
        for main in [true, false] {
            let args: Vec<_> = project.mariadbd_args_of(main).collect();
            assert_eq!(args, ["--port=1"], "{arg}");
        }
    }
}

#[test]
fn a_binary_log_brings_an_identity() {
    let mut options = options();
    options.binary_log = true;
    let text = render(&options).unwrap();
    let value = |name: &str| {
        let found = text.lines().rfind(|line| line.starts_with(name));
        found.map(|line| line.split_once('"').unwrap().1.to_owned())
    };
    assert_eq!(value("log-bin").unwrap(), "binlog\"");
    assert_eq!(value("sync-binlog").unwrap(), "1\"");
    assert_eq!(value("max-binlog-size").unwrap(), "128M\"");
    assert_eq!(value("server-id"), value("gtid-domain-id"));
    assert!(value("server-id").is_some());
    assert!(text.find("skip-log-bin") < text.find("log-bin = "));
}

#[test]
fn files_of_the_binary_log_keep_their_times() {
    let dir = tempfile::tempdir().unwrap();
    let mut base = Materialise::new(dir.path(), None);
    let events =
        |seconds: u32| [&b"\xfebin"[..], &seconds.to_le_bytes(), b"rest of a header"].concat();
    for (name, data) in [
        ("binlog.000009", events(1000)),
        ("binlog.000010", events(2000)),
        ("binlog.1000000", events(3000)),
        ("binlog.000011", Vec::new()),
        ("binlog.index", events(4000)),
    ] {
        let file = SideFile {
            path: name.to_owned(),
            mode: 0o660,
            size: data.len() as u64,
            data: data.into(),
            offset: 0,
        };
        base.take(item(Item::File(file))).unwrap();
    }
    base.finish().unwrap();
    let changed = |name: &str| {
        let modified = std::fs::metadata(dir.path().join(name)).unwrap().modified();
        let since = modified.unwrap().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_secs()
    };
    assert_eq!(changed("binlog.000009"), 2000);
    assert_eq!(changed("binlog.000010"), 3000);
    for now in ["binlog.1000000", "binlog.000011", "binlog.index"] {
        assert!(changed(now) > 1_000_000_000, "{now}");
    }
}

#[test]
fn accounts_are_made_on_each_branch() {
    let mut project = project();
    assert_eq!(project.accounts_on("a"), Accounts::None);
    project.accounts_of.insert("a".to_owned(), Accounts::Local);
    assert_eq!(project.accounts_on("a"), Accounts::Local);
    assert_eq!(project.accounts_on("b"), Accounts::None);
    // What the project began with counts where a branch says nothing; it may
    // have been narrowed since.
    project.accounts = Accounts::Any;
    assert_eq!(project.accounts_on("a"), Accounts::Local);
    assert_eq!(project.accounts_on("b"), Accounts::Any);
}

fn item(item: Item) -> BaseItem {
    BaseItem { item: Some(item) }
}

fn side_file(path: &str) -> BaseItem {
    item(Item::File(SideFile {
        path: path.to_owned(),
        mode: 0o640,
        data: b"frm".as_slice().into(),
        ..SideFile::default()
    }))
}

#[test]
fn a_large_side_file_comes_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let mut base = Materialise::new(dir.path(), None);
    let piece = |offset: u64, data: &[u8]| {
        item(Item::File(SideFile {
            path: "db/t.par".to_owned(),
            mode: 0o640,
            data: data.to_vec().into(),
            offset,
            size: 9,
        }))
    };
    for (offset, data) in [(0, b"abcd"), (4, b"efgh")] {
        base.take(piece(offset, data)).unwrap();
    }
    base.take(piece(8, b"i")).unwrap();
    let written = std::fs::read(dir.path().join("db/t.par")).unwrap();
    assert_eq!(written, b"abcdefghi");
    assert!(
        Materialise::new(&dir.path().join("x"), None)
            .take(piece(4, b"efgh"))
            .is_err()
    );
}

#[test]
fn a_base_backup_becomes_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut base = Materialise::new(dir.path(), None);
    let page = FilePage {
        offset: 16384,
        data: vec![7; 16384].into(),
    };
    let items = [
        item(Item::Directory(Directory {
            path: "db".to_owned(),
            mode: 0o700,
        })),
        side_file("db/t.frm"),
        side_file("not/announced/t.frm"),
        side_file("mysql/slow_log.frm"),
        item(Item::Tablespace(Tablespace {
            path: "./ibdata1".to_owned(),
            size: 1 << 30,
            pages: vec![page],
            ..Tablespace::default()
        })),
        item(Item::RedoLog(RedoLogFile {
            data: vec![1; 512].into(),
            size: 64 << 20,
        })),
    ];
    for item in items {
        base.take(item).unwrap();
    }
    assert_eq!(base.finish().unwrap(), Some(64 << 20));
    assert_eq!(std::fs::read(dir.path().join("db/t.frm")).unwrap(), b"frm");
    assert!(dir.path().join("not/announced/t.frm").exists());
    assert!(dir.path().join("mysql/slow_log.CSV").exists());
    let space = std::fs::metadata(dir.path().join("ibdata1")).unwrap();
    assert_eq!(space.len(), 1 << 30);
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&space) * 512 < 1 << 20,
        "it is not sparse"
    );
    let log = std::fs::read(dir.path().join("ib_logfile0")).unwrap();
    assert_eq!((log.len(), log[511], log[512]), (64 << 20, 1, 0));
}

#[test]
fn a_start_takes_over_the_files_that_it_would_make_again() {
    let dir = tempfile::tempdir().unwrap();
    let (old, data) = (dir.path().join("old"), dir.path().join("data"));
    let space = |path: &str, byte: u8| {
        item(Item::Tablespace(Tablespace {
            path: path.to_owned(),
            size: 1 << 20,
            pages: vec![FilePage {
                offset: 16384,
                data: vec![byte; 16384].into(),
            }],
            ..Tablespace::default()
        }))
    };
    std::fs::create_dir(&old).unwrap();
    let mut base = Materialise::new(&old, None);
    for item in [
        side_file("db/t.frm"),
        space("ibdata1", 1),
        space("db/t.ibd", 1),
    ] {
        base.take(item).unwrap();
    }
    std::fs::write(old.join("db/stranger.frm"), "frm").unwrap();
    std::fs::create_dir(&data).unwrap();
    let mut base = Materialise::new(&data, None).reuse(&old);
    for item in [
        side_file("db/t.frm"),
        space("ibdata1", 1),
        space("db/t.ibd", 2),
    ] {
        base.take(item).unwrap();
    }
    let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
    let is_same = |path: &str| inode(old.join(path)) == inode(data.join(path));
    assert!(is_same("db/t.frm") && is_same("ibdata1") && !is_same("db/t.ibd"));
    assert_eq!(std::fs::read(data.join("db/t.ibd")).unwrap()[16384], 2);
    assert!(!data.join("db/stranger.frm").exists());
}

#[test]
fn what_a_base_backup_becomes_is_the_accounts() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let owner = User {
        name: "nobody".to_owned(),
        uid: 65_534,
        gid: 65_533,
    };
    let dir = tempfile::tempdir().unwrap();
    let mut base = Materialise::new(dir.path(), Some(&owner));
    for path in ["a/b/t.frm", "mysql/general_log.frm"] {
        base.take(side_file(path)).unwrap();
    }
    base.finish().unwrap();
    for path in [
        "a",
        "a/b",
        "a/b/t.frm",
        "mysql/general_log.frm",
        "mysql/general_log.CSV",
        "mysql/general_log.CSM",
    ] {
        let meta = std::fs::symlink_metadata(dir.path().join(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (65_534, 65_533), "{path}");
    }
    // What a compute may change, and nobody but root may give away.
    let meta = std::fs::symlink_metadata(dir.path()).unwrap();
    assert_eq!(meta.uid(), 0);
}

#[test]
fn files_outside_the_data_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let mut base = Materialise::new(&data, None);
    for path in ["../x", "/tmp/x", "a/../../x", ""] {
        assert!(base.take(side_file(path)).is_err(), "{path:?} was written");
    }
    assert!(base.take(BaseItem { item: None }).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

fn greeter(greeting: &'static [u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(greeting);
        }
    });
    (dir, path)
}

#[test]
fn only_a_greeting_says_ready() {
    let (_a, greets) = greeter(b"\x5a\x00\x00\x00\x0a10.11.18-MariaDB");
    assert!(ready::probe(&greets));
    let (_b, refuses) = greeter(b"\x20\x00\x00\x00\xff\x10\x04Too many");
    assert!(ready::probe(&refuses));
    let (_c, speaks_otherwise) = greeter(b"HTTP/1.1 400 Bad Request");
    assert!(!ready::probe(&speaks_otherwise));
    let (_d, hangs_up) = greeter(b"");
    assert!(!ready::probe(&hangs_up));
    assert!(!ready::probe(Path::new("/nowhere")));
}

#[tokio::test]
async fn a_process_that_dies_is_noticed_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    std::fs::write(&log, "[Note] begins\n[ERROR] no such option\n").unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let process = crate::process::Process::find(child.id()).unwrap();
    child.wait().unwrap();
    let error = ready::wait(process, &dir.path().join("s"), &log, 0)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("[ERROR] no such option"),
        "{error}"
    );
}

#[tokio::test]
async fn waiting_ends_with_the_greeting() {
    let (_dir, socket) = greeter(b"\x5a\x00\x00\x00\x0a10.11.18-MariaDB");
    ready::wait(me(), &socket, Path::new("/nowhere"), 0)
        .await
        .unwrap();
}

#[test]
fn a_compute_that_cannot_reach_a_server_with_tls_is_told_from_one_that_can() {
    let socket = Some(Path::new("/s/server.sock"));
    let here: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    let elsewhere: SocketAddr = "10.0.0.5:8080".parse().unwrap();
    let mut options = options();
    let text = render(&options).unwrap();
    // The socket needs neither TLS nor the address.
    assert!(reaches(&text, socket, elsewhere));
    assert!(!reaches(&text, Some(Path::new("/v/server.sock")), here));
    assert!(!reaches(&text, None, here));
    options.page_server.tls = Some(Tls {
        authority: "/s/ca.pem".into(),
        identity: None,
    });
    let text = render(&options).unwrap();
    assert!(reaches(&text, None, here));
    assert!(!reaches(&text, None, elsewhere));
}
