//! Opening a WAL that a crash has torn or a disk has damaged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common::{Writer, block_on, frames, open, read_all, segment, small};
use std::sync::Arc;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{Entry, LocalWal, LocalWalConfig, Position, Wal, WalError};

/// Where the entries of a segment begin.
const HEADER: usize = 4096;
const ENTRY: usize = 60;

/// A closed WAL with these groups, each durable before the next, and where in
/// segment 1 each entry ends.
fn written(groups: &[&[usize]]) -> (ModelDisk, Vec<Entry>, Writer) {
    let disk = ModelDisk::new();
    let (entries, writer) = block_on(async {
        let wal = open(&disk).unwrap();
        let mut writer = Writer::attach(&wal).await.unwrap();
        for sizes in groups {
            writer.write(&wal, sizes).await.unwrap();
        }
        let entries = read_all(&wal).unwrap();
        wal.close().await.unwrap();
        (entries, writer)
    });
    (disk, entries, writer)
}

/// Checks that the WAL on `disk` holds `expected`, takes more, and still holds
/// the right thing when opened again.
fn assert_goes_on(disk: &ModelDisk, expected: &[Entry]) {
    let more = block_on(async {
        let wal = open(disk).unwrap();
        assert_eq!(read_all(&wal).unwrap(), expected);
        assert_eq!(
            wal.durable().borrow().position(),
            expected.last().map_or(Position(0), |e| e.next)
        );
        let mut writer = Writer::attach(&wal).await.unwrap();
        writer.write(&wal, &[10]).await.unwrap();
        read_all(&wal).unwrap()
    });
    assert_eq!(more.len(), expected.len() + 3);
    assert_eq!(read_all(&open(&disk.crash(1)).unwrap()).unwrap(), more);
}

fn corrupt(disk: &ModelDisk) -> String {
    match open(disk) {
        Err(WalError::Corrupt(what)) => what,
        other => panic!("not corrupt: {other:?}"),
    }
}

#[test]
fn torn_at_every_byte_of_the_last_entry() {
    let (disk, entries, _) = written(&[&[300], &[20], &[100]]);
    let start = HEADER + entries[entries.len() - 2].next.0 as usize;
    let end = HEADER + entries[entries.len() - 1].next.0 as usize;
    assert_eq!(end - start, ENTRY + 100);
    let whole = disk.contents(&segment(1)).unwrap();
    for cut in start..end {
        for garbage in [false, true] {
            let torn = disk.copy();
            let tail: Vec<u8> = (cut..end)
                .map(|at| if garbage { !whole[at] } else { 0 })
                .collect();
            torn.poke(&segment(1), cut, &tail);
            // Header bytes may be zeros: then nothing was torn off.
            let same = torn.contents(&segment(1)).unwrap() == whole;
            assert_goes_on(&torn, &entries[..entries.len() - usize::from(!same)]);
        }
    }
}

#[test]
fn torn_in_a_group() {
    let (disk, entries, _) = written(&[&[100], &[50, 60, 70]]);
    let count = entries.len();
    for lost in 0..3 {
        // Any entry of the last write may be missing, whatever is there of
        // those after it.
        let torn = disk.copy();
        let start = HEADER + entries[count - 4 + lost].next.0 as usize;
        torn.poke(&segment(1), start + 30, &[0; 20]);
        assert_goes_on(&torn, &entries[..count - 3 + lost]);
    }
}

#[test]
fn what_was_cut_off_stays_off() {
    let (disk, entries, mut writer) = written(&[&[100], &[50, 50, 50]]);
    let count = entries.len();
    let start = HEADER + entries[count - 4].next.0 as usize;
    // The first of three is lost; the same one is sent again. Had the other
    // two stayed, they would follow it as if they belonged.
    disk.poke(&segment(1), start, &[0; 20]);
    let expected = block_on(async {
        let wal = open(&disk).unwrap();
        assert_eq!(read_all(&wal).unwrap(), entries[..count - 3]);
        (writer.seq, writer.lsn) = (1, writer.lsn - 150);
        writer.write(&wal, &[50]).await.unwrap();
        read_all(&wal).unwrap()
    });
    let said = |e: &Entry| (e.next, e.epoch, e.record.clone());
    let before: Vec<_> = entries[..count - 2].iter().map(said).collect();
    assert_eq!(expected.iter().map(said).collect::<Vec<_>>(), before);
    assert_goes_on(&disk.crash(0), &expected);
}

#[test]
fn damage_before_the_last_write_is_told() {
    let (disk, entries, _) = written(&[&[30], &[20], &[25]]);
    let last = HEADER + entries[entries.len() - 2].next.0 as usize;
    let mut starts: Vec<usize> = vec![HEADER];
    starts.extend(entries.iter().map(|e| HEADER + e.next.0 as usize));
    let whole = disk.contents(&segment(1)).unwrap();
    for (at, byte) in whole.iter().enumerate().take(last).skip(HEADER) {
        for bit in [0x01, 0x80, 0xFF] {
            let damaged = disk.copy();
            damaged.poke(&segment(1), at, &[byte ^ bit]);
            // Bytes 57 to 59 of a header are reserved, and covered as well.
            let entry = starts.iter().rfind(|s| **s <= at).unwrap();
            let what = corrupt(&damaged);
            assert!(
                what.contains(&format!("model/{} at byte {entry}:", segment(1))),
                "byte {at}: {what}"
            );
        }
    }
    let zeroed = disk.copy();
    zeroed.poke(&segment(1), HEADER, &[0; 100]);
    corrupt(&zeroed);
}

#[test]
fn segment_headers_are_checked() {
    let (disk, ..) = written(&[&[30]]);
    let whole = disk.contents(&segment(1)).unwrap();
    for (at, byte) in whole.iter().enumerate().take(44) {
        let damaged = disk.copy();
        damaged.poke(&segment(1), at, &[byte ^ 4]);
        let what = corrupt(&damaged);
        assert!(what.contains(&segment(1)), "{what}");
        if (8..12).contains(&at) {
            assert!(what.contains("format version"), "{what}");
        }
    }
    for size in [0, 43, 4095, 5000] {
        let short = disk.copy();
        short.shorten(&segment(1), size);
        let what = corrupt(&short);
        assert!(
            what.contains(&segment(1)) && what.contains(&size.to_string()),
            "{what}"
        );
    }
}

/// A WAL of several segments, and the segment of each entry.
fn several_segments() -> (ModelDisk, Vec<Entry>, Vec<u64>) {
    // No segment ends within a group.
    let groups: Vec<&[usize]> = vec![&[1501, 100]; 20];
    let (disk, entries, _) = written(&groups);
    let mut firsts = Vec::new();
    for number in 1.. {
        let Some(bytes) = disk.contents(&segment(number)) else {
            break;
        };
        let first = u64::from_le_bytes(bytes[HEADER + 16..HEADER + 24].try_into().unwrap());
        if first > 0 || number == 1 {
            firsts.push(first);
        }
    }
    assert!(firsts.len() >= 3, "{firsts:?}");
    (disk, entries, firsts)
}

#[test]
fn a_missing_segment_is_told() {
    let (disk, _, firsts) = several_segments();
    use xylem_wal::disk::Disk;
    let damaged = disk.copy();
    damaged.remove(&segment(2)).unwrap();
    let what = corrupt(&damaged);
    assert!(
        what.contains(&segment(2)) && what.contains("missing"),
        "{what}"
    );
    // The oldest may be gone: it may have been trimmed.
    let trimmed = disk.copy();
    trimmed.remove(&segment(1)).unwrap();
    let wal = open(&trimmed).unwrap();
    assert_eq!(wal.first(), Position(firsts[1]));
    read_all(&wal).unwrap();
}

#[test]
fn damage_in_an_older_segment_is_told_when_read() {
    let (disk, entries, firsts) = several_segments();
    let whole = disk.contents(&segment(1)).unwrap();
    let second = HEADER + entries[0].next.0 as usize;
    for at in [second, second + 16, second + 48, second + 56] {
        let damaged = disk.copy();
        damaged.poke(&segment(1), at, &[whole[at] ^ 1]);
        let wal = open(&damaged).unwrap();
        let mut reader = wal.read_from(Position(0)).unwrap();
        assert_eq!(reader.next().unwrap().as_ref(), Some(&entries[0]));
        for _ in 0..2 {
            match reader.next() {
                Err(WalError::Corrupt(what)) => {
                    assert!(
                        what.contains(&segment(1)) && what.contains(&format!("at byte {second}")),
                        "{what}"
                    );
                }
                other => panic!("not corrupt: {other:?}"),
            }
        }
        // Entries behind it can still be read.
        let mut rest = wal.read_from(Position(firsts[1])).unwrap();
        while rest.next().unwrap().is_some() {}
    }
    // Without its first entry's header a segment has no place.
    let damaged = disk.copy();
    damaged.poke(&segment(2), HEADER + 20, &[0xAA]);
    assert!(corrupt(&damaged).contains(&segment(2)));
}

#[test]
fn a_torn_first_write_of_a_segment_is_cut_off() {
    let (disk, entries, firsts) = several_segments();
    let last = firsts.len() as u64;
    let first = *firsts.last().unwrap();
    let whole = disk.contents(&segment(last)).unwrap();
    let kept: Vec<Entry> = entries
        .iter()
        .filter(|e| e.next.0 <= first)
        .cloned()
        .collect();
    let later = entries[kept.len()..].to_vec();
    // The last segment has only its first write, and that one in part.
    let group = 2 * ENTRY + 1601;
    for lost in [0..30, 0..ENTRY, 30..200, 0..group] {
        let torn = disk.copy();
        torn.poke(
            &segment(last),
            HEADER + group,
            &vec![0; whole.len() - HEADER - group],
        );
        torn.poke(&segment(last), HEADER + lost.start, &vec![0; lost.len()]);
        if torn.contents(&segment(last + 1)).is_some() {
            use xylem_wal::disk::Disk;
            torn.remove(&segment(last + 1)).unwrap();
        }
        assert_goes_on(&torn, &kept);
    }
    // With a second write behind it, the first was durable.
    if later.len() > 2 {
        let damaged = disk.copy();
        damaged.poke(&segment(last), HEADER, &[0; ENTRY]);
        assert!(corrupt(&damaged).contains(&segment(last)));
    }
    // With a write in the next segment, all of the one before was.
    let damaged = disk.copy();
    let end = HEADER + (first - firsts[firsts.len() - 2]) as usize;
    damaged.poke(
        &segment(last),
        HEADER + group,
        &vec![0; whole.len() - HEADER - group],
    );
    damaged.poke(&segment(last), HEADER, &[0; 10]);
    damaged.poke(&segment(last - 1), end - 20, &[0; 10]);
    assert!(corrupt(&damaged).contains(&segment(last - 1)));
}

#[test]
fn other_configurations_open_the_same_wal() {
    let (disk, mut entries, _) = written(&[&[1500, 100], &[2000], &[1]]);
    let large = LocalWalConfig {
        segment_bytes: 200 << 10,
        max_frame_bytes: 40 << 10,
        ..small()
    };
    for (config, bytes) in [(large.clone(), 40 << 10), (small(), 2000), (large, 33_000)] {
        block_on(async {
            let wal = LocalWal::open_on(Arc::new(disk.clone()), config).unwrap();
            assert_eq!(read_all(&wal).unwrap(), entries);
            let mut writer = Writer::attach(&wal).await.unwrap();
            for _ in 0..10 {
                writer.write(&wal, &[bytes, 5]).await.unwrap();
            }
            entries = read_all(&wal).unwrap();
            wal.close().await.unwrap();
        });
    }
}

#[test]
fn wrong_configurations_are_refused() {
    for config in [
        LocalWalConfig {
            segment_bytes: 4 << 10,
            ..small()
        },
        LocalWalConfig {
            batch_bytes: 2 << 30,
            ..small()
        },
        LocalWalConfig {
            max_frame_bytes: u64::MAX,
            ..small()
        },
    ] {
        let refused = LocalWal::open_on(Arc::new(ModelDisk::new()), config);
        assert!(
            matches!(refused, Err(WalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidInput)
        );
    }
}

#[test]
fn files_of_others_are_left_alone_and_half_made_ones_removed() {
    use xylem_wal::disk::Disk;
    let (disk, entries, _) = written(&[&[100]]);
    for name in [
        "notes.txt",
        "1.wal",
        "00000000000001.wal",
        "+00000000001.wal",
        "spare-x",
    ] {
        disk.create(name).unwrap();
    }
    disk.create("spare-000000000002").unwrap();
    let wal = open(&disk).unwrap();
    assert_eq!(read_all(&wal).unwrap(), entries);
    assert!(disk.contents("notes.txt").is_some() && disk.contents("1.wal").is_some());
    assert!(disk.contents("spare-000000000002").is_none());
    assert_eq!(wal.stored_bytes(), disk.used());
}

#[test]
fn the_error_of_a_second_opener_says_what_to_look_for() {
    let disk = ModelDisk::new();
    let _wal = open(&disk).unwrap();
    let error = open(&disk).unwrap_err().to_string();
    assert!(
        error.contains("model") && error.contains("another process"),
        "{error}"
    );
}

#[test]
fn a_follower_does_not_open_files() {
    use xylem_wal::disk::model::Op;
    let disk = ModelDisk::new();
    block_on(async {
        let wal = open(&disk).unwrap();
        let mut writer = Writer::attach(&wal).await.unwrap();
        let mut reader = wal.read_from(wal.first()).unwrap();
        while reader.next().unwrap().is_some() {}
        disk.fail(Op::Open, 0, u32::MAX, std::io::ErrorKind::PermissionDenied);
        for _ in 0..10 {
            assert!(reader.next().unwrap().is_none());
            writer.write(&wal, &[10]).await.unwrap();
            assert_eq!(
                frames(&[reader.next().unwrap().unwrap()])[0].seq.0,
                writer.seq
            );
        }
    });
}

#[test]
fn the_last_durable_entry_is_never_trimmed() {
    for seed in 0..16 {
        let disk = ModelDisk::new();
        let (durable, crashed) = block_on(async {
            let wal = open(&disk).unwrap();
            let mut writer = Writer::attach(&wal).await.unwrap();
            let durable = writer.write(&wal, &[1500]).await.unwrap();
            // The next segment is there, and its first write under way.
            while disk.contents(&segment(2)).is_none() {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            disk.hold(true);
            let frame = writer.redo(1000);
            wal.append(writer.epoch, vec![frame]).await.unwrap();
            while disk.contents(&segment(2)).unwrap()[HEADER..]
                .iter()
                .all(|b| *b == 0)
            {
                tokio::task::yield_now().await;
            }
            wal.trim(durable.position()).unwrap();
            (durable, disk.crash(seed))
        });
        let wal = open(&crashed).unwrap();
        assert!(wal.durable().borrow().position() >= durable.position());
        assert_eq!(wal.durable().borrow().epoch(), durable.epoch());
        assert!(!read_all(&wal).unwrap().is_empty());
    }
}

/// A segment of real size that was used before holds 64 million places where a
/// header could begin: one time in fifty, one of them has the right checksum by
/// chance. Whether a healthy WAL opens depends on how recovery reads that
/// header.
#[test]
fn chance_does_not_bear_witness_in_a_recycled_segment_of_real_size() {
    use std::os::unix::fs::FileExt;
    const SEGMENT: u64 = 64 << 20;
    let dir = tempfile::tempdir().unwrap();
    let config = || LocalWalConfig {
        segment_bytes: SEGMENT,
        // All segments have one size, so that the first is used again.
        max_frame_bytes: SEGMENT - (HEADER + ENTRY) as u64,
        ..LocalWalConfig::default()
    };
    let open = || LocalWal::open(dir.path(), config());
    let path = |number| dir.path().join(segment(number));
    let epoch = block_on(async {
        let wal = open().unwrap();
        let first = Writer::attach(&wal).await.unwrap();
        assert_eq!(first.epoch.0, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        // Segment 1 full, and 2 begun; 1 goes; 2 more than half full: 3 is made.
        for _ in 0..17 {
            writer.write(&wal, &[4 << 20]).await.unwrap();
        }
        wal.trim(wal.durable().borrow().position()).unwrap();
        while !path(3).exists() {
            writer.write(&wal, &[4 << 20]).await.unwrap();
        }
        wal.close().await.unwrap();
        writer.epoch.0
    });
    let (entries, end, now) = {
        let wal = open().unwrap();
        let entries = read_all(&wal).unwrap();
        let end = wal.durable().borrow().position().0;
        let now = entries.last().unwrap().time_us;
        (entries.len(), end, now)
    };
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path(3))
        .unwrap();
    let mut salt = [0; 8];
    file.read_exact_at(&mut salt, 32).unwrap();
    assert_eq!(file.metadata().unwrap().len(), SEGMENT);

    // The header of an entry of redo that a later write has left.
    let at = 31 << 20;
    let whole = || {
        let mut header = [0u8; ENTRY];
        header[8..12].copy_from_slice(&1000u32.to_le_bytes());
        header[12..16].copy_from_slice(&2000u32.to_le_bytes());
        header[16..24].copy_from_slice(&(end + at - HEADER as u64).to_le_bytes());
        header[24..32].copy_from_slice(&epoch.to_le_bytes());
        header[32..40].copy_from_slice(&77u64.to_le_bytes());
        header[48..56].copy_from_slice(&now.to_le_bytes());
        header[56] = 3;
        header
    };
    let write = |mut header: [u8; ENTRY]| {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&salt), &header[4..]);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&header, at).unwrap();
    };
    let with = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut header = whole();
        header[range].copy_from_slice(bytes);
        header
    };
    let chance: [(&str, [u8; ENTRY]); 9] = [
        ("anything", std::array::from_fn(|nth| (nth * 7 + 1) as u8)),
        ("no kind", with(56..57, &[0])),
        ("no kind that is written", with(56..57, &[23])),
        ("a seal with a payload", with(56..57, &[1])),
        ("a frame without a number", with(32..40, &[0; 8])),
        ("an older epoch", with(24..32, &(epoch - 1).to_le_bytes())),
        ("an earlier time", with(48..56, &(now - 1).to_le_bytes())),
        (
            "a write that began in another segment",
            with(12..16, &(32u32 << 20).to_le_bytes()),
        ),
        (
            "a place that no entry of this segment has",
            with(16..24, &(end + 2 * SEGMENT).to_le_bytes()),
        ),
    ];
    for (what, header) in chance {
        write(header);
        let wal = open().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(wal.durable().borrow().position().0, end, "{what}");
    }
    assert_eq!(read_all(&open().unwrap()).unwrap().len(), entries);
    // One that is none of these does bear witness.
    write(whole());
    let Err(WalError::Corrupt(why)) = open() else {
        panic!("what was durable has gone and nobody says so")
    };
    assert!(why.contains("a durable entry is damaged"), "{why}");
}
