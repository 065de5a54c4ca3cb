//! Manifests: edits, snapshots, two writers.

use super::*;
use crate::layer::format::{LayerKind, LayerMeta};
use crate::manifest::format::PREFIX;
use crate::manifest::record::Merging;
use crate::place::LocalFiles;
use xylem_ambient::Entropy;
use xylem_types::Lsn;
use xylem_wal::Position;

const BRANCH: BranchId = BranchId(7);

fn layer(files: &dyn Files, number: u64, end: u64) -> LayerMeta {
    let name = format!(
        "{number:016x}-{:032x}.layer",
        Entropy::system().next().unwrap()
    );
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
        run: number,
        old_bytes: 0,
        raw_bytes: 4,
        held: vec![(Lsn(3), 4)],
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
        resume,
        oldest: Some(Lsn(9)),
        ..Edit::default()
    }
}

#[test]
fn edits_become_snapshots_and_are_all_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut m = Manifest::open(&files, BRANCH, 1).unwrap();
    for n in 1..=200 {
        let mut e = edit(&files, &mut m, n);
        if n % 10 == 0 {
            e.remove = vec![m.layers.first().unwrap().number];
        }
        assert_eq!(m.publish(&files, e).unwrap(), Put::Done);
        if n % 7 == 0 {
            let read = Manifest::open(&files, BRANCH, 1).unwrap();
            assert_eq!(read.layers, m.layers);
            // Opening took it over with a manifest of its own.
            assert_eq!((read.number, read.next_layer), (m.number + 1, m.next_layer));
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
    let mut a = Manifest::open(&files, BRANCH, 1).unwrap();
    let mut b = Manifest {
        writer: 2,
        ..a.clone()
    };
    let e = edit(&files, &mut a, 1);
    a.publish(&files, e.clone()).unwrap();
    b.allocate();
    let error = b.publish(&files, e).unwrap_err().to_string();
    assert!(error.contains("another server"), "{error}");
}

#[test]
fn opening_takes_a_branch_over() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut a = Manifest::open(&files, BRANCH, 1).unwrap();
    let e = edit(&files, &mut a, 1);
    a.publish(&files, e).unwrap();
    let mut b = Manifest::open(&files, BRANCH, 2).unwrap();
    assert_eq!(b.layers, a.layers);
    let e = edit(&files, &mut a, 2);
    assert!(matches!(
        a.publish(&files, e),
        Err(StoreError::Taken(BRANCH))
    ));
    let e = edit(&files, &mut b, 2);
    b.publish(&files, e).unwrap();
}

#[test]
fn what_was_published_unnoticed_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut a = Manifest::open(&files, BRANCH, 1).unwrap();
    let e = edit(&files, &mut a, 1);
    let mut unaware = a.clone();
    a.publish(&files, e.clone()).unwrap();
    unaware.publish(&files, e).unwrap();
    assert_eq!((unaware.number, &unaware.layers), (a.number, &a.layers));
}

#[test]
fn a_fork_names_its_parent_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let point = BranchPoint {
        parent: BranchId(3),
        lsn: Lsn(777),
        position: Position(55),
    };
    Manifest::fork(&files, BRANCH, 1, point).unwrap();
    assert!(Manifest::fork(&files, BRANCH, 1, point).is_err());
    let mut m = Manifest::open(&files, BRANCH, 2).unwrap();
    assert_eq!((m.branch_point, m.resume.lsn), (Some(point), Lsn(777)));
    for n in 700..900 {
        let e = edit(&files, &mut m, n);
        m.publish(&files, e).unwrap();
    }
    let m = Manifest::open(&files, BRANCH, 2).unwrap();
    assert_eq!((m.branch_point, m.layers.len()), (Some(point), 200));
}

#[test]
fn merges_narrow_and_take_the_place_of_what_they_read() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut m = Manifest::open(&files, BRANCH, 1).unwrap();
    for n in 1..=3 {
        let e = edit(&files, &mut m, n);
        m.publish(&files, e).unwrap();
    }
    let inputs = vec![m.layers[0].number, m.layers[1].number];
    let out = m.allocate();
    let merged = LayerMeta {
        run: inputs[1],
        ..layer(&files, out, 102)
    };
    let job = Merging {
        inputs: inputs.clone(),
        run: inputs[1],
        end: Lsn(102),
    };
    let part = Edit {
        add: vec![merged],
        narrow: vec![(inputs[0], vec![1, 7]), (inputs[1], vec![1, 8])],
        resume: m.resume,
        oldest: Some(Lsn(50)),
        merging: vec![job.clone()],
        ..Edit::default()
    };
    m.publish(&files, part).unwrap();
    let read = Manifest::open(&files, BRANCH, 1).unwrap();
    assert_eq!((&read.layers, &read.merging), (&m.layers, &vec![job]));
    let order: Vec<u64> = read.layers.iter().map(|l| l.number).collect();
    assert_eq!(order, [inputs[0], inputs[1], out, 3]);
    assert_eq!(read.layers[1].first_key, [1, 8]);
    let mut m = read;
    let end = Edit {
        remove: inputs,
        resume: m.resume,
        oldest: Some(Lsn(49)),
        ..Edit::default()
    };
    let back = m.publish(&files, end.clone()).unwrap_err().to_string();
    assert!(back.contains("history"), "{back}");
    let oldest = Some(Lsn(50));
    m.publish(&files, Edit { oldest, ..end }).unwrap();
    let read = Manifest::open(&files, BRANCH, 1).unwrap();
    assert_eq!((read.layers.len(), read.merging.len()), (2, 0));
}

/// The version that the newest manifest's file says it is.
fn version(files: &dyn Files, m: &Manifest) -> u8 {
    files.read(&name_of(m.number)).unwrap()[8]
}

#[test]
fn several_merges_are_read_back_and_share_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut m = Manifest::open(&files, BRANCH, 1).unwrap();
    for n in 1..=9 {
        let e = edit(&files, &mut m, n);
        m.publish(&files, e).unwrap();
    }
    let job = |inputs: std::ops::RangeInclusive<u64>| Merging {
        run: *inputs.end(),
        end: Lsn(100 + inputs.end()),
        inputs: inputs.collect(),
    };
    let same = |m: &Manifest, merging| Edit {
        resume: m.resume,
        oldest: m.oldest,
        merging,
        ..Edit::default()
    };
    let refused = |m: &Manifest, merging| m.clone().publish(&files, same(m, merging)).unwrap_err();
    let twice = refused(&m, vec![job(1..=3), job(3..=5)]).to_string();
    assert!(twice.contains("twice"), "{twice}");
    let order = refused(&m, vec![job(4..=5), job(1..=2)]).to_string();
    assert!(order.contains("order"), "{order}");
    let gone = refused(&m, vec![job(9..=10)]).to_string();
    assert!(gone.contains("not there"), "{gone}");
    let many = (1..=5).map(|n| job(n..=n)).collect();
    let many = refused(&m, many).to_string();
    assert!(many.contains("5 merges"), "{many}");

    // Each piece changes its own merge only.
    for (rest, now) in [
        (job(1..=2), vec![job(1..=2)]),
        (job(6..=8), vec![job(1..=2), job(6..=8)]),
        (job(4..=4), vec![job(1..=2), job(4..=4), job(6..=8)]),
    ] {
        let merging = m.merging_with(rest.run, Some(rest.clone()));
        assert_eq!(merging, now);
        m.publish(&files, same(&m, merging)).unwrap();
        let many = u8::from(now.len() > 1);
        assert_eq!(version(&files, &m), 3 + many);
        let read = Manifest::load(&files, BRANCH, m.number).unwrap();
        assert_eq!(read.merging, now);
        // In a snapshot, too.
        let parsed = parse(&render(&m, None), BRANCH, m.number).unwrap();
        assert_eq!(parsed.edit.merging, now);
    }
    // A server that knows one merge at most must not take the first for all.
    let mut raw = render(&m, None);
    raw[8] = 3;
    let crc = crc32c::crc32c(&raw[..60]);
    raw[60..64].copy_from_slice(&crc.to_le_bytes());
    let error = parse(&raw, BRANCH, m.number).err().unwrap();
    assert!(error.contains("malformed"), "{error}");

    let mut ended = same(&m, m.merging_with(4, None));
    ended.remove = vec![4];
    m.publish(&files, ended).unwrap();
    assert_eq!(m.merging, [job(1..=2), job(6..=8)]);
    let mut early = same(&m, m.merging.clone());
    early.remove = vec![7];
    let early = m.publish(&files, early).unwrap_err().to_string();
    assert!(early.contains("not there"), "{early}");
    // The next owner of the branch goes on with all of them.
    let read = Manifest::open(&files, BRANCH, 2).unwrap();
    assert_eq!(read.merging, m.merging);
    assert_eq!(version(&files, &read), 4);
}

#[test]
fn edits_that_would_lose_something_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut m = Manifest::open(&files, BRANCH, 1).unwrap();
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
    let mut m = Manifest::open(&files, BRANCH, 1).unwrap();
    for n in 1..4 {
        let e = edit(&files, &mut m, n);
        m.publish(&files, e).unwrap();
    }
    assert!(Manifest::open(&files, BranchId(8), 1).is_err());
    files.remove(&name_of(2)).unwrap();
    assert!(Manifest::open(&files, BRANCH, 1).is_err());
}

/// A's put gets through only when B has gone on beyond a snapshot, so that A's
/// number is free again.
#[test]
fn a_put_that_comes_after_its_number_was_freed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut a = Manifest::open(&files, BRANCH, 1).unwrap();
    let e = edit(&files, &mut a, 1);
    a.publish(&files, e).unwrap();
    let mut b = Manifest::open(&files, BRANCH, 2).unwrap();
    for n in 2..150 {
        // Before B's next manifest: at each of them A may wake up.
        let mut late = a.clone();
        let mut e = edit(&files, &mut late, 2);
        e.remove = vec![late.layers[0].number];
        let before = late.layers.clone();
        assert!(
            matches!(late.publish(&files, e), Err(StoreError::Taken(BRANCH))),
            "after {n} manifests"
        );
        assert_eq!(late.layers, before);
        let e = edit(&files, &mut b, n);
        b.publish(&files, e).unwrap();
    }
    let read = Manifest::open(&files, BRANCH, 3).unwrap();
    assert_eq!(read.layers, b.layers);
    assert!(read.layers.iter().any(|l| l.name == a.layers[0].name));
}

/// Files where something happens before the next put.
struct Before<'a> {
    files: &'a LocalFiles,
    happens: parking_lot::Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
}

impl Files for Before<'_> {
    fn list(&self) -> std::io::Result<Vec<(String, u64)>> {
        self.files.list()
    }
    fn create(&self, name: &str) -> std::io::Result<Box<dyn crate::place::FileWriter>> {
        self.files.create(name)
    }
    fn open(&self, name: &str) -> std::io::Result<std::sync::Arc<dyn crate::place::FileReader>> {
        self.files.open(name)
    }
    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        self.files.read(name)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.files.remove(name)
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> std::io::Result<Put> {
        let happens = self.happens.lock().take();
        if let Some(happens) = happens {
            happens();
        }
        self.files.put_new(name, bytes)
    }
}

/// A process that opens a branch is held up between looking and claiming, and
/// the branch goes on beyond a snapshot: its layers are not swept as leftovers.
#[test]
fn a_claim_that_comes_too_late_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut owner = Manifest::open(&files, BRANCH, 1).unwrap();
    let goes_on = || {
        for n in 1..100 {
            let e = edit(&files, &mut owner, n);
            owner.publish(&files, e).unwrap();
        }
    };
    let late = Before {
        files: &files,
        happens: parking_lot::Mutex::new(Some(Box::new(goes_on))),
    };
    let claimed = Manifest::open(&late, BRANCH, 2).unwrap();
    drop(late);
    assert_eq!(claimed.layers.len(), 99);
    let again = Manifest::open(&files, BRANCH, 3).unwrap();
    assert_eq!(again.layers, claimed.layers);
    let e = edit(&files, &mut owner, 100);
    let refused = owner.publish(&files, e);
    assert!(
        matches!(refused, Err(StoreError::Taken(BRANCH))),
        "{refused:?}"
    );
}

/// The branch was removed meanwhile: nothing is newer, and nothing is there
/// that a late put could follow.
#[test]
fn a_put_into_a_branch_that_was_removed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let mut a = Manifest::open(&files, BRANCH, 1).unwrap();
    let e = edit(&files, &mut a, 1);
    for (name, _) in files.list().unwrap() {
        files.remove(&name).unwrap();
    }
    assert!(matches!(
        a.publish(&files, e),
        Err(StoreError::Taken(BRANCH))
    ));
}
