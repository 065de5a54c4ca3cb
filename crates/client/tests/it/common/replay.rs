//! Replays side-file operations, and compares trees.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use xylem_client::sidefiles::names::is_side_file;
use xylem_proto::pageserver::{FileOp, WalFrame, file_op::Kind, wal_frame::Body};

fn apply(root: &Path, op: &FileOp) {
    let path = root.join(&op.path);
    match op.kind() {
        Kind::Create => {
            fs::write(&path, b"").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(op.mode)).unwrap();
        }
        Kind::Write => {
            let file = fs::OpenOptions::new().write(true).open(&path);
            let file = file.unwrap_or_else(|e| panic!("{}: {e}", op.path));
            file.write_all_at(&op.data, op.offset).unwrap();
        }
        Kind::Truncate => {
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(op.offset)
                .unwrap();
        }
        Kind::Rename => fs::rename(&path, root.join(&op.new_path)).unwrap(),
        Kind::Unlink => fs::remove_file(&path).unwrap_or_else(|e| panic!("{}: {e}", op.path)),
        Kind::Mkdir => {
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(op.mode)).unwrap();
        }
        Kind::Rmdir => fs::remove_dir(&path).unwrap(),
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
pub fn replay_onto(root: &Path, frames: &[WalFrame]) {
    for frame in frames {
        if let Some(Body::File(op)) = &frame.body {
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
