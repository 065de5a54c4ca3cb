use super::*;

#[test]
fn files_of_the_server() {
    for (name, what) in [
        ("ibdata1", Top::System(1)),
        ("ibdata12", Top::System(12)),
        ("ibdata", Top::Unknown),
        ("ibdata1.bak", Top::Unknown),
        ("undo001", Top::Undo),
        ("undo0001", Top::Unknown),
        ("undo", Top::Unknown),
        ("ib_logfile0", Top::LeftOut),
        ("ib_logfile101", Top::LeftOut),
        ("ibtmp1", Top::LeftOut),
        ("aria_log_control", Top::Aria),
        ("aria_log.00000001", Top::Aria),
        ("ddl_recovery.log", Top::Running),
        ("ddl_recovery-backup.log", Top::LeftOut),
        ("tc.log", Top::Running),
        ("mysql_upgrade_info", Top::Version),
        ("mariadb_upgrade_info", Top::Version),
        ("multi-master.info", Top::Replication),
        ("master-a.info", Top::Replication),
        ("relay-log.info", Top::Replication),
        ("mysqld-bin.index", Top::Replication),
        ("ib_buffer_pool", Top::LeftOut),
        ("xylem.start_pages", Top::LeftOut),
        ("xtrabackup_info", Top::LeftOut),
        ("mariadb_backup_checkpoints", Top::LeftOut),
        ("debian-10.11.flag", Top::LeftOut),
        ("host.pid", Top::LeftOut),
        ("host.err", Top::LeftOutAndSaid),
        ("host-slow.log", Top::LeftOutAndSaid),
        ("server-key.pem", Top::LeftOutAndSaid),
        ("grastate.dat", Top::LeftOutAndSaid),
        ("core.1234", Top::LeftOutAndSaid),
        (".my-healthcheck.cnf", Top::LeftOutAndSaid),
        (
            "system_mysql_backup_10.6.12-MariaDB.sql.zst",
            Top::LeftOutAndSaid,
        ),
        ("system_mysql_backup_10.6.12-MariaDB.txt", Top::Unknown),
        (".my.cnf", Top::Unknown),
        ("mysqld-bin.000001", Top::Unknown),
        ("notes.txt", Top::Unknown),
    ] {
        assert_eq!(top(name), what, "{name}");
    }
    for (name, what) in [
        ("mysql", Dir::Database),
        ("@0023x", Dir::Database),
        ("#rocksdb", Dir::Engine),
        (".snapshot", Dir::Foreign),
        ("lost+found", Dir::Foreign),
    ] {
        assert_eq!(dir(name), what, "{name}");
    }
}

#[test]
fn files_of_a_database() {
    for (name, what) in [
        ("t.frm", InDatabase::Definition),
        ("#sql-1.frm", InDatabase::Definition),
        ("t.par", InDatabase::SideFile),
        ("t.TRG", InDatabase::SideFile),
        ("a.TRN", InDatabase::SideFile),
        ("db.opt", InDatabase::SideFile),
        ("x.opt", InDatabase::Unknown),
        ("t.ibd", InDatabase::Tablespace),
        ("t#P#p0.ibd", InDatabase::Tablespace),
        ("t.isl", InDatabase::Link),
        ("t.MYD", InDatabase::OtherEngine),
        ("t.MAI", InDatabase::OtherEngine),
        ("t.ARZ", InDatabase::OtherEngine),
        ("t.CSV", InDatabase::Csv),
        ("t.cfg", InDatabase::LeftOut),
        ("t.txt", InDatabase::Unknown),
        (".frm", InDatabase::Unknown),
        ("t", InDatabase::Unknown),
    ] {
        assert_eq!(in_database(name), what, "{name}");
    }
}

#[test]
fn engines() {
    for (name, what) in [
        ("InnoDB", Engine::InnoDb),
        ("INNODB", Engine::InnoDb),
        ("MEMORY", Engine::DefinitionOnly),
        ("FEDERATED", Engine::DefinitionOnly),
        ("Aria", Engine::SystemTables),
        ("MyISAM", Engine::SystemTables),
        ("PERFORMANCE_SCHEMA", Engine::Virtual),
        ("ROCKSDB", Engine::Other),
        ("CSV", Engine::Other),
    ] {
        assert_eq!(engine(name), what, "{name}");
    }
}
