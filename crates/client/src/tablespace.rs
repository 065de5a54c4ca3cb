//! A tablespace's file on first use: sparse, as large as the real one, with the
//! few pages that InnoDB reads past its buffer pool.

use crate::client::Client;
use crate::status::{Error, Status};
use crate::wire::messages::{Tablespace, get_tablespace_request};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const PATH: &str = "/xylem.control.Control/GetTablespace";
/// Far more than a few pages of 64 KiB.
const ANSWER_MAX: usize = 64 << 20;

/// Makes the file of the tablespace `id` where it belongs, unless it is there.
///
/// # Errors
/// [`Status::NotFound`] when the branch has none; or when the server cannot be
/// asked or the file not be made.
pub fn open(client: &Client, id: u32) -> Result<Tablespace, Error> {
    let config = &client.shared().config;
    let Some(datadir) = &config.datadir else {
        return Err(Error::new(
            Status::Invalid,
            "no data directory was given to xylem_init",
        ));
    };
    let what = format!("tablespace {id}");
    let until = Instant::now() + client.shared().limits.retry_limit();
    let (space, _) = client.unary(
        PATH,
        // What this compute itself did to the tablespace must show.
        get_tablespace_request(id, client.shared().stats.lsn_queued.get()),
        ANSWER_MAX,
        Tablespace::decode,
        &what,
        until,
    )?;
    let Some(place) = normalise(&space.path) else {
        return Err(Error::new(
            Status::Error,
            format!("the page server says that {what} is at {:?}", space.path),
        ));
    };
    let file = datadir.join(place);
    write_file(&file, &space).map_err(|e| {
        Error::new(
            Status::Error,
            format!("cannot make tablespace file {}: {e}", file.display()),
        )
    })?;
    Ok(space)
}

/// `path` without `./` and doubled slashes; `None` when it is absolute, empty,
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

/// Writes under another name first: a file with this name is whole or not there.
pub fn write_file(file: &Path, space: &Tablespace) -> io::Result<()> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    for (offset, data) in &space.pages {
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > space.size) {
            return Err(bad("the page server sent a page beyond the file's end"));
        }
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // Not made from the file's name, which may be as long as a name can be.
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
        // A link, not a rename: where another thread was faster, InnoDB may
        // have its file open already, and it must stay.
        match std::fs::hard_link(&temporary, file) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // A file system without hard links.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => std::fs::rename(&temporary, file),
            other => other,
        }
    })();
    // Already gone after a rename.
    let _ = std::fs::remove_file(&temporary);
    result
}
