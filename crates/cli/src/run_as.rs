//! The account that mariadbd runs as. Whoever has the FILE privilege writes files
//! as that account, so mariadbd runs as the system's root only if people say so:
//! where root calls `xylem`, mariadbd runs as a system account of its own.
//!
//! The account may enter the directories of computes and nothing else of a
//! project. It owns what mariadbd writes (`data`, `tmp`, `files`, `run`, the error log)
//! and not what tells mariadbd what to do (options, the SQL of a start).

use crate::account::{self, User};
use crate::failure::Failure;
use crate::files;
use crate::process::Process;
use crate::project::Project;
use crate::state::StateDir;
use anyhow::{Context, Result};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The account that mariadbd runs as where root calls; created if missing.
pub const NAME: &str = "xylem";

/// The value of `--user` that has mariadbd run as root.
const ROOT: &str = "root";

/// The directory for computes and programs that the account cannot reach where
/// they are, such as below `/root`.
pub const PLACE: &str = "/var/lib/xylem";

/// The file in a directory below [`PLACE`] that names the state directory it
/// belongs to.
const OF: &str = "of";

/// How often creating the account is tried; another command may be at it.
const MAKE_TRIES: u32 = 50;

/// The account that mariadbd of `project` runs as; `None` for the caller's.
///
/// # Errors
/// When there is no such account, it cannot be made, or only root could use it.
pub async fn of(project: &Project) -> Result<Option<User>> {
    let wanted = project.settings.compute.user.as_deref();
    if !rustix::process::geteuid().is_root() {
        let me = rustix::process::geteuid().as_raw();
        return match wanted {
            Some(name) if account::find(name)?.is_none_or(|user| user.uid != me) => {
                Err(Failure::new(
                    format!("only root can run mariadbd as another user, {name}"),
                    "drop the setting with `xylem up --unset user`, or run xylem as root",
                ))
            }
            _ => Ok(None),
        };
    }
    let name = wanted.unwrap_or(NAME);
    if name == ROOT {
        return Ok(None);
    }
    let user = match account::find(name)? {
        Some(user) => user,
        None if wanted.is_none() => make().await?,
        None => {
            return Err(Failure::new(
                format!("there is no system account {name} for mariadbd to run as"),
                "create it, or name another account with `xylem up --user`",
            ));
        }
    };
    if user.uid == 0 {
        return Err(Failure::new(
            format!("the account {name} is the system's root"),
            "to run mariadbd as root, say so: `xylem up --user root`",
        ));
    }
    Ok(Some(user))
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
        // Another command may have created it.
        if let Some(user) = account::find(NAME)? {
            if made.is_some_and(|out| out.status.success()) {
                eprintln!("created the system account {NAME} for mariadbd to run as");
            }
            return Ok(user);
        }
        let Some(out) = made else {
            said = "the program useradd is missing".to_owned();
            break;
        };
        said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Failure::new(
        format!("cannot create the system account {NAME} for mariadbd to run as: {said}"),
        "create an account and name it with `xylem up --user NAME`; or run mariadbd as root with `xylem up --user root`, which lets everybody with the FILE privilege write files as root",
    ))
}

/// Creates the directory of `state`'s computes in a place that `user` can reach: in
/// the state directory, or, where a directory above is closed to `user`, below
/// [`PLACE`], with a symbolic link in the state directory.
///
/// # Errors
/// When it cannot be made.
pub fn open_computes(user: &User, state: &StateDir) -> Result<()> {
    let beside = state.root().join("computes");
    let linked = std::fs::read_link(&beside).is_ok();
    if !linked {
        files::make_private_dir(&beside)?;
        let meta = std::fs::metadata(state.root())
            .with_context(|| format!("cannot look at {}", state.root().display()))?;
        // Closed to all but its owner, and perhaps one such group: then
        // this group may pass.
        if !user.has(&meta, 1) && meta.mode() & 0o777 & !0o710 == 0 {
            user.let_pass(state.root())?;
        }
        user.let_pass(&beside)?;
        let Some(closed) = user.stopped_at(&beside) else {
            return Ok(());
        };
        // Something is in it when mariadbd ran as another user before.
        if std::fs::remove_dir(&beside).is_err() {
            return Err(Failure::new(
                format!(
                    "the account {}, which mariadbd runs as, has no access to {}",
                    user.name,
                    closed.display()
                ),
                format!(
                    "stop the computes and remove {}, so that computes can move elsewhere; or `chmod o+x {}`",
                    beside.display(),
                    closed.display()
                ),
            ));
        }
    }
    let place = Path::new(PLACE).join("computes");
    if !linked {
        let name = files::short_name(state.root().as_os_str().as_encoded_bytes());
        let target = place.join(name);
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
    user.let_pass(&target)
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
            serde_json::from_slice::<Process>(&text).ok()
        });
        if !wanted && !records.any(Process::is_alive) {
            let _ = files::remove_tree(&dir);
        }
    }
}
