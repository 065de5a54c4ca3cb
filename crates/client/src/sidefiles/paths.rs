//! Turns the paths that the server passes to libc into paths relative to the data
//! directory.

use std::ffi::{CStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static ACTIVE: AtomicU8 = AtomicU8::new(UNKNOWN);
static GIVEN: OnceLock<PathBuf> = OnceLock::new();
static REAL: OnceLock<PathBuf> = OnceLock::new();

/// Whether `XYLEM_DATADIR` names a data directory. After the first call this costs
/// one load, because every write of the server checks it.
#[inline]
pub fn is_active() -> bool {
    match ACTIVE.load(Ordering::Acquire) {
        UNKNOWN => find_out(),
        state => state == ON,
    }
}

#[cold]
fn find_out() -> bool {
    // SAFETY: the name is NUL-terminated; the result is copied at once.
    let value = unsafe {
        let value = libc::getenv(c"XYLEM_DATADIR".as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes().to_vec())
    };
    let on = match value {
        Some(bytes) if bytes.first() == Some(&b'/') => {
            // GIVEN is set before any thread sees ACTIVE as ON.
            GIVEN.get_or_init(|| lexical(Path::new(std::ffi::OsStr::from_bytes(&bytes))));
            true
        }
        _ => false,
    };
    ACTIVE.store(if on { ON } else { OFF }, Ordering::Release);
    on
}

/// Whether a server never finds the data directory of an earlier one: `XYLEM_DATADIR_DISPOSABLE`
/// is 1.
pub fn is_disposable() -> bool {
    static DISPOSABLE: OnceLock<bool> = OnceLock::new();
    // SAFETY: both names are NUL-terminated; the value is compared at once.
    *DISPOSABLE.get_or_init(|| unsafe {
        let value = libc::getenv(c"XYLEM_DATADIR_DISPOSABLE".as_ptr());
        !value.is_null() && CStr::from_ptr(value) == c"1"
    })
}

/// The data directory as `XYLEM_DATADIR` names it.
pub fn root() -> Option<&'static Path> {
    GIVEN.get().map(PathBuf::as_path)
}

/// The data directory without symbolic links, once it exists.
fn real_root() -> Option<&'static Path> {
    if let Some(real) = REAL.get() {
        return Some(real);
    }
    let real = std::fs::canonicalize(GIVEN.get()?).ok()?;
    Some(REAL.get_or_init(|| real))
}

/// Whether `path` names the data directory.
pub fn is_root(path: &Path) -> bool {
    let path = lexical(path);
    root() == Some(&path)
        || real_root() == Some(&path)
        || std::fs::canonicalize(&path).is_ok_and(|path| real_root() == Some(&path))
}

/// Removes `.`, `..` and doubled slashes from `path`, without resolving symbolic
/// links.
fn lexical(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Resolves `path`, as passed to libc with `dirfd`, relative to the data
/// directory; `None` if it is elsewhere. The data directory itself is "".
///
/// # Safety
/// `path` is a NUL-terminated string.
pub unsafe fn resolve(dirfd: c_int, path: *const c_char) -> Option<String> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller vouches for the NUL.
    let bytes = unsafe { CStr::from_ptr(path) }.to_bytes();
    if bytes.is_empty() {
        return None;
    }
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let full = if path.is_absolute() {
        lexical(path)
    } else {
        let base = if dirfd == libc::AT_FDCWD {
            std::env::current_dir().ok()?
        } else {
            std::fs::read_link(format!("/proc/self/fd/{dirfd}")).ok()?
        };
        lexical(&base.join(path))
    };
    relative(&full)
}

/// The path of descriptor `fd`, relative to the data directory.
pub fn of_descriptor(fd: c_int) -> Option<String> {
    relative(&std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?)
}

fn relative(full: &Path) -> Option<String> {
    let inside = full.strip_prefix(root()?).ok();
    let inside = inside.or_else(|| full.strip_prefix(real_root()?).ok())?;
    inside.to_str().map(str::to_owned)
}
