//! Workloads: SQL from seeded generators.

mod ddl;
mod oltp;
mod rows;

/// Scripts that run concurrently. The next phase begins when all have ended.
#[derive(Clone, Debug)]
pub struct Phase {
    /// The name in messages.
    pub name: &'static str,
    /// SQL scripts, each for its own connection.
    pub scripts: Vec<String>,
    /// Whether scripts continue after a conflict between them, such as a deadlock.
    pub force: bool,
}

/// A workload and the settings of its server.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The name on the command line.
    pub name: &'static str,
    /// `innodb_page_size`, in bytes.
    pub page_size: usize,
    /// `innodb_undo_tablespaces`.
    pub undo_tablespaces: u32,
    /// `innodb_buffer_pool_size`, in MiB. With a small one the server writes pages
    /// before it is killed, so that recovery finds pages of different ages.
    pub buffer_pool_mib: u32,
    /// `innodb_log_file_size`, in MiB. A large enough redo log holds all redo since
    /// the database's creation.
    pub log_mib: u32,
    /// Additional server options.
    pub more: &'static [&'static str],
    /// The phases, in order.
    pub phases: Vec<Phase>,
}

impl Workload {
    fn new(name: &'static str, phases: Vec<Phase>) -> Workload {
        Workload {
            name,
            page_size: 16384,
            undo_tablespaces: 0,
            buffer_pool_mib: 256,
            log_mib: 192,
            more: &[],
            phases,
        }
    }

    /// The options of the server and of the creation of its database.
    pub fn options(&self) -> Vec<String> {
        let mut o = vec![
            format!("--innodb-page-size={}", self.page_size),
            format!("--innodb-undo-tablespaces={}", self.undo_tablespaces),
            format!("--innodb-buffer-pool-size={}M", self.buffer_pool_mib),
            format!("--innodb-log-file-size={}M", self.log_mib),
            // The server writes no page unless the buffer pool is full. Only the
            // process is killed, not the machine, so the redo log need not be
            // synced.
            "--innodb-max-dirty-pages-pct=99".into(),
            "--innodb-flush-log-at-trx-commit=2".into(),
            "--innodb-lock-wait-timeout=5".into(),
            // All tables are in InnoDB, so that all are compared.
            "--default-storage-engine=InnoDB".into(),
        ];
        o.extend(self.more.iter().map(|s| (*s).to_owned()));
        o
    }
}

/// All workloads. `scale` multiplies the amount of work.
pub fn all(seed: u64, scale: u64) -> Vec<Workload> {
    vec![
        Workload::new("oltp", oltp::phases(seed, 4, 6000 * scale)),
        // The server writes pages and reads them back, so that recovery must skip
        // mini-transactions that a page already includes.
        Workload {
            buffer_pool_mib: 8,
            undo_tablespaces: 3,
            ..Workload::new("oltp-small-pool", oltp::phases(seed ^ 1, 3, 5000 * scale))
        },
        // The ring turns, so that only the redo since the checkpoint remains.
        Workload {
            log_mib: 4,
            buffer_pool_mib: 16,
            ..Workload::new("oltp-small-log", oltp::phases(seed ^ 2, 3, 5000 * scale))
        },
        Workload {
            undo_tablespaces: 3,
            more: &[
                "--innodb-undo-log-truncate=ON",
                "--innodb-max-undo-log-size=10M",
            ],
            ..Workload::new("ddl", ddl::phases(seed ^ 3, scale))
        },
        Workload {
            more: &["--innodb-file-per-table=OFF"],
            ..Workload::new("ddl-system-space", ddl::phases(seed ^ 4, scale))
        },
        Workload::new("rows", rows::phases(seed ^ 5, 1500 * scale, true)),
        Workload {
            more: &[
                "--innodb-checksum-algorithm=crc32",
                "--innodb-change-buffering=all",
            ],
            buffer_pool_mib: 8,
            ..Workload::new("rows-crc32", rows::phases(seed ^ 6, 1200 * scale, true))
        },
        Workload {
            page_size: 4096,
            ..Workload::new("mixed-4k", mixed(seed ^ 7, scale, true))
        },
        Workload {
            page_size: 8192,
            buffer_pool_mib: 16,
            undo_tablespaces: 2,
            ..Workload::new("mixed-8k", mixed(seed ^ 8, scale, true))
        },
        // ROW_FORMAT=COMPRESSED needs pages of at most 16 KiB.
        Workload {
            page_size: 32768,
            undo_tablespaces: 2,
            ..Workload::new("mixed-32k", mixed(seed ^ 9, scale, false))
        },
        Workload {
            page_size: 65536,
            undo_tablespaces: 3,
            ..Workload::new("mixed-64k", mixed(seed ^ 10, scale, false))
        },
    ]
}

fn mixed(seed: u64, scale: u64, compressed: bool) -> Vec<Phase> {
    let mut phases = oltp::phases(seed, 2, 2000 * scale);
    phases.extend(rows::phases(seed ^ 77, 500 * scale, compressed));
    phases
}
