//! Redo: frames, acknowledgements, and what is refused.

use super::{metric, streams};
use crate::common::branch::{create, remove};
use crate::common::compute::{
    Door, Link, Redo, Refusal, WAYS, Way, create_frame, newest, reader, redo_frame, start, writer,
};
use crate::common::redo::{mark, marked, mkdir, tablespace};
use crate::common::{Writer, wait_applied, with_database};
use std::time::{Duration, Instant};
use tonic::Code;
use xylem_wire::{Hello, ping};

/// The mark of page 5:3, as a compute reads it that wants everything up to `lsn`.
fn read_mark(door: &Door, page: u32, lsn: u64) -> u32 {
    let mut link = Link::open(door, Way::Unix, &reader()).unwrap().0;
    let get = xylem_wire::GetPage {
        min_lsn: lsn,
        timeout_ms: 20_000,
        ..newest(5, page)
    };
    link.get(1, &get);
    marked(&link.page().2)
}

#[tokio::test]
async fn frames_are_acknowledged_once_durable_and_survive_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, mut door) = start(dir.path(), |_| {});
    let (attached, old) = with_database(&server).await;
    let (mut seq, mut lsn) = (old.seq, old.lsn);
    drop(old);
    for round in 0..4u32 {
        let way = WAYS[round as usize % 2];
        let mut redo = Redo::open(&door, way, attached.epoch).unwrap();
        assert_eq!((redo.first.durable_seq, redo.first.durable_lsn), (seq, lsn));
        redo.redo(&mark(5, 3, round));
        let ack = redo.durable();
        assert!(ack.applied_lsn <= ack.durable_lsn);
        // A frame that is there already, and a new one behind it.
        let again = redo_frame(redo.seq, lsn, &mark(5, 3, round));
        redo.link.send(&again);
        redo.redo(&mark(5, 4, round));
        redo.durable();
        (seq, lsn) = (redo.seq, redo.lsn);
        drop(redo);
        match round % 2 {
            0 => server.crash(),
            _ => server.stop(),
        }
        (server, door) = start(dir.path(), |_| {});
        assert_eq!(read_mark(&door, 3, lsn), round);
        assert_eq!(read_mark(&door, 4, lsn), round);
    }
    drop(server);
}

#[tokio::test]
async fn after_a_crash_ingest_has_a_head_start() {
    const FRAMES: u32 = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (attached, old) = with_database(&server).await;
    drop(old);
    let mut redo = Redo::open(&door, Way::Unix, attached.epoch).unwrap();
    for number in 0..FRAMES {
        redo.redo(&mark(5, 3 + number % 50, number));
        if number % 500 == 499 {
            redo.durable();
        }
    }
    server.crash();
    let (server, door) = start(dir.path(), |_| {});
    let began = Instant::now();
    let first = Redo::open(&door, Way::Unix, attached.epoch).unwrap().first;
    assert_eq!(first.durable_lsn, redo.lsn);
    // On a busy machine the head start may be too short.
    let waited = began.elapsed() >= Duration::from_millis(250);
    assert!(first.applied_lsn == redo.lsn || waited, "{first:?}");
    drop(server);
}

/// The head start is bounded: here ingest never gets further.
#[tokio::test]
async fn after_a_crash_commits_do_not_wait_for_ingest_that_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = start(dir.path(), |_| {});
    let (attached, mut old) = with_database(&server).await;
    // A valid frame, but no file can have such a name.
    old.redo(tablespace(7, "./a\0b.ibd", 4)).await;
    old.durable().await;
    server.crash();
    let (server, door) = start(dir.path(), |_| {});
    for way in WAYS {
        let mut redo = Redo::open(&door, way, attached.epoch).unwrap();
        assert!(redo.first.applied_lsn < redo.first.durable_lsn);
        redo.redo(&mark(5, 3, 1));
        redo.durable();
    }
    drop(server);
}

#[tokio::test]
async fn many_frames_at_once_are_taken_in_order() {
    const FRAMES: u32 = 5000;
    let dir = tempfile::tempdir().unwrap();
    // More than a segment of the WAL holds.
    let (server, door) = start(dir.path(), |_| {});
    let (attached, old) = with_database(&server).await;
    drop(old);
    for way in WAYS {
        let mut redo = Redo::open(&door, way, attached.epoch).unwrap();
        for number in 0..FRAMES {
            redo.redo(&crate::common::redo::bulky_mark(5, 3 + number % 50, number));
            // A compute takes its acknowledgements while it sends.
            if number % 500 == 498 {
                redo.durable();
            }
        }
        redo.durable();
        assert_eq!(
            read_mark(&door, 3 + (FRAMES - 1) % 50, redo.lsn),
            FRAMES - 1
        );
    }
}

#[tokio::test]
async fn a_newer_connection_or_stream_of_the_epoch_replaces_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (attached, mut grpc) = with_database(&server).await;
    let replaced = |(code, message): Refusal| {
        assert_eq!(code, Code::Aborted, "{message}");
        assert!(message.contains("replaced"), "{message}");
    };
    let mut first = Redo::open(&door, Way::Tcp, attached.epoch).unwrap();
    let ended = grpc.end().await.unwrap_err();
    replaced((ended.code(), ended.message().to_owned()));
    let mut second = Redo::open(&door, Way::Unix, attached.epoch).unwrap();
    replaced(first.ended());
    second.redo(&mark(5, 3, 1));
    second.durable();
    let mut third = Writer::open(&server, attached.epoch).await;
    assert_eq!((third.seq, third.lsn), (second.seq, second.lsn));
    replaced(second.ended());
    third.redo(mark(5, 3, 2)).await;
    third.durable().await;
    assert_eq!(read_mark(&door, 3, third.lsn), 2);
}

/// A compute that writes nothing for a while must learn of its end, too.
#[tokio::test]
async fn a_newer_epoch_fences_idle_and_busy_computes() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (attached, old) = with_database(&server).await;
    drop(old);
    let mut epoch = attached.epoch;
    for way in WAYS {
        for busy in [false, true] {
            let mut redo = Redo::open(&door, way, epoch).unwrap();
            redo.redo(&mark(5, 3, 7));
            redo.durable();
            let sender = busy.then(|| {
                let socket = redo.link.socket.try_clone().unwrap();
                let (mut seq, mut lsn) = (redo.seq, redo.lsn);
                std::thread::spawn(move || {
                    loop {
                        let bytes = mark(5, 4, 1);
                        seq += 1;
                        let frame = redo_frame(seq, lsn, &bytes);
                        lsn += bytes.len() as u64;
                        if std::io::Write::write_all(&mut &socket, &frame).is_err() {
                            return;
                        }
                    }
                })
            });
            let next = server.attach().await;
            let says = format!(
                "epoch {epoch} is refused: epoch {} owns branch main",
                next.epoch
            );
            if let Some(sender) = sender {
                sender.join().unwrap();
                // Its reason may be lost behind the frames that nobody read.
                if let Some((code, message)) = redo.link.ended() {
                    assert_eq!(code, Code::FailedPrecondition, "{message}");
                }
            } else {
                let (code, message) = redo.ended();
                assert_eq!(code, Code::FailedPrecondition, "{message}");
                assert!(message.contains(&says), "{message}");
            }
            let (code, message) = Redo::open(&door, way, epoch).err().unwrap();
            assert_eq!(code, Code::FailedPrecondition, "{message}");
            epoch = next.epoch;
        }
    }
    let mut redo = Redo::open(&door, Way::Tcp, epoch).unwrap();
    assert_eq!(redo.seq, 1);
    redo.redo(&mark(5, 3, 8));
    redo.durable();
    assert_eq!(read_mark(&door, 3, redo.lsn), 8);
}

/// What the server says to `bytes` on a connection for redo, which must not change the
/// branch.
fn refusal(door: &Door, way: Way, epoch: u64, bytes: &[u8]) -> Refusal {
    let mut redo = Redo::open(door, way, epoch).unwrap();
    redo.link.send(bytes);
    redo.ended()
}

#[tokio::test]
async fn frames_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (attached, old) = with_database(&server).await;
    let (seq, lsn) = (old.seq, old.lsn);
    drop(old);
    let next = format!("frame {} at LSN {lsn} is next", seq + 1);
    let mut short = redo_frame(seq + 1, lsn, b"");
    short[..4].copy_from_slice(&5_u32.to_le_bytes());
    let with_kind = |kind: u8| {
        // The checksums are right, so that the kind alone is wrong.
        let body = xylem_types::FrameBody::Redo([9; 3].as_slice().into());
        let mut bytes = crate::common::compute::frame(seq + 1, lsn, 3, &[9; 3], body);
        let mut head = [0; 21];
        head[..8].copy_from_slice(&(seq + 1).to_le_bytes());
        head[8..16].copy_from_slice(&lsn.to_le_bytes());
        head[16] = kind;
        head[17..].copy_from_slice(&crc32c::crc32c(&[9; 3]).to_le_bytes());
        bytes[28..32].copy_from_slice(&crc32c::crc32c(&head).to_le_bytes());
        bytes[32] = kind;
        bytes
    };
    let cases = [
        (redo_frame(seq + 2, lsn, b"x"), next.as_str()),
        (redo_frame(seq + 1, lsn + 1, b"x"), &next),
        (redo_frame(0, lsn, b"x"), "numbered from 1"),
        (redo_frame(seq + 1, lsn, b""), "empty"),
        (create_frame(seq + 1, lsn, "../etc/passwd"), "file.path"),
        (create_frame(seq + 1, lsn, "/etc/passwd"), "file.path"),
        (create_frame(seq + 1, lsn, ""), "file.path"),
        (short, "ends early"),
        (ping(4), "Ping out of place"),
        // Seals are the server's to write.
        (with_kind(1), "unknown kind 1"),
        (with_kind(77), "unknown kind 77"),
        (with_kind(16), "payload ends early"),
    ];
    for way in WAYS {
        for (bytes, says) in &cases {
            let (code, message) = refusal(&door, way, attached.epoch, bytes);
            assert_eq!(code, Code::InvalidArgument, "{message}");
            assert!(message.contains(says), "{message:?} does not say {says}");
        }
    }
    let redo = Redo::open(&door, Way::Tcp, attached.epoch).unwrap();
    assert_eq!((redo.seq, redo.lsn), (seq, lsn));
}

#[tokio::test]
async fn frames_damaged_on_the_way_are_refused_and_taken_when_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (attached, old) = with_database(&server).await;
    let (seq, lsn) = (old.seq, old.lsn);
    drop(old);
    let redo = redo_frame(seq + 1, lsn, &mark(5, 3, 1));
    let file = create_frame(seq + 1, lsn, "test/a.frm");
    let mut damaged = 0;
    for (nth, good) in [redo, file].iter().enumerate() {
        // Each byte that a checksum covers: number, LSN, both checksums, kind, payload.
        let covered = (8..33).chain(40..good.len());
        for at in covered {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            let way = WAYS[(at + nth) % 2];
            let (code, message) = refusal(&door, way, attached.epoch, &bytes);
            assert_eq!(code, Code::DataLoss, "byte {at}: {message}");
            assert!(message.contains("was damaged on its way"), "{message}");
            damaged += 1;
        }
    }
    let counted = metric(&server, "xylem_wal_refused_total", "main").await;
    assert_eq!(counted, f64::from(damaged));
    let mut redo = Redo::open(&door, Way::Unix, attached.epoch).unwrap();
    assert_eq!((redo.seq, redo.lsn), (seq, lsn));
    redo.redo(&mark(5, 3, 1));
    redo.durable();
    assert_eq!(read_mark(&door, 3, redo.lsn), 1);
}

/// As for StreamWAL: redo that InnoDB itself wrote wrong never enters the WAL, and what
/// stands before it does, although nobody sends anything more.
#[tokio::test]
async fn redo_that_is_none_is_refused_and_what_is_before_it_becomes_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (attached, old) = with_database(&server).await;
    drop(old);
    for way in WAYS {
        let mut redo = Redo::open(&door, way, attached.epoch).unwrap();
        let good = mark(5, 3, 40 + way as u32);
        let mut wrong = mark(5, 3, 666);
        *wrong.last_mut().unwrap() ^= 1;
        let (seq, lsn) = (redo.seq, redo.lsn);
        let end = lsn + good.len() as u64;
        let frames = [
            redo_frame(seq + 1, lsn, &good),
            redo_frame(seq + 2, end, &wrong),
        ];
        // In one piece, so that they are one group.
        redo.link.send(&frames.concat());
        let (code, message) = redo.ended();
        assert_eq!(code, Code::DataLoss, "{message}");
        for says in [
            &format!("frame {}", seq + 2),
            "CRC-32C",
            &format!("redo at LSN {end}"),
        ] {
            assert!(message.contains(says), "{message:?} does not say {says}");
        }
        // Without a further frame, and without a reconnect.
        wait_applied(&server, end).await;
        let again = Redo::open(&door, way, attached.epoch).unwrap();
        assert_eq!((again.seq, again.lsn), (seq + 1, end));
        assert_eq!(read_mark(&door, 3, end), 40 + way as u32);
    }
    assert_eq!(
        crate::common::http_get(server.addrs.http, "/readyz")
            .await
            .0,
        200
    );
    server.attach().await;
}

#[tokio::test]
async fn a_removed_branch_ends_its_computes() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (_, main) = with_database(&server).await;
    let mut links = Vec::new();
    for (name, way) in [("one", Way::Tcp), ("two", Way::Unix)] {
        let branch = create(&server, name, "main").await;
        let who = Hello {
            branch: format!("id:{}", branch.id),
            ..writer(server.attach_to(name).await.unwrap().epoch)
        };
        let mut redo = Redo::open_as(&door, way, &who).unwrap();
        redo.redo(&mark(5, 3, 1));
        redo.durable();
        let pages = Hello {
            role: xylem_wire::Role::Pages,
            ..who
        };
        links.push((name, redo, Link::open(&door, way, &pages).unwrap().0));
    }
    for (name, redo, pages) in &mut links {
        remove(&server, name).await.unwrap();
        for link in [&mut redo.link, pages] {
            let (code, message) = link.ended().unwrap();
            assert_eq!(code, Code::FailedPrecondition, "{message}");
            assert!(message.contains("removed"), "{message}");
        }
    }
    streams(&server, "pages", 0.0).await;
    // The other branch goes on.
    drop(main);
    let mut redo = Redo::open(&door, Way::Tcp, 1).unwrap();
    redo.redo(&mark(5, 3, 2));
    redo.durable();
}

#[tokio::test]
async fn a_stop_waits_for_commits_under_way_and_then_ends_the_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, door) = start(dir.path(), |_| {});
    let (attached, old) = with_database(&server).await;
    drop(old);
    let mut redo = Redo::open(&door, Way::Unix, attached.epoch).unwrap();
    let mut pages = WAYS.map(|way| Link::open(&door, way, &reader()).unwrap().0);
    server.begin_stop();
    redo.redo(&mark(5, 3, 77));
    redo.durable();
    let (seq, lsn) = (redo.seq, redo.lsn);
    for link in pages.iter_mut().chain([&mut redo.link]) {
        let (code, message) = link.ended().unwrap();
        assert_eq!(code, Code::Unavailable, "{message}");
        assert!(message.contains("stopping"), "{message}");
    }
    server.join();
    let (_server, door) = start(dir.path(), |_| {});
    let redo = Redo::open(&door, Way::Tcp, attached.epoch).unwrap();
    assert_eq!((redo.seq, redo.lsn), (seq, lsn));
    assert_eq!(read_mark(&door, 3, lsn), 77);
}

/// The threads of connections are not the runtime's, and must not outlive the server that
/// they belong to: they would write to a directory that the next server has.
#[tokio::test]
async fn a_server_that_is_dropped_takes_its_connections_along() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (attached, old) = with_database(&server).await;
    drop(old);
    let mut redo = Redo::open(&door, Way::Tcp, attached.epoch).unwrap();
    let mut pages = Link::open(&door, Way::Unix, &reader()).unwrap().0;
    redo.redo(&mark(5, 3, 7));
    redo.durable();
    server.crash();
    redo.link.ended();
    pages.ended();
    let (_server, door) = start(dir.path(), |_| {});
    let again = Redo::open(&door, Way::Unix, attached.epoch).unwrap();
    assert_eq!((again.seq, again.lsn), (redo.seq, redo.lsn));
}

#[tokio::test]
async fn a_wal_in_the_store_is_acknowledged_too() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |args| {
        args.wal_store = Some("object".to_owned())
    });
    let (attached, mut old) = with_database(&server).await;
    old.file(mkdir("more")).await;
    old.durable().await;
    drop(old);
    let mut end = (0, 0);
    for way in WAYS {
        let mut redo = Redo::open(&door, way, attached.epoch).unwrap();
        for number in 0..100 {
            redo.redo(&mark(5, 3, number));
            if number % 10 == way as u32 {
                redo.durable();
            }
        }
        redo.durable();
        assert_eq!(read_mark(&door, 3, redo.lsn), 99);
        end = (redo.seq, redo.lsn);
    }
    server.crash();
    let (_server, door) = start(dir.path(), |args| {
        args.wal_store = Some("object".to_owned())
    });
    let redo = Redo::open(&door, Way::Tcp, attached.epoch).unwrap();
    assert_eq!((redo.seq, redo.lsn), end);
}

/// The compute sends and never looks at what it gets. The frames go one by one, so that
/// there are many acknowledgements, until the system has no room left for them.
#[tokio::test]
async fn a_compute_that_takes_no_acknowledgements_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |args| {
        args.stall_timeout = Some("1s".to_owned());
    });
    let (attached, old) = with_database(&server).await;
    drop(old);
    let mut redo = Redo::open(&door, Way::Unix, attached.epoch).unwrap();
    streams(&server, "wal", 1.0).await;
    let until = Instant::now() + Duration::from_secs(120);
    while metric(&server, "xylem_streams", "kind=\"wal\"").await > 0.0 {
        assert!(Instant::now() < until, "it is never let go");
        for _ in 0..1000 {
            redo.redo(&mark(5, 3, 1));
        }
    }
    // Another connection goes on where the WAL is.
    let mut again = Redo::open(&door, Way::Tcp, attached.epoch).unwrap();
    assert!(again.seq > 2000, "{}", again.seq);
    again.redo(&mark(5, 3, 2));
    again.durable();
}
