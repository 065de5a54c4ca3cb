//! Opens, removes and sweeps the WALs of branches, on local disk or in the object
//! store.

mod backed;

pub use backed::BackedWal;

use crate::config::{ServerConfig, WalStore};
use crate::error::ServerError;
use crate::project;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;
use xylem_ambient::{Clock, Entropy};
use xylem_objects::{Bucket, BucketConfig};
use xylem_types::BranchId;
use xylem_wal::backup::{self, Backup, BackupConfig, Floor};
use xylem_wal::local::{LocalWal, LocalWalConfig};
use xylem_wal::object::{ObjectWal, ObjectWalConfig};
use xylem_wal::{Memory, Position, Wal, WalError};

/// The share of WALs in the server's memory: one part in this many. Pages get the rest.
pub(crate) const WAL_SHARE: u64 = 8;

/// The folder of the object store that has a folder for each branch's WAL.
const WALS: &str = "wals";
/// The folder of the object store for the backups of local WALs.
const BACKUPS: &str = "wal-backups";

/// The WALs of a project.
pub struct Wals {
    clock: Clock,
    entropy: Entropy,
    home: WalHome,
    /// The number of the catalogue with which this server claimed the project: greater
    /// than that of any server before.
    claim: u64,
    /// Missing WALs were lost, and are restored.
    restoring: bool,
    /// The memory budget that all WALs share.
    memory: Memory,
}

/// How to treat a WAL that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// An error, unless nothing was ever written to the WAL.
    Here,
    /// The WAL was lost, and is restored.
    Restoring,
    /// The WAL belongs to a new branch.
    New,
}

enum WalHome {
    Object(Bucket),
    Local(Box<LocalWals>),
}

/// WALs on this server's disk.
struct LocalWals {
    data_dir: PathBuf,
    settings: LocalWalConfig,
    /// The object store of the copies, to write them or to restore from them.
    copies: Option<Bucket>,
    /// How WALs are copied; an interval of zero: they are not copied.
    backup: BackupConfig,
    /// How often each WAL was opened with a backup.
    opened: Mutex<HashMap<BranchId, u64>>,
}

/// An open WAL.
pub struct OpenedWal {
    /// The WAL.
    pub wal: Arc<dyn Wal>,
    /// The same, if it is copied to the object store.
    pub backed: Option<Arc<BackedWal>>,
}

impl Wals {
    /// The WALs of a server that has claimed its project as `claim`. `restoring` says
    /// that missing WALs were lost. Blocking; needs a runtime.
    ///
    /// # Errors
    /// The store's URL or its settings are invalid.
    pub(crate) fn new(
        config: &ServerConfig,
        claim: u64,
        restoring: bool,
    ) -> Result<Wals, ServerError> {
        let bucket = || {
            let bucket = Bucket::open(
                &config.object_store,
                BucketConfig {
                    clock: config.clock.clone(),
                    entropy: config.entropy.clone(),
                    ..BucketConfig::default()
                },
            );
            bucket.map_err(|source| {
                ServerError::io("cannot open the store of WALs".to_owned(), source.into())
            })
        };
        let memory = Memory::new(config.memory.0 / WAL_SHARE);
        let home = match config.wal_store {
            WalStore::Object => WalHome::Object(bucket()?),
            WalStore::Local => {
                let interval = config.wal_backup.0;
                let copies = match interval.is_zero() && !restoring {
                    true => None,
                    false => Some(bucket()?),
                };
                WalHome::Local(Box::new(LocalWals {
                    data_dir: config.data_dir.clone(),
                    settings: LocalWalConfig {
                        clock: config.clock.clone(),
                        entropy: config.entropy.clone(),
                        segment_bytes: config.wal_segment_size.0,
                        memory: memory.clone(),
                        ..LocalWalConfig::default()
                    },
                    copies,
                    backup: BackupConfig {
                        clock: config.clock.clone(),
                        entropy: config.entropy.clone(),
                        interval,
                        ..BackupConfig::new(Handle::current())
                    },
                    opened: Mutex::default(),
                }))
            }
        };
        Ok(Wals {
            clock: config.clock.clone(),
            entropy: config.entropy.clone(),
            home,
            claim,
            memory,
            restoring,
        })
    }

    /// Bytes that all WALs hold in memory.
    pub(crate) fn memory_used(&self) -> u64 {
        self.memory.used()
    }

    /// Ends restoring: every lost WAL has been restored.
    pub(crate) fn set_restored(&mut self) {
        self.restoring = false;
    }

    /// The right with which the WALs of existing branches are opened at a start.
    pub(crate) fn claim(&self) -> u64 {
        self.claim
    }

    /// Opens the WAL of branch `id`. Layers hold everything before `floor`. `right` is
    /// `None` for a new branch; otherwise it is a number that no server, this one
    /// included, has used for this branch. Blocking; needs a runtime. A WAL that was
    /// never written takes no space.
    ///
    /// # Errors
    /// The WAL cannot be opened, or is damaged.
    pub(crate) fn open(
        &self,
        id: BranchId,
        floor: Floor,
        right: Option<u64>,
    ) -> Result<OpenedWal, WalError> {
        match &self.home {
            WalHome::Object(bucket) => {
                let objects = bucket.objects();
                let settings = ObjectWalConfig {
                    memory: self.memory.clone(),
                    clock: self.clock.clone(),
                    entropy: self.entropy.clone(),
                    ..ObjectWalConfig::new(objects.handle().clone())
                };
                let folder = objects.folder(&format!("{WALS}/{id}"));
                let opening = ObjectWal::open(&folder, settings);
                Ok(OpenedWal {
                    wal: Arc::new(Handle::current().block_on(opening)?),
                    backed: None,
                })
            }
            WalHome::Local(local) => {
                let stage = match right {
                    None => Stage::New,
                    Some(_) if self.restoring => Stage::Restoring,
                    Some(_) => Stage::Here,
                };
                local.open(id, floor, right.unwrap_or(self.claim), stage)
            }
        }
    }

    /// Removes the WAL of branch `id`, which is closed. A missing WAL is not an error.
    /// Blocking.
    pub(crate) fn remove(&self, id: BranchId) -> io::Result<()> {
        match &self.home {
            WalHome::Object(bucket) => bucket.delete_folder(&format!("{WALS}/{id}")),
            WalHome::Local(local) => {
                if let Some(bucket) = &local.copies {
                    bucket.delete_folder(&format!("{BACKUPS}/{id}"))?;
                }
                let dir = project::wals(&local.data_dir).join(id.to_string());
                match std::fs::remove_dir_all(dir) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    other => other,
                }
            }
        }
    }

    /// The entries of the folders of WALs, each as place and name. Empty if the folders
    /// cannot be listed.
    pub(crate) fn there(&self) -> Vec<(String, String)> {
        self.names().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for leftover WALs");
            Vec::new()
        })
    }

    /// Removes the WALs in `there` whose branches are not `known`, and returns entries
    /// that belong to no branch. Best effort: the next start removes what stays.
    pub(crate) fn sweep(
        &self,
        there: Vec<(String, String)>,
        known: &dyn Fn(BranchId) -> bool,
    ) -> Vec<String> {
        let mut strange = Vec::new();
        for (place, name) in there {
            match project::branch_of_folder(&name) {
                Some(id) if known(id) => {}
                Some(id) => {
                    tracing::info!(branch_id = %id, "removing the WAL of a branch that no longer exists");
                    if let Err(error) = self.remove(id) {
                        tracing::warn!(branch_id = %id, %error, "cannot remove a leftover WAL");
                    }
                }
                None => strange.push(format!("{place}/{name}")),
            }
        }
        strange
    }

    /// As [`Wals::there`], with the error.
    fn names(&self) -> io::Result<Vec<(String, String)>> {
        let in_bucket = |bucket: &Bucket, folder: &str| -> io::Result<Vec<(String, String)>> {
            let place = format!("{}/{folder}", bucket.url());
            let names = bucket.folders(folder)?.into_iter();
            Ok(names.map(|name| (place.clone(), name)).collect())
        };
        match &self.home {
            WalHome::Object(bucket) => in_bucket(bucket, WALS),
            WalHome::Local(local) => {
                let dir = project::wals(&local.data_dir);
                let place = dir.display().to_string();
                let names = names_in(&dir)?.into_iter();
                let mut all: Vec<_> = names.map(|name| (place.clone(), name)).collect();
                if let Some(bucket) = &local.copies {
                    all.extend(in_bucket(bucket, BACKUPS)?);
                }
                Ok(all)
            }
        }
    }
}

impl LocalWals {
    /// A new right to write the backup of a WAL.
    fn right(&self, id: BranchId, claim: u64) -> Result<u64, WalError> {
        let mut opened = self.opened.lock();
        let count = opened.entry(id).or_insert(0);
        if *count + 1 >= RIGHTS {
            return Err(WalError::Io {
                context: format!("open the WAL of branch {id}"),
                source: io::Error::other(format!(
                    "this server has opened the WAL {count} times: restart the server"
                )),
            });
        }
        *count += 1;
        Ok(rights(claim).saturating_add(*count))
    }

    fn open(
        &self,
        id: BranchId,
        floor: Floor,
        claim: u64,
        stage: Stage,
    ) -> Result<OpenedWal, WalError> {
        let dir = project::wal_dir(&self.data_dir, id);
        let io = |source| WalError::Io {
            context: format!("open {}", dir.display()),
            source,
        };
        create_dir(&dir).map_err(io)?;
        if !LocalWal::is_in(&dir).map_err(io)? {
            if stage == Stage::Restoring {
                self.restore(id, &dir, floor, claim)?;
            } else if floor.position > Position(0) {
                return Err(io(io::Error::new(
                    io::ErrorKind::NotFound,
                    "the WAL is missing: put it back, or, if it is lost, start the server once with --restore-wal",
                )));
            }
        }
        let wal = LocalWal::open(&dir, self.settings.clone())?;
        if stage != Stage::New {
            self.compare(&wal, id, &dir)?;
        }
        let Some(bucket) = self
            .copies
            .as_ref()
            .filter(|_| !self.backup.interval.is_zero())
        else {
            return Ok(OpenedWal {
                wal: Arc::new(wal),
                backed: None,
            });
        };
        let settings = self.backup.clone();
        let (interval, runtime) = (settings.interval, settings.runtime.clone());
        let folder = bucket.objects().folder(&format!("{BACKUPS}/{id}"));
        let right = self.right(id, claim)?;
        let backup = Backup::start(&wal, &folder, right, settings)?;
        let backed = Arc::new(BackedWal::new(wal, backup, interval, id));
        backed.end_when_replaced(&runtime);
        Ok(OpenedWal {
            wal: Arc::<BackedWal>::clone(&backed),
            backed: Some(backed),
        })
    }

    /// Refuses a WAL that ends before its copy. The entries that it lacks were
    /// acknowledged, and would disappear from the copy, which follows the WAL.
    fn compare(&self, wal: &LocalWal, id: BranchId, dir: &Path) -> Result<(), WalError> {
        let Some(bucket) = &self.copies else {
            return Ok(());
        };
        let folder = bucket.objects().folder(&format!("{BACKUPS}/{id}"));
        let looking = backup::end(&folder, self.backup.clone());
        let copied = Handle::current().block_on(looking)?;
        let end = wal.durable().borrow().position();
        if let Some(damage) = copied.damage {
            tracing::error!(
                branch_id = %id,
                "the copy of the WAL in the store is damaged and is written again, since the WAL itself is whole: {damage}"
            );
        }
        let copied = copied.position;
        if copied <= end {
            return Ok(());
        }
        Err(WalError::Io {
            context: format!("open {}", dir.display()),
            source: io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the WAL ends at position {}, and its copy in the store at {}: the disk was reset to an earlier state, or has lost data. Move this directory away and start the server once with --restore-wal",
                    end.0, copied.0
                ),
            ),
        })
    }

    /// Restores a lost WAL from its backup, if there is one.
    fn restore(&self, id: BranchId, dir: &Path, floor: Floor, claim: u64) -> Result<(), WalError> {
        let Some(bucket) = &self.copies else {
            return Err(WalError::Io {
                context: format!("restore the WAL in {}", dir.display()),
                source: io::Error::new(io::ErrorKind::Unsupported, "its store is not open"),
            });
        };
        let folder = bucket.objects().folder(&format!("{BACKUPS}/{id}"));
        let restored = Handle::current().block_on(backup::restore(
            &folder,
            rights(claim),
            dir,
            floor,
            self.settings.clone(),
            self.backup.clone(),
        ))?;
        let until = Some(restored.time_us).filter(|us| *us > 0);
        let until = until.and_then(crate::time::timestamp);
        tracing::warn!(
            branch_id = %id,
            entries = restored.entries,
            lsn = %restored.lsn,
            backed_up_until = until.map(|t| t.to_string()).unwrap_or_default(),
            "the WAL was restored; commits after the end of its backup are lost, unless a layer has them"
        );
        Ok(())
    }
}

/// The number of rights per claim: one to restore a branch's WAL, and one to write its
/// backup for each time that the WAL is opened. No right is used twice, since writes
/// under it may still arrive.
const RIGHTS: u64 = 256;

/// The first right of a claim.
fn rights(claim: u64) -> u64 {
    claim.saturating_mul(RIGHTS)
}

/// Creates `dir` and syncs its parents, since the WAL syncs only its own directory.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    for level in dir.ancestors().skip(1).take(3) {
        std::fs::File::open(level)?.sync_all()?;
    }
    Ok(())
}

fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}
