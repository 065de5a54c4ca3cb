//! Whom mariadbd runs as. Whoever has the FILE privilege writes files as that
//! user, so the system's root never runs it without being told to: where root
//! calls, a system account of its own does.
//!
//! The account may enter the directories of computes and nothing else here. It
//! owns what mariadbd writes (`data`, `tmp`, `files`, `run`, its log) and not
//! what tells mariadbd what to do (options, the SQL of a start).

use crate::failure::Failure;
use crate::files;
use crate::project::Project;
use crate::state::{StateDir, fnv1a};
use anyhow::{Context, Result};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The account that is used, and made if it is not there, when root calls.
pub const NAME: &str = "xylem";

/// What root must say to have mariadbd run as root.
const ROOT: &str = "root";

/// Where computes and programs go that the account could not reach where they
/// are, such as below `/root`.
pub const PLACE: &str = "/var/lib/xylem";

/// The file in a directory below [`PLACE`] that names whose it is.
const OF: &str = "of";

/// How often making the account is tried; another command may be at it.
const MAKE_TRIES: u32 = 50;

/// A system account other than the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// The id of its group.
    pub gid: u32,
}

/// The account that mariadbd of `project` runs as; `None`: the caller's.
///
/// # Errors
/// When there is no such account, it cannot be made, or only root could use it.
pub async fn of(project: &Project) -> Result<Option<User>> {
    let wanted = project.user.as_deref();
    if !rustix::process::geteuid().is_root() {
        let me = rustix::process::geteuid().as_raw();
        return match wanted {
            Some(name) if find(name).is_none_or(|user| user.uid != me) => Err(Failure::new(
                format!("only root can run mariadbd as another user, {name}"),
                "leave it out with `xylem up --unset user`, or run xylem as root",
            )),
            _ => Ok(None),
        };
    }
    let name = wanted.unwrap_or(NAME);
    if name == ROOT {
        return Ok(None);
    }
    let user = match find(name) {
        Some(user) => user,
        None if wanted.is_none() => make().await?,
        None => {
            return Err(Failure::new(
                format!("there is no system account {name}, which mariadbd is to run as"),
                "make it, or name another one with `xylem up --user`",
            ));
        }
    };
    if user.uid == 0 {
        return Err(Failure::new(
            format!("the account {name} is the system's root"),
            "for that say `xylem up --user root`",
        ));
    }
    Ok(Some(user))
}

/// Looks an account up by its name.
fn find(name: &str) -> Option<User> {
    let said = Command::new("getent")
        .args(["passwd", "--", name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let text = match said {
        Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
        Err(_) => std::fs::read_to_string("/etc/passwd").unwrap_or_default(),
    };
    text.lines().find_map(|line| parse(line, name))
}

/// The account `name` in a line of `passwd`.
pub fn parse(line: &str, name: &str) -> Option<User> {
    // xylem:x:997:996:MariaDB of Xylem:/var/lib/xylem:/usr/sbin/nologin
    let mut fields = line.split(':');
    let found = fields.next().filter(|found| *found == name)?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User {
        name: found.to_owned(),
        uid,
        gid,
    })
}

/// Makes the account [`NAME`].
async fn make() -> Result<User> {
    let mut said = String::new();
    for _ in 0..MAKE_TRIES {
        // Its directory is not always in root's PATH.
        let made = ["useradd", "/usr/sbin/useradd"].iter().find_map(|program| {
            let mut command = Command::new(program);
            command
                .args(["--system", "--user-group", "--no-create-home"])
                .args(["--home-dir", PLACE, "--shell", "/usr/sbin/nologin"])
                .args(["--comment", "MariaDB of Xylem", NAME])
                .stdin(Stdio::null());
            command.output().ok()
        });
        // Whoever made it.
        if let Some(user) = find(NAME) {
            if made.is_some_and(|out| out.status.success()) {
                eprintln!("made the system account {NAME}, which mariadbd runs as");
            }
            return Ok(user);
        }
        let Some(out) = made else {
            said = "there is no program useradd".to_owned();
            break;
        };
        said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Failure::new(
        format!(
            "mariadbd does not run as root unasked, and the system account {NAME} cannot be made: {said}"
        ),
        "make an account and name it with `xylem up --user NAME`; or `xylem up --user root`, which gives whoever has the FILE privilege all that root has",
    ))
}

impl User {
    /// Makes `path` this user's, and not what is in it.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn give(&self, path: &Path) -> Result<()> {
        lchown(path, Some(self.uid), Some(self.gid)).with_context(|| {
            format!(
                "cannot give {} to the account {}",
                path.display(),
                self.name
            )
        })
    }

    /// Makes `path` and all below it this user's; `path` last, so that until
    /// then this user cannot put links there which would be followed. It must
    /// be closed to others.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn give_all(&self, path: &Path) -> Result<()> {
        let failed = || format!("cannot read {}", path.display());
        let meta = std::fs::symlink_metadata(path).with_context(failed)?;
        if meta.is_dir() {
            for entry in std::fs::read_dir(path).with_context(failed)? {
                self.give_all(&entry.with_context(failed)?.path())?;
            }
        }
        self.give(path)
    }

    /// Lets this user's group read the file `path`, which stays its owner's.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn let_read(&self, path: &Path) -> Result<()> {
        self.let_in(path, 0o640)
    }

    /// Lets this user's group pass through the directory `path`, which stays
    /// its owner's: what is in it can be reached and not listed.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn let_pass(&self, path: &Path) -> Result<()> {
        self.let_in(path, 0o710)
    }

    fn let_in(&self, path: &Path, mode: u32) -> Result<()> {
        let group = chown(path, None, Some(self.gid));
        group
            .and_then(|()| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)))
            .with_context(|| {
                format!(
                    "cannot let the account {} into {}",
                    self.name,
                    path.display()
                )
            })
    }

    /// The first directory on the way to `path`, itself included if it is one,
    /// that this user may not pass; `None`: it may pass all.
    pub fn stopped_at(&self, path: &Path) -> Option<PathBuf> {
        let real = std::fs::canonicalize(path).ok()?;
        let mut way: Vec<&Path> = real.ancestors().collect();
        way.reverse();
        way.into_iter()
            .find(|dir| {
                std::fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && !self.has(&meta, 1))
            })
            .map(Path::to_owned)
    }

    /// Whether this user may read the file `path` and reach it.
    pub fn can_read(&self, path: &Path) -> bool {
        self.stopped_at(path).is_none()
            && std::fs::metadata(path).is_ok_and(|meta| self.has(&meta, 4))
    }

    /// Whether the permission `bit` (4 read, 2 write, 1 pass) is this user's.
    fn has(&self, meta: &std::fs::Metadata, bit: u32) -> bool {
        let shift = if meta.uid() == self.uid {
            6
        } else if meta.gid() == self.gid {
            3
        } else {
            0
        };
        meta.mode() >> shift & bit != 0
    }

    /// Makes the directory of `state`'s computes, in a place that this user can
    /// reach: beside the rest, or, where a directory above is closed to it,
    /// below [`PLACE`], with a symbolic link beside the rest.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open_computes(&self, state: &StateDir) -> Result<()> {
        let beside = state.root().join("computes");
        let linked = std::fs::read_link(&beside).is_ok();
        if !linked {
            files::make_private_dir(&beside)?;
            let meta = std::fs::metadata(state.root())
                .with_context(|| format!("cannot look at {}", state.root().display()))?;
            // Closed to all but its owner, and perhaps one such group: then
            // this group may pass.
            if !self.has(&meta, 1) && meta.mode() & 0o777 & !0o710 == 0 {
                self.let_pass(state.root())?;
            }
            self.let_pass(&beside)?;
            let Some(closed) = self.stopped_at(&beside) else {
                return Ok(());
            };
            // Something is in it when mariadbd ran as another user before.
            if std::fs::remove_dir(&beside).is_err() {
                return Err(Failure::new(
                    format!(
                        "the account {}, which mariadbd is to run as, may not pass {}",
                        self.name,
                        closed.display()
                    ),
                    format!(
                        "stop the computes and remove {}, so that it can be put elsewhere; or `chmod o+x {}`",
                        beside.display(),
                        closed.display()
                    ),
                ));
            }
        }
        let place = Path::new(PLACE).join("computes");
        if !linked {
            let name = fnv1a(state.root().as_os_str().as_encoded_bytes());
            let target = place.join(format!("{name:016x}"));
            std::os::unix::fs::symlink(&target, &beside)
                .with_context(|| format!("cannot link {}", beside.display()))?;
        }
        make_public_dir(&place)?;
        sweep(&place);
        let target = state.computes();
        files::make_private_dir(&target)?;
        files::write_atomic(
            &target.join(OF),
            state.root().as_os_str().as_encoded_bytes(),
            files::SECRET,
        )?;
        self.let_pass(&target)
    }
}

/// Makes a directory below [`PLACE`] that everybody may enter, and its parents.
///
/// # Errors
/// When it cannot be made.
pub fn make_public_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))?;
    for dir in path.ancestors().take_while(|dir| dir.starts_with(PLACE)) {
        // The umask may have closed it.
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))
            .with_context(|| format!("cannot open {} to others", dir.display()))?;
    }
    Ok(())
}

/// Removes computes in `place` whose state directory is gone.
fn sweep(place: &Path) {
    use std::os::unix::ffi::OsStrExt;
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let dir = entry.path();
        let Ok(of) = std::fs::read(dir.join(OF)) else {
            continue;
        };
        let state = Path::new(std::ffi::OsStr::from_bytes(&of));
        let wanted = std::fs::read_link(state.join("computes")).is_ok_and(|link| link == dir);
        let records = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut records = records.filter_map(|compute| {
            let text = std::fs::read(compute.path().join("compute.json")).ok()?;
            serde_json::from_slice::<crate::proc::Process>(&text).ok()
        });
        if !wanted && !records.any(crate::proc::Process::is_alive) {
            let _ = files::remove_tree(&dir);
        }
    }
}
