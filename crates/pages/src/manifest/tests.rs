//! Manifests: edits, snapshots, two writers.

use super::*;
use crate::files::LocalFiles;
use crate::layer::LayerKind;

const BRANCH: BranchId = BranchId(7);

fn layer(files: &dyn Files, number: u64, end: u64) -> LayerMeta {
    let name = format!("{number:016x}-0.layer");
    let mut w = files.create(&name).unwrap();
    w.write(b"layer").unwrap();
    w.finish().unwrap();
    LayerMeta {
        number,
        name,
        kind: LayerKind::Delta,
        bytes: 5,
        start: Lsn(end - 1),
        end: Lsn(end),
        first_key: vec![1],
        last_key: vec![2],
        keys: 1,
        tags: 2,
        full_catalog: false,
    }
}

fn edit(files: &dyn Files, m: &mut Manifest, n: u64) -> Edit {
    let resume = Resume {
        position: Position(n),
        lsn: Lsn(100 + n),
        operations: Position(n),
        begun: true,
    };
    let number = m.allocate();
    Edit {
        add: vec![layer(files, number, 100 + n)],
        remove: Vec::new(),
        resume,
        oldest: Some(Lsn(9)),
    }
}

#[test]
fn edits_become_snapshots_and_are_all_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut m = Manifest::open(&files, BRANCH).unwrap();
    for n in 1..=200 {
        let mut e = edit(&files, &mut m, n);
        if n % 10 == 0 {
            e.remove = vec![m.layers.first().unwrap().number];
        }
        assert_eq!(m.publish(&files, e).unwrap(), Put::Done);
        if n % 7 == 0 {
            let read = Manifest::open(&files, BRANCH).unwrap();
            assert_eq!(read.layers, m.layers);
            assert_eq!(
                (read.number, read.edits, read.next_layer),
                (m.number, m.edits, m.next_layer)
            );
            assert_eq!((read.resume, read.oldest), (m.resume, m.oldest));
            m = read;
        }
    }
    assert_eq!(m.layers.len(), 180);
    let manifests = files
        .list()
        .unwrap()
        .iter()
        .filter(|(n, _)| n.starts_with(PREFIX))
        .count();
    assert!(manifests <= EDITS_MAX as usize, "{manifests} manifests");
}

#[test]
fn the_second_writer_of_a_number_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut a = Manifest::open(&files, BRANCH).unwrap();
    let mut b = a.clone();
    let e = edit(&files, &mut a, 1);
    a.publish(&files, e.clone()).unwrap();
    b.allocate();
    let error = b.publish(&files, e).unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
}

#[test]
fn edits_that_would_lose_something_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut m = Manifest::open(&files, BRANCH).unwrap();
    let e = edit(&files, &mut m, 5);
    m.publish(&files, e).unwrap();
    let back = edit(&files, &mut m, 4);
    assert!(m.publish(&files, back).is_err());
    let mut beyond = edit(&files, &mut m, 6);
    beyond.add[0].end = Lsn(9999);
    assert!(m.publish(&files, beyond).is_err());
    let mut stranger = edit(&files, &mut m, 7);
    stranger.add[0].number = 4711;
    assert!(m.publish(&files, stranger).is_err());
}

#[test]
fn another_branchs_manifest_and_a_gap_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut m = Manifest::open(&files, BRANCH).unwrap();
    for n in 1..4 {
        let e = edit(&files, &mut m, n);
        m.publish(&files, e).unwrap();
    }
    assert!(Manifest::open(&files, BranchId(8)).is_err());
    files.remove(&name_of(2)).unwrap();
    assert!(Manifest::open(&files, BRANCH).is_err());
}
