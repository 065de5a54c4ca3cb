//! Proves the guarantees of a place that everything else relies on: a name is
//! taken once, and written bytes are there.

use crate::place::{Place, Put};
use std::io;
use xylem_ambient::Entropy;

/// The folder of its files.
const FOLDER: &str = "check";
/// The file that it makes.
const NAME: &str = "once";

/// Creates a file, tries to create it again, reads, lists and removes it.
/// Blocking.
///
/// The calls come one after the other. It takes knowledge of the store to prove
/// that of several creations at the same moment it takes only one.
///
/// # Errors
/// The guarantee that the place breaks, or the operation that failed now.
pub fn probe(place: &dyn Place, entropy: &Entropy) -> io::Result<()> {
    let folder = format!("{FOLDER}/{:016x}", entropy.next()? as u64);
    let checked = once(place, &folder, entropy);
    let removed = place.remove_folder(&folder);
    checked?;
    removed.map_err(|e| context("remove what was written for a check", &e))
}

fn context(doing: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot {doing}: {e}"))
}

fn once(place: &dyn Place, folder: &str, entropy: &Entropy) -> io::Result<()> {
    let files = place.folder(folder);
    let files = files.map_err(|e| context("make a folder", &e))?;
    let bytes = || Ok::<_, io::Error>(format!("{:032x}", entropy.next()?).into_bytes());
    let create = |bytes: &[u8]| {
        let put = files.put_new(NAME, bytes);
        put.map_err(|e| context("create a file", &e))
    };
    let content = bytes()?;
    if create(&content)? == Put::Exists {
        return Err(io::Error::other("a new file was said to be there already"));
    }
    if create(&bytes()?)? != Put::Exists {
        return Err(not_honoured("a file was created a second time"));
    }
    let read = files.read(NAME);
    if read.map_err(|e| context("read a file back", &e))? != content {
        return Err(not_honoured("a file was replaced"));
    }
    let list = files.list().map_err(|e| context("list a folder", &e))?;
    if list != [(NAME.to_owned(), content.len() as u64)] {
        return Err(io::Error::other(format!(
            "a folder with one file was listed as {list:?}"
        )));
    }
    let removed = files.remove(NAME);
    removed.map_err(|e| context("remove a file", &e))
}

fn not_honoured(what: &str) -> io::Error {
    io::Error::other(format!(
        "create-if-absent is not honoured: {what}; two servers could overwrite each other's work here"
    ))
}
