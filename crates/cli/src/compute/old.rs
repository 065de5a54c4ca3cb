//! The files of a compute's last start, which the next one takes over where it would make the
//! same ones.
//!
//! Nearly all files of a data directory are the same at each start: definitions of tables and
//! views. A further name costs less than a new file. ext4 without a journal, moreover, takes
//! long to find an inode where many files were removed in the last minutes: it does not use
//! theirs again meanwhile, and looks at each of them.
//!
//! The files belong to the account of all computes, whose processes may still have descriptors
//! of them and of their directories, and may change names at any time. So directories and
//! files are opened without following links, and the new name is made for the open file that
//! was compared, whatever has its old name by then. Only the account's own files that have no
//! second name are taken. A process of the account may still change their content, as it may
//! that of all files of computes.

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, SeekFrom};
use rustix::fs::{fchmod, fstat, linkat, open, openat, seek};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file is not read if it takes so many bytes more on disk than its content should.
const SLACK_BYTES: u64 = 1 << 20;
/// Bytes that are compared at a time.
const CHUNK_BYTES: u64 = 64 << 10;
/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// The data directory of the last start, under another name.
#[derive(Debug)]
pub struct OldFiles {
    root: OwnedFd,
    /// The directory in it that was used last; `None`: there is none of that name.
    directory: (OsString, Option<OwnedFd>),
}

/// A file, as it should be: holes and pieces.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its length in bytes.
    pub length: u64,
    /// Its content where that is not zero: offsets and bytes.
    pub pieces: &'a [(u64, &'a [u8])],
    /// Its permission bits.
    pub mode: u32,
    /// Its user.
    pub owner: u32,
}

impl OldFiles {
    /// Those in the directory `path`, which is the caller's again. `None`: it is not there.
    pub fn in_directory(path: &Path) -> Option<OldFiles> {
        Some(OldFiles {
            root: open(path, DIRECTORY, Mode::empty()).ok()?,
            directory: (OsString::new(), None),
        })
    }

    /// Gives the file `relative` the name `to`, which does not exist, if it is as `wanted`.
    /// Otherwise `to` does not exist afterwards.
    pub fn take(&mut self, relative: &Path, wanted: &Wanted<'_>, to: &Path) -> bool {
        match self.find(relative, wanted) {
            Ok(Some(file)) => name(&file, to),
            // It is made anew, and says what is wrong.
            Ok(None) | Err(_) => false,
        }
    }

    /// `None`: there is no such file.
    fn find(&mut self, relative: &Path, wanted: &Wanted<'_>) -> io::Result<Option<File>> {
        let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
            return Ok(None);
        };
        let Some(parent) = self.directory(parent) else {
            return Ok(None);
        };
        open_file(parent, name, wanted)
    }

    fn directory(&mut self, relative: &Path) -> Option<&OwnedFd> {
        let mut names = relative.iter();
        let Some(name) = names.next() else {
            return Some(&self.root);
        };
        // MariaDB's databases have no directories in them.
        if names.next().is_some() {
            return None;
        }
        if self.directory.0 != name {
            let opened = openat(&self.root, name, DIRECTORY, Mode::empty()).ok();
            self.directory = (name.to_owned(), opened);
        }
        self.directory.1.as_ref()
    }
}

/// Gives an open file the name `to`.
fn name(file: &File, to: &Path) -> bool {
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, open, CWD, to, AtFlags::SYMLINK_FOLLOW).is_ok()
}

/// Opens a file; `None`: it is not as `wanted`.
fn open_file(parent: &OwnedFd, name: &OsStr, wanted: &Wanted<'_>) -> io::Result<Option<File>> {
    let file = openat(parent, name, FILE, Mode::empty())?;
    let stat = fstat(&file)?;
    let content: u64 = wanted
        .pieces
        .iter()
        .map(|(_, piece)| piece.len() as u64)
        .sum();
    let on_disk = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX);
    if !FileType::from_raw_mode(stat.st_mode).is_file()
        || stat.st_nlink != 1
        || stat.st_uid != wanted.owner
        || u64::try_from(stat.st_size) != Ok(wanted.length)
        || on_disk.saturating_mul(BLOCK_BYTES) > content + SLACK_BYTES
    {
        return Ok(None);
    }
    let file = File::from(file);
    if !has_content(&file, wanted)? {
        return Ok(None);
    }
    // A new file may have fewer bits, by the caller's mask.
    if stat.st_mode & 0o7777 & !wanted.mode != 0 {
        fchmod(&file, Mode::from_raw_mode(wanted.mode))?;
    }
    Ok(Some(file))
}

/// Whether a file of the wanted length has the wanted content.
fn has_content(file: &File, wanted: &Wanted<'_>) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    for (offset, piece) in wanted.pieces {
        for (at, part) in (*offset..)
            .step_by(buffer.len())
            .zip(piece.chunks(buffer.len()))
        {
            let got = &mut buffer[..part.len()];
            file.read_exact_at(got, at)?;
            if got != part {
                return Ok(false);
            }
        }
    }
    if let [(0, piece)] = wanted.pieces
        && piece.len() as u64 == wanted.length
    {
        return Ok(true);
    }
    // Zeros elsewhere. A file that grows meanwhile is another one.
    let mut at = 0;
    while let Some(data) = next(file, SeekFrom::Data(at))? {
        let hole = next(file, SeekFrom::Hole(data))?.unwrap_or(wanted.length);
        if hole > wanted.length {
            return Ok(false);
        }
        at = data;
        while at < hole {
            let count = (hole - at).min(CHUNK_BYTES);
            let got = &mut buffer[..count as usize];
            file.read_exact_at(got, at)?;
            for (offset, piece) in wanted.pieces {
                let begin = (*offset).max(at);
                let end = (offset + piece.len() as u64).min(at + count);
                if begin < end {
                    got[(begin - at) as usize..(end - at) as usize].fill(0);
                }
            }
            if got.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += count;
        }
    }
    Ok(true)
}

/// `None`: there is no data from there on.
fn next(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match seek(file, to) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("old/db")).unwrap();
            fs::create_dir_all(dir.path().join("new/db")).unwrap();
            Place { dir }
        }

        fn old(&self, name: &str) -> PathBuf {
            self.dir.path().join("old").join(name)
        }

        fn files(&self) -> OldFiles {
            OldFiles::in_directory(&self.dir.path().join("old")).unwrap()
        }

        /// A file of the account that runs the tests.
        fn wanted<'a>(&self, length: u64, pieces: &'a [(u64, &'a [u8])]) -> Wanted<'a> {
            Wanted {
                length,
                pieces,
                mode: 0o640,
                owner: fs::metadata(self.dir.path()).unwrap().uid(),
            }
        }

        /// Whether the file `name` is taken over as one with these pieces.
        fn take(&self, name: &str, length: u64, pieces: &[(u64, &[u8])]) -> bool {
            let (mut old, wanted) = (self.files(), self.wanted(length, pieces));
            let to = self.dir.path().join("new").join(name);
            let taken = old.take(Path::new(name), &wanted, &to);
            assert_eq!(taken, fs::symlink_metadata(&to).is_ok(), "{name}");
            taken
        }
    }

    #[test]
    fn files_that_are_the_same_are_taken() {
        let place = Place::new();
        fs::write(place.old("db/t.frm"), b"frm").unwrap();
        fs::set_permissions(place.old("db/t.frm"), PermissionsExt::from_mode(0o4777)).unwrap();
        let inode = fs::metadata(place.old("db/t.frm")).unwrap().ino();
        assert!(place.take("db/t.frm", 3, &[(0, b"frm")]));
        let taken = fs::metadata(place.dir.path().join("new/db/t.frm")).unwrap();
        assert_eq!((taken.ino(), taken.mode() & 0o7777), (inode, 0o640));
        fs::write(place.old("empty"), b"").unwrap();
        assert!(place.take("empty", 0, &[]));
    }

    #[test]
    fn files_with_another_content_are_not_taken() {
        let place = Place::new();
        for (name, content) in [
            ("db/t.frm", &b"frm"[..]),
            ("db/u.frm", b"frm!"),
            ("v", b"fr\0"),
        ] {
            fs::write(place.old(name), content).unwrap();
            assert!(!place.take(name, 3, &[(0, b"fRm")]), "{name}");
        }
        assert!(!place.take("db/none", 0, &[]));
        assert!(!place.take("none/t.frm", 0, &[]));
        assert!(!place.take("db/deeper/t.frm", 0, &[]));
    }

    #[test]
    fn holes_and_pieces_are_compared() {
        let place = Place::new();
        let (length, page) = (1_u64 << 30, vec![7; 16384]);
        let fill = |name: &str| {
            let file = File::create(place.old(name)).unwrap();
            file.set_len(length).unwrap();
            file.write_all_at(&page, 65536).unwrap();
            file
        };
        let pieces: &[(u64, &[u8])] = &[(65536, &page)];
        fill("a.ibd");
        assert!(place.take("a.ibd", length, pieces));
        fill("b.ibd").write_all_at(&[1], length - 1).unwrap();
        assert!(!place.take("b.ibd", length, pieces));
        fill("c.ibd").write_all_at(&[0; 4096], 1 << 20).unwrap();
        assert!(place.take("c.ibd", length, pieces));
        // A piece that is a hole there.
        fill("d.ibd");
        assert!(!place.take("d.ibd", length, &[(65536, &page), (1 << 20, &[1])]));
        fill("e.ibd");
        assert!(!place.take("e.ibd", length, &[]));
        // Too many zeros on disk.
        let zeros = vec![0; 2 * SLACK_BYTES as usize];
        fill("f.ibd").write_all_at(&zeros, 2 << 20).unwrap();
        assert!(!place.take("f.ibd", length, pieces));
    }

    #[test]
    fn links_are_not_followed_and_second_names_are_refused() {
        let place = Place::new();
        let outside = place.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("t.frm"), b"frm").unwrap();
        symlink(outside.join("t.frm"), place.old("db/t.frm")).unwrap();
        assert!(!place.take("db/t.frm", 3, &[(0, b"frm")]));
        symlink(&outside, place.old("link")).unwrap();
        fs::create_dir(place.dir.path().join("new/link")).unwrap();
        assert!(!place.take("link/t.frm", 3, &[(0, b"frm")]));
        fs::hard_link(outside.join("t.frm"), place.old("db/h.frm")).unwrap();
        assert!(!place.take("db/h.frm", 3, &[(0, b"frm")]));
        fs::create_dir(place.old("db/d.frm")).unwrap();
        assert!(!place.take("db/d.frm", 4096, &[]));
        assert!(outside.join("t.frm").exists());
    }

    #[test]
    fn the_file_that_was_compared_is_taken_whatever_has_its_name() {
        let place = Place::new();
        fs::write(place.old("t.frm"), b"frm").unwrap();
        let (mut old, wanted) = (place.files(), place.wanted(3, &[(0, b"frm")]));
        let file = old.find(Path::new("t.frm"), &wanted).unwrap().unwrap();
        let inode = file.metadata().unwrap().ino();
        fs::rename(place.old("t.frm"), place.old("elsewhere")).unwrap();
        fs::create_dir(place.old("t.frm")).unwrap();
        let to = place.dir.path().join("new/t.frm");
        assert!(name(&file, &to));
        assert_eq!(fs::symlink_metadata(&to).unwrap().ino(), inode);
        // One that was removed meanwhile cannot be had again.
        fs::remove_file(&to).unwrap();
        fs::remove_file(place.old("elsewhere")).unwrap();
        assert!(!name(&file, &to) && !to.exists());
    }

    #[test]
    fn files_of_another_account_are_not_taken() {
        let place = Place::new();
        fs::write(place.old("t.frm"), b"frm").unwrap();
        let (mut old, mut wanted) = (place.files(), place.wanted(3, &[(0, b"frm")]));
        wanted.owner += 1;
        let to = place.dir.path().join("new/t.frm");
        assert!(!old.take(Path::new("t.frm"), &wanted, &to));
    }
}
