//! Replays side-file operations, and compares trees.

use super::Frame;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use xylem_client::redo::FileOp;
use xylem_client::sidefiles::names::is_side_file;

fn apply(root: &Path, op: FileOp) {
    let mode = fs::Permissions::from_mode;
    match op {
        FileOp::Create { path, mode: bits } => {
            fs::write(root.join(&path), b"").unwrap();
            fs::set_permissions(root.join(path), mode(bits)).unwrap();
        }
        FileOp::Write { path, offset, data } => {
            let file = fs::OpenOptions::new().write(true).open(root.join(&path));
            let file = file.unwrap_or_else(|e| panic!("{path}: {e}"));
            file.write_all_at(&data, offset).unwrap();
        }
        FileOp::Truncate { path, size } => {
            let file = fs::OpenOptions::new().write(true).open(root.join(path));
            file.unwrap().set_len(size).unwrap();
        }
        FileOp::Rename { from, to } => fs::rename(root.join(from), root.join(to)).unwrap(),
        FileOp::Unlink { path } => {
            fs::remove_file(root.join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
        FileOp::Mkdir { path, mode: bits } => {
            fs::create_dir(root.join(&path)).unwrap();
            fs::set_permissions(root.join(path), mode(bits)).unwrap();
        }
        FileOp::Rmdir { path } => fs::remove_dir(root.join(path)).unwrap(),
    }
}

/// Mode and content of every side file, mode of every database directory.
fn tree(root: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut out = BTreeMap::new();
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{dir}{}", entry.file_name().to_str().unwrap());
            let metadata = entry.metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() && !name.starts_with('#') {
                dirs.push(format!("{name}/"));
                out.insert(name, (mode, Vec::new()));
            } else if is_side_file(&name) {
                out.insert(name, (mode, fs::read(entry.path()).unwrap()));
            }
        }
    }
    out
}

/// Applies the frames to the tree at `root`.
pub fn replay_onto(root: &Path, frames: &[Frame]) {
    for frame in frames {
        if let Some(op) = frame.op() {
            apply(root, op);
        }
    }
}

/// Asserts that both trees have the same side files.
pub fn same(left: &Path, right: &Path) {
    let (left, right) = (tree(left), tree(right));
    assert_eq!(
        left.keys().collect::<Vec<_>>(),
        right.keys().collect::<Vec<_>>()
    );
    for (name, (mode, content)) in &left {
        let (other_mode, other) = &right[name];
        assert_eq!(mode, other_mode, "mode of {name}");
        assert!(
            content == other,
            "{name}: {:?} and {:?}",
            String::from_utf8_lossy(&content[..content.len().min(100)]),
            String::from_utf8_lossy(&other[..other.len().min(100)])
        );
    }
    assert!(left.len() > 3);
}
