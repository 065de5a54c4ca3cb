//! Tables of engines other than InnoDB, and MariaDB's own tables, which are in InnoDB here.
//! No statement and no setting creates rows that are lost with a compute, and stock
//! MariaDB's operations on such tables work.

use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use std::process::Command;
use std::time::Duration;
use xylem_e2e::{Project, wait_until};

/// Each statement creates a table in the database `d` with one row, in a way that may
/// bypass an enforced engine.
const WAYS: &[&str] = &[
    "CREATE TABLE plain (a INT) ENGINE=MyISAM; INSERT INTO plain VALUES (1)",
    "SET SESSION enforce_storage_engine=NULL; CREATE TABLE session (a INT) ENGINE=Aria; \
     INSERT INTO session VALUES (1)",
    "SET STATEMENT enforce_storage_engine=NULL, sql_mode='NO_ENGINE_SUBSTITUTION' FOR \
     CREATE TABLE statement (a INT) ENGINE=Aria; INSERT INTO statement VALUES (1)",
    "SET STATEMENT default_storage_engine=MyISAM, enforce_storage_engine=NULL FOR \
     CREATE TABLE fallback (a INT); INSERT INTO fallback VALUES (1)",
    "SET sql_mode='TRADITIONAL'; CREATE TABLE archive (a INT) ENGINE=ARCHIVE; \
     INSERT INTO archive VALUES (1)",
    "CREATE TABLE memory (a INT, KEY USING HASH (a)) ENGINE=MEMORY; INSERT INTO memory VALUES (1)",
    "CREATE TABLE csv (a INT NOT NULL) ENGINE=CSV; INSERT INTO csv VALUES (1)",
    "CREATE TABLE formats (a INT) ENGINE=MyISAM ROW_FORMAT=FIXED KEY_BLOCK_SIZE=1 PACK_KEYS=1 \
     CHECKSUM=1 DELAY_KEY_WRITE=1; INSERT INTO formats VALUES (1)",
    "CREATE TABLE crash_safe (a INT) ENGINE=Aria TRANSACTIONAL=1 ROW_FORMAT=PAGE PAGE_CHECKSUM=1; \
     INSERT INTO crash_safe VALUES (1)",
    "SET enforce_storage_engine=NULL; CREATE TABLE selected ENGINE=MyISAM SELECT 1 AS a",
    "CREATE TEMPORARY TABLE model (a INT) ENGINE=MyISAM; SET enforce_storage_engine=NULL; \
     CREATE TABLE alike LIKE model; INSERT INTO alike VALUES (1)",
    "SET enforce_storage_engine=NULL; CREATE TABLE pieces (a INT) ENGINE=MyISAM \
     PARTITION BY HASH (a) (PARTITION p0 ENGINE = MyISAM, PARTITION p1 ENGINE = MyISAM); \
     INSERT INTO pieces VALUES (1)",
    "SET enforce_storage_engine=NULL; CREATE TABLE only_pieces (a INT) \
     PARTITION BY HASH (a) (PARTITION p0 ENGINE = Aria, PARTITION p1 ENGINE = Aria); \
     INSERT INTO only_pieces VALUES (1)",
    "SET enforce_storage_engine=NULL; PREPARE s FROM 'CREATE TABLE prepared (a INT) ENGINE=Aria'; \
     EXECUTE s; DROP TABLE prepared; EXECUTE s; INSERT INTO prepared VALUES (1)",
    "SET enforce_storage_engine=NULL; EXECUTE IMMEDIATE 'CREATE TABLE immediate (a INT) ENGINE=MyISAM'; \
     INSERT INTO immediate VALUES (1)",
    "SET enforce_storage_engine=NULL, sql_mode='NO_ENGINE_SUBSTITUTION'; \
     CREATE PROCEDURE make () CREATE TABLE routine (a INT) ENGINE=Aria; CALL make(); \
     DROP TABLE routine; CALL make(); INSERT INTO routine VALUES (1)",
    "CREATE TABLE altered (a INT); INSERT INTO altered VALUES (1); \
     SET SESSION enforce_storage_engine=NULL; ALTER TABLE altered ENGINE=Aria",
    "CREATE TABLE moved (a INT); INSERT INTO moved VALUES (1); \
     SET SESSION enforce_storage_engine=NULL; ALTER TABLE moved ENGINE=MEMORY, ADD COLUMN b INT",
    "CREATE TABLE frozen (a INT); INSERT INTO frozen VALUES (1); \
     SET SESSION enforce_storage_engine=NULL, sql_mode='NO_ENGINE_SUBSTITUTION'; \
     ALTER TABLE frozen ENGINE=ARCHIVE",
    "CREATE TABLE dumped (a INT); /*!40101 SET SQL_MODE='NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION' */; \
     DROP TABLE dumped; /*!40101 SET @saved_cs_client = @@character_set_client */; \
     CREATE TABLE `dumped` (`a` int(11) DEFAULT NULL) ENGINE=MyISAM DEFAULT CHARSET=utf8mb4; \
     LOCK TABLES `dumped` WRITE; /*!40000 ALTER TABLE `dumped` DISABLE KEYS */; \
     INSERT INTO `dumped` VALUES (1); /*!40000 ALTER TABLE `dumped` ENABLE KEYS */; UNLOCK TABLES; \
     REPAIR TABLE dumped; OPTIMIZE TABLE dumped",
];

#[test]
fn rows_are_in_innodb_whatever_the_session_says() -> Result<()> {
    let project = Project::up("32MiB")?;
    project.sql("CREATE DATABASE d")?;
    for way in WAYS {
        project
            .sql(&format!("USE d; {way}"))
            .with_context(|| (*way).to_owned())?;
    }
    project.sql("USE d; SET enforce_storage_engine=NULL; CREATE SEQUENCE s ENGINE=MyISAM")?;

    // A warning; the session's setting does not change.
    let said = project.sql(
        "USE d; SET sql_mode='NO_ENGINE_SUBSTITUTION'; CREATE TABLE said (a INT) ENGINE=MyISAM; \
         SHOW WARNINGS; SELECT @@sql_mode; INSERT INTO said VALUES (1)",
    )?;
    assert_eq!(
        said,
        "Warning\t1266\tUsing storage engine InnoDB for table 'said'\nNO_ENGINE_SUBSTITUTION\n"
    );
    // An unknown engine is refused as in stock MariaDB.
    let unknown = project.sql_error(
        "SET sql_mode='NO_ENGINE_SUBSTITUTION'; CREATE TABLE d.unknown (a INT) ENGINE=Nonsense",
    )?;
    assert!(unknown.contains("ERROR 1286"), "{unknown}");

    let engines = project.sql(
        "SELECT table_name, engine FROM information_schema.tables \
         WHERE table_schema = 'd' AND engine <> 'InnoDB'",
    )?;
    assert_eq!(engines, "");
    let tables = project.checksums("d")?.len();
    assert_eq!(tables, WAYS.len() + 1);

    project.lose_compute()?;
    project.start()?;
    let count =
        |table: &str| -> Result<String> { project.sql(&format!("SELECT COUNT(*) FROM {table}")) };
    for table in project.checksums("d")?.keys() {
        assert_eq!(count(table)?, "1\n", "{table}");
    }
    assert_eq!(project.sql("SELECT NEXT VALUE FOR d.s")?, "1\n");
    Ok(())
}

#[test]
fn what_loses_no_rows_works_as_asked_for() -> Result<()> {
    let project = Project::up("32MiB")?;
    project.sql("CREATE DATABASE d")?;
    // Temporary tables may have any engine, even if the session allows only one.
    for engine in ["MEMORY", "MyISAM", "Aria", "InnoDB", "CSV"] {
        let shown = project.sql(&format!(
            "USE d; SET sql_mode='NO_ENGINE_SUBSTITUTION'; \
             CREATE TEMPORARY TABLE t (a INT NOT NULL) ENGINE={engine}; \
             INSERT INTO t VALUES (1), (2); SELECT SUM(a) FROM t; SHOW CREATE TABLE t"
        ))?;
        assert!(
            shown.starts_with("3\n") && shown.contains(&format!("ENGINE={engine}")),
            "{engine}: {shown}"
        );
    }
    let changed = project.sql(
        "USE d; CREATE TEMPORARY TABLE t (a INT); INSERT INTO t VALUES (1); \
         ALTER TABLE t ENGINE=MyISAM; SELECT a FROM t; SHOW CREATE TABLE t",
    )?;
    assert!(
        changed.starts_with("1\n") && changed.contains("ENGINE=MyISAM"),
        "{changed}"
    );

    // Engines whose tables hold no rows of their own.
    project.sql("INSTALL SONAME 'ha_blackhole'; INSTALL SONAME 'ha_federatedx'")?;
    let compute = project.compute()?;
    let password =
        std::fs::read_to_string(compute["password_file"].as_str().context("password_file")?)?;
    let link = format!(
        "mysql://root:{}@127.0.0.1:{}/d/source",
        password.trim(),
        compute["port"]
    );
    project.sql(&format!(
        "USE d; CREATE TABLE source (a INT PRIMARY KEY); INSERT INTO source VALUES (7); \
         SET sql_mode='NO_ENGINE_SUBSTITUTION'; \
         CREATE TABLE nothing (a INT) ENGINE=BLACKHOLE; INSERT INTO nothing VALUES (1); \
         CREATE TABLE nothing_too LIKE nothing; \
         CREATE TABLE afar (a INT PRIMARY KEY) ENGINE=FEDERATED CONNECTION='{link}'; \
         CREATE VIEW seen AS SELECT * FROM source; CREATE SEQUENCE numbers"
    ))?;
    let ask = || {
        project.sql(
            "USE d; SELECT COUNT(*) FROM nothing; SELECT COUNT(*) FROM nothing_too; \
             SELECT a FROM afar; SELECT a FROM seen; \
             SELECT table_name, engine FROM information_schema.tables WHERE table_schema = 'd' \
             AND table_name IN ('nothing', 'nothing_too', 'afar') ORDER BY 1",
        )
    };
    let wanted = "0\n0\n7\n7\nafar\tFEDERATED\nnothing\tBLACKHOLE\nnothing_too\tBLACKHOLE\n";
    assert_eq!(ask()?, wanted);
    project.lose_compute()?;
    project.xylem(&["compute", "start", "main"])?;
    let port = project.compute()?["port"].clone();
    ensure!(
        port == compute["port"],
        "the link names port {}",
        compute["port"]
    );
    assert_eq!(ask()?, wanted);

    // A table that InnoDB cannot hold is refused with the reason.
    let refused = project.sql_error(
        "USE d; SET enforce_storage_engine=NULL; \
         CREATE TABLE merged (a INT PRIMARY KEY) ENGINE=MERGE UNION=(source)",
    )?;
    assert!(
        refused.contains("cannot have engine MRG_MyISAM") && refused.contains("UNION ALL"),
        "{refused}"
    );
    Ok(())
}

/// Runs `mariadb-upgrade --force` on `main`.
fn upgrade(project: &Project) -> Result<String> {
    let login = project.login()?;
    let programs = project.home().join("mariadb/usr/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let out = Command::new(programs.join("mariadb-upgrade"))
        .args(["--no-defaults", "--force"])
        .arg(format!("--socket={}", login.socket.display()))
        .arg(format!("--user={}", login.user))
        .env("MYSQL_PWD", &login.password)
        .env("PATH", format!("{}:{path}", programs.display()))
        .env(
            "LD_LIBRARY_PATH",
            project.home().join("mariadb/usr/lib/x86_64-linux-gnu"),
        )
        .output()
        .context("cannot run mariadb-upgrade")?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    ensure!(
        out.status.success(),
        "mariadb-upgrade: {}\n{text}",
        out.status
    );
    Ok(text)
}

#[test]
fn an_upgrade_run_leaves_a_branch_that_starts() -> Result<()> {
    let project = Project::up("32MiB")?;
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1); \
         CREATE USER teller@localhost IDENTIFIED BY 'till'; GRANT SELECT ON d.* TO teller@localhost; \
         CREATE PROCEDURE d.p () SELECT 1",
    )?;
    let said = upgrade(&project)?;
    assert!(said.trim_end().ends_with("OK"), "{said}");
    let elsewhere = "SELECT table_name, engine FROM information_schema.tables \
         WHERE table_schema IN ('mysql', 'sys') AND table_type = 'BASE TABLE' \
         AND engine <> 'InnoDB' ORDER BY 1";
    assert_eq!(project.sql(elsewhere)?, "general_log\tCSV\nslow_log\tCSV\n");
    project.lose_compute()?;
    project.start()?;
    assert_eq!(
        project
            .sql("CALL d.p(); SELECT a FROM d.t; SHOW GRANTS FOR teller@localhost")?
            .lines()
            .count(),
        4
    );
    upgrade(&project)?;
    Ok(())
}

#[test]
fn log_tables_are_rotated() -> Result<()> {
    let project = Project::up("32MiB")?;
    project.sql(
        "SET GLOBAL log_output='TABLE', general_log=ON; SELECT 'before'; \
         SET sql_mode='NO_ENGINE_SUBSTITUTION'; \
         CREATE TABLE mysql.general_log2 LIKE mysql.general_log; \
         RENAME TABLE mysql.general_log TO mysql.general_log_backup, \
         mysql.general_log2 TO mysql.general_log; SELECT 'after'; SET GLOBAL general_log=OFF",
    )?;
    let logged = |table: &str, what: &str| -> Result<bool> {
        Ok(project
            .sql(&format!(
                "SELECT COUNT(*) > 0 FROM mysql.{table} WHERE argument LIKE 'SELECT ''{what}''%'"
            ))?
            .starts_with('1'))
    };
    assert!(logged("general_log_backup", "before")?);
    assert!(logged("general_log", "after")?);
    assert!(!logged("general_log", "before")?);
    project.lose_compute()?;
    project.start()?;
    project.sql(
        "SET GLOBAL log_output='TABLE', general_log=ON; SELECT 'again'; SET GLOBAL general_log=OFF",
    )?;
    assert!(logged("general_log", "again")?);
    Ok(())
}

/// A connection to `main` that stays open.
fn connect(project: &Project) -> Result<mysql::Conn> {
    let login = project.login()?;
    Ok(mysql::Conn::new(
        mysql::OptsBuilder::new()
            .socket(login.socket.to_str())
            .user(Some(login.user))
            .pass(Some(login.password)),
    )?)
}

/// Statements on accounts and routines, which must work concurrently.
const ADMINISTRATION: &[&str] = &[
    "CREATE USER a@localhost IDENTIFIED BY 'one'",
    "GRANT SELECT ON d.* TO a@localhost",
    "SET PASSWORD FOR a@localhost = PASSWORD('two')",
    "ALTER USER a@localhost IDENTIFIED BY 'three'",
    "CREATE ROLE r",
    "GRANT r TO a@localhost",
    "REVOKE SELECT ON d.* FROM a@localhost",
    "RENAME USER a@localhost TO b@localhost",
    "DROP USER b@localhost",
    "DROP ROLE r",
    "CREATE PROCEDURE d.p2 () SELECT 2",
    "DROP PROCEDURE d.p2",
    "FLUSH PRIVILEGES",
];

#[test]
fn reading_system_tables_keeps_nobody_from_changing_them() -> Result<()> {
    let project = Project::up("32MiB")?;
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1); \
         CREATE PROCEDURE d.p () SELECT 1; SET GLOBAL innodb_lock_wait_timeout = 2",
    )?;
    let mut reader = connect(&project)?;
    for (isolation, reads) in [
        (
            "SERIALIZABLE",
            &[
                "SELECT * FROM mysql.global_priv",
                "SELECT * FROM mysql.db",
                "SELECT * FROM mysql.roles_mapping",
                "SELECT * FROM mysql.proc",
            ][..],
        ),
        (
            "REPEATABLE READ",
            &[
                "SELECT * FROM mysql.global_priv LOCK IN SHARE MODE",
                "SELECT * FROM mysql.user LOCK IN SHARE MODE",
                "CREATE TEMPORARY TABLE IF NOT EXISTS d.copied SELECT User FROM mysql.global_priv",
                "SHOW CREATE PROCEDURE d.p",
            ][..],
        ),
    ] {
        reader.query_drop(format!(
            "SET SESSION TRANSACTION ISOLATION LEVEL {isolation}"
        ))?;
        reader.query_drop("BEGIN")?;
        // A snapshot that is older than the following changes.
        reader.query_drop("SELECT * FROM d.t")?;
        for read in reads {
            reader.query_drop(read)?;
        }
        for statement in ADMINISTRATION {
            project
                .sql(statement)
                .with_context(|| format!("{statement} while a transaction is {isolation}"))?;
        }
        // A routine that was created since is visible, as with Aria.
        project.sql("CREATE FUNCTION d.f () RETURNS INT RETURN 5")?;
        let five: Option<i64> = reader.query_first("SELECT d.f()")?;
        assert_eq!(five, Some(5));
        reader.query_drop("COMMIT")?;
        project.sql("DROP FUNCTION d.f")?;
    }

    // A transaction that changes them holds locks, and the error says so.
    project.sql("CREATE USER a@localhost IDENTIFIED BY 'one'")?;
    reader.query_drop("BEGIN")?;
    reader.query_drop("SELECT * FROM mysql.global_priv FOR UPDATE")?;
    for statement in [
        "SET PASSWORD FOR a@localhost = PASSWORD('two')",
        "GRANT SELECT ON *.* TO a@localhost",
        "ALTER USER a@localhost IDENTIFIED BY 'three'",
        "RENAME USER a@localhost TO b@localhost",
        "DROP USER a@localhost",
    ] {
        let error = project.sql_error(statement)?;
        assert!(error.contains("ERROR 1205"), "{statement}: {error}");
    }
    reader.query_drop("ROLLBACK")?;
    wait_until("locks to be released", Duration::from_secs(60), || {
        Ok(project.sql("DROP USER a@localhost").is_ok())
    })
}
