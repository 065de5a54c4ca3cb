//! Opens a tablespace on first use: asks the server for the path of its file,
//! and creates the file. It is sparse, has the real size, and holds only the few
//! pages that InnoDB reads without its buffer pool.

use crate::backoff::Jitter;
use crate::client::Client;
use crate::log::{self, Level};
use crate::pages::{Outcome, Patience, Request, may_wait};
use crate::status::{Error, Status};
use crate::threads::lock;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use xylem_wire::{GetSpace, Space};

/// Finds the path of the file of tablespace `id`. With `make`, also creates the
/// file there unless it exists.
///
/// The answer may be as old as the compute's start: the compute has never opened
/// the tablespace, so it has not changed it since. Waiting until the server has
/// read all redo queued since then would hold InnoDB's dictionary lock for a long
/// time.
///
/// # Errors
/// [`Status::NotFound`] when the branch certainly has no such tablespace, and
/// [`Status::Corrupt`] when its first page is damaged. Every other failure is
/// retried, without a limit while the server responds, because InnoDB skips the
/// rollback of rows in a tablespace that it cannot open.
pub fn open(client: &Client, id: u32, make: bool) -> Result<Space, Error> {
    let shared = client.shared();
    let Some(datadir) = &shared.config.datadir else {
        return Err(Error::new(
            Status::Invalid,
            "xylem_init was called without a data directory",
        ));
    };
    let what = format!("tablespace {id}");
    let begin = shared.limits.now();
    let mut jitter = Jitter::from(&shared.config.entropy);
    let mut failures = 0;
    loop {
        let error = match attempt(client, id, make, datadir, &what) {
            Ok(space) => return Ok(space),
            Err(error) => match error.status {
                Status::Error => error,
                _ => return Err(error),
            },
        };
        failures += 1;
        if failures == 1 {
            log::write(
                Level::Warning,
                &format!(
                    "{}; retrying for up to {} s",
                    error.message,
                    shared.limits.retry_limit().as_secs_f32()
                ),
            );
        }
        let wait = jitter.wait(failures);
        if shared.limits.now() + wait >= begin + shared.limits.retry_limit() {
            return Err(error);
        }
        // This thread of the server has nothing else to do.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(wait);
    }
}

fn attempt(
    client: &Client,
    id: u32,
    make: bool,
    datadir: &Path,
    what: &str,
) -> Result<Space, Error> {
    let space = match client.fetched().take(id) {
        Some(space) => space,
        None => {
            client.shared().stats.tablespace_waits.add(1);
            ask(client, id, make, what)?
        }
    };
    let Some(place) = normalise(&space.path) else {
        return Err(Error::new(
            Status::Error,
            format!(
                "{what}: the page server answered with the invalid path {:?}",
                space.path
            ),
        ));
    };
    if make {
        let file = datadir.join(place);
        write_file(&file, &space).map_err(|e| {
            Error::new(
                Status::Error,
                format!("cannot make tablespace file {}: {e}", file.display()),
            )
        })?;
    }
    Ok(space)
}

/// Asks the server for a tablespace, with its pages if the file is to be made.
fn ask(client: &Client, id: u32, pages: bool, what: &str) -> Result<Space, Error> {
    may_wait(what)?;
    let request = request(client, id, pages);
    match client.pool().request(request, Patience::WhileAlive) {
        Ok((answer, _)) => space_in(answer, what),
        Err(error) if error.status == Status::NotFound => {
            // NOT_FOUND can also mean that the server does not know the branch.
            // A server that knows it answers a ping.
            Err(match client.ping() {
                Ok(_) => error,
                Err(ping) if ping.status == Status::NotFound => {
                    Error::new(Status::Error, ping.message)
                }
                Err(ping) => ping,
            })
        }
        Err(error) => Err(error),
    }
}

fn request(client: &Client, id: u32, pages: bool) -> Request {
    Request::Space(GetSpace {
        space_id: id,
        no_pages: !pages,
        min_lsn: client.shared().config.start_lsn,
    })
}

fn space_in(answer: Outcome, what: &str) -> Result<Space, Error> {
    match answer {
        Outcome::Space(space) => Ok(space),
        _ => Err(Error::new(
            Status::Error,
            format!("{what}: the answer is of another kind"),
        )),
    }
}

/// The answers to [`fetch`] that no [`open`] has used.
#[derive(Debug, Default)]
pub struct Fetched(Mutex<HashMap<u32, Space>>);

impl Fetched {
    fn take(&self, id: u32) -> Option<Space> {
        lock(&self.0).remove(&id)
    }

    /// Forgets the answers for `ids`.
    pub fn forget(&self, ids: &[u32]) {
        let mut fetched = lock(&self.0);
        for id in ids {
            fetched.remove(id);
        }
    }
}

/// Asks for the tablespaces `ids`, 256 at a time. The next [`open`] of each does not wait
/// for the server, and its caller may hold a lock.
///
/// # Errors
/// The most severe of their errors, without further attempts where the server has
/// answered. The other tablespaces are there.
pub fn fetch(client: &Client, ids: &[u32]) -> Result<(), Error> {
    may_wait("tablespaces")?;
    let requests: Vec<Request> = ids.iter().map(|id| request(client, *id, true)).collect();
    let answers = client.pool().requests(&requests, Patience::WhileAlive);
    let mut result: Result<(), Error> = Ok(());
    for (id, answer) in ids.iter().zip(answers) {
        match answer.and_then(|answer| space_in(answer, &format!("tablespace {id}"))) {
            Ok(space) => {
                lock(&client.fetched().0).insert(*id, space);
            }
            Err(error) => {
                result = match result {
                    Err(first) if first.status.worst(error.status) == first.status => Err(first),
                    _ => Err(error),
                };
            }
        }
    }
    result
}

/// Removes `./` and doubled slashes from `path`; `None` if it is absolute, empty,
/// or leads out of the directory.
pub fn normalise(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?),
            _ => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Creates the file under a temporary name first, so that `file` is either
/// complete or missing.
pub fn write_file(file: &Path, space: &Space) -> io::Result<()> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    for (offset, data) in &space.pages {
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > space.size) {
            return Err(bad("the page server sent a page beyond the file's end"));
        }
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // Independent of the file's name, which may already have the maximum length.
    let temporary = file.with_file_name(format!(".xylem-{}-{number}", std::process::id()));
    let result = (|| {
        let out = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o660)
            .open(&temporary)?;
        out.set_len(space.size)?;
        for (offset, data) in &space.pages {
            out.write_all_at(data, *offset)?;
        }
        // A link, not a rename: if another thread was faster, InnoDB may already
        // have opened that thread's file, which must not be replaced.
        match std::fs::hard_link(&temporary, file) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // The file system does not support hard links.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => std::fs::rename(&temporary, file),
            other => other,
        }
    })();
    // Already gone after a rename.
    let _ = std::fs::remove_file(&temporary);
    result
}
