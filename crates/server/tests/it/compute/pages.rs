//! Page reads.

use super::{metric, streams};
use crate::common::branch::{create, remove};
use crate::common::compute::{Door, Link, Redo, Reply, WAYS, Way, newest, reader, start};
use crate::common::redo::{FLAGS, bulky_mark, fill, mark, marked, verify, write};
use crate::common::{Server, Writer, wait_applied, with_database};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tonic::Code;
use xylem_proto::pageserver::FileOp;
use xylem_wire::{GetLog, GetPage, GetSpace, Hello, get_log, get_page, get_space, ping};

fn open(door: &Door, way: Way) -> Link {
    Link::open(door, way, &reader()).unwrap().0
}

#[tokio::test]
async fn pages_come_from_memory_and_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (_, writer) = with_database(&server).await;
    let end = writer.lsn;
    for way in WAYS {
        let mut link = open(&door, way);
        link.get(7, &newest(5, 3));
        let (id, lsn, page) = link.page();
        assert_eq!((id, lsn, marked(&page)), (7, end, 0xaabb_ccdd));
        verify(&page, 5, 3);
        // A page that was never written is all zeros.
        link.get(u64::MAX, &newest(5, 9));
        let (id, _, page) = link.page();
        assert_eq!((id, page.len()), (u64::MAX, 16384));
        assert!(page.iter().all(|&byte| byte == 0));
    }
    assert!(metric(&server, "xylem_page_reads_total", "cached").await >= 2.0);
    drop(writer);
    server.stop();
    // Nothing is in memory, and what is durable must be shown all the same.
    let (server, door) = start(dir.path(), |_| {});
    for way in WAYS {
        let mut link = open(&door, way);
        link.get(1, &newest(5, 3));
        let (_, lsn, page) = link.page();
        assert_eq!((lsn, marked(&page)), (end, 0xaabb_ccdd));
    }
    drop(server);
}

/// The requests that wait do not keep the others waiting, and a failure ends no
/// connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_for_its_lsn_and_no_longer_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (_, mut writer) = with_database(&server).await;
    for way in WAYS {
        let redo = mark(5, 3, way as u32);
        let get = |min_lsn, timeout_ms| GetPage {
            min_lsn,
            timeout_ms,
            ..newest(5, 3)
        };
        let mut link = open(&door, way);
        let later = writer.lsn + redo.len() as u64;
        link.get(1, &get(later, 60_000));
        let asked = Instant::now();
        link.get(2, &get(later + 100, 200));
        link.get(3, &newest(77, 3));
        link.get(4, &newest(5, 64));
        link.get(5, &newest(5, 3));
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(match link.next() {
                Reply::Page { id, .. } => (id, Code::Ok),
                Reply::Fault(2, (code, message)) => {
                    assert!(asked.elapsed() >= Duration::from_millis(200));
                    let behind = format!("{} bytes behind", redo.len() + 100);
                    assert!(message.contains(&behind), "{message}");
                    (2, code)
                }
                Reply::Fault(id, (code, _)) => (id, code),
                other => panic!("{other:?}"),
            });
        }
        answers.sort_unstable_by_key(|(id, _)| *id);
        let expected = [
            (2, Code::DeadlineExceeded),
            (3, Code::NotFound),
            (4, Code::NotFound),
            (5, Code::Ok),
        ];
        assert_eq!(answers, expected);
        writer.redo(redo).await;
        let (id, _, page) = link.page();
        assert_eq!((id, marked(&page)), (1, way as u32));
    }
}

#[tokio::test]
async fn hundreds_of_requests_are_answered_each_once() {
    const COUNT: u64 = 900;
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (_, mut writer) = with_database(&server).await;
    for number in 3..60 {
        writer.redo(mark(5, number, number * 10)).await;
    }
    writer.durable().await;
    wait_applied(&server, writer.lsn).await;
    for way in WAYS {
        let mut link = open(&door, way);
        let mut asked = Vec::new();
        for id in 0..COUNT {
            match id % 10 {
                9 => asked.extend_from_slice(&ping(id)),
                n => {
                    let get = GetPage {
                        // Some cannot be answered at once.
                        min_lsn: if n == 5 { writer.lsn + 1 } else { 0 },
                        timeout_ms: 50,
                        ..newest(5, 3 + (id % 57) as u32)
                    };
                    asked.extend_from_slice(&get_page(id, &get));
                }
            }
        }
        let mut other = Link::open(&door, way, &reader()).unwrap().0;
        let sender = std::thread::spawn({
            let socket = link.socket.try_clone().unwrap();
            move || std::io::Write::write_all(&mut &socket, &asked).unwrap()
        });
        let mut left: BTreeSet<u64> = (0..COUNT).collect();
        while !left.is_empty() {
            let id = match link.next() {
                Reply::Page { id, page, .. } => {
                    assert_eq!(u64::from(marked(&page)), (3 + id % 57) * 10);
                    id
                }
                Reply::Pong(id, standing) => {
                    assert_eq!((id % 10, standing.ack.durable_lsn), (9, writer.lsn));
                    assert_eq!((standing.epoch, standing.ack.applied_lsn), (1, writer.lsn));
                    id
                }
                Reply::Fault(id, (code, _)) => {
                    assert_eq!((id % 10, code), (5, Code::DeadlineExceeded));
                    id
                }
                end => panic!("{end:?}"),
            };
            assert!(left.remove(&id), "request {id} was answered twice");
        }
        sender.join().unwrap();
        other.get(1, &newest(5, 3));
        other.page();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_the_log_are_sent_from_any_place() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (_, mut writer) = with_database(&server).await;
    // Appends of all sizes, over the borders of the store's chunks.
    let content: Vec<u8> = (0..300_000_u32).map(|at| ((at * 7) >> 3) as u8).collect();
    let mut offset = 0;
    for size in [1, 70_000, 50, 65_536, 9, 100_000, 64_404] {
        let append = FileOp {
            offset: offset as u64,
            data: content[offset..offset + size].to_vec().into(),
            ..write("binlog.000012", b"")
        };
        writer.file(append).await;
        offset += size;
    }
    let redo = mark(5, 3, 1);
    let get = GetLog {
        number: 12,
        length: 1000,
        offset: 0,
        min_lsn: writer.lsn + redo.len() as u64,
    };
    // It waits for redo as a page read does.
    let mut link = open(&door, WAYS[0]);
    link.send(&get_log(1, &get));
    writer.redo(redo).await;
    assert_eq!(link.log(), (1, content[..1000].to_vec()));
    let places = [
        (65_000, 1_000),
        (0, 300_000),
        (299_990, 50),
        (64, 1),
        (400_000, 5),
        (7, 0),
    ];
    for way in WAYS {
        let mut link = open(&door, way);
        for (id, (offset, length)) in (2..).zip(places) {
            link.send(&get_log(
                id,
                &GetLog {
                    offset,
                    length,
                    ..get
                },
            ));
            let from = (offset as usize).min(content.len());
            let end = (from + length as usize).min(content.len());
            assert_eq!(link.log(), (id, content[from..end].to_vec()));
        }
        let missing = GetLog { number: 13, ..get };
        let long = GetLog {
            length: (4 << 20) + 1,
            ..get
        };
        for (id, get, code) in [
            (20, missing, Code::NotFound),
            (21, long, Code::InvalidArgument),
        ] {
            link.send(&get_log(id, &get));
            match link.next() {
                Reply::Fault(found, (why, message)) => {
                    assert_eq!((found, why), (id, code), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_is_told_without_its_pages_or_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (_, mut writer) = with_database(&server).await;
    for (nth, way) in WAYS.into_iter().enumerate() {
        let (id, name) = (8 + nth as u32, format!("./test/new{nth}.ibd"));
        let redo = crate::common::redo::tablespace(id, &name, 80);
        let mut link = open(&door, way);
        let get = GetSpace {
            space_id: id,
            no_pages: false,
            min_lsn: writer.lsn + redo.len() as u64,
        };
        link.send(&get_space(1, &get));
        writer.redo(redo).await;
        let Reply::Space(1, space) = link.next() else {
            panic!("no tablespace");
        };
        assert_eq!((space.flags, space.size), (FLAGS, 80 * 16384));
        assert_eq!(space.path, name[2..]);
        assert_eq!(space.pages.len(), 1);
        assert_eq!(space.pages[0].0, 0);
        verify(&space.pages[0].1, id, 0);
        link.send(&get_space(
            2,
            &GetSpace {
                no_pages: true,
                ..get
            },
        ));
        let Reply::Space(2, bare) = link.next() else {
            panic!("no tablespace");
        };
        assert!(bare.pages.is_empty());
        assert_eq!((bare.path, bare.size), (space.path, space.size));
        link.send(&get_space(
            3,
            &GetSpace {
                space_id: 99,
                ..get
            },
        ));
        match link.next() {
            Reply::Fault(3, (Code::NotFound, message)) => assert!(message.contains("99")),
            other => panic!("{other:?}"),
        }
    }
}

/// A branch with more pages than the buffers of a connection hold.
async fn filled(server: &Server) -> Writer {
    let (_, mut writer) = with_database(server).await;
    for number in 4..60 {
        writer.redo(fill(5, number, number)).await;
    }
    writer.durable().await;
    wait_applied(server, writer.lsn).await;
    writer
}

#[tokio::test]
async fn a_compute_that_takes_no_answers_harms_nobody_and_is_let_go() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (server, door) = start(dir.path(), |args| {
            args.page_threads = Some("1".to_owned());
            args.stall_timeout = Some("2s".to_owned());
        });
        let writer = filled(&server).await;
        let idle = open(&door, way);
        let asker = std::thread::spawn({
            let socket = idle.socket.try_clone().unwrap();
            move || {
                // As many requests as the server takes, up to 16 GB of answers.
                for id in 0..1_000_000 {
                    let get = newest(5, 4 + (id % 56) as u32);
                    let sent = std::io::Write::write_all(&mut &socket, &get_page(id, &get));
                    if sent.is_err() {
                        return id;
                    }
                }
                1_000_000
            }
        });
        let until = Instant::now() + Duration::from_millis(1500);
        let mut read = 0;
        let mut other = open(&door, way);
        while Instant::now() < until {
            other.get(read, &newest(5, 3));
            assert_eq!(marked(&other.page().2), 0xaabb_ccdd);
            read += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(
            read > 20,
            "{read} reads beside a compute that takes nothing"
        );
        // The server has made only the answers that buffers and its own limit hold.
        let made = metric(&server, "xylem_page_reads_total", "").await;
        assert!(made < 5000.0, "{made} answers that nobody takes");
        streams(&server, "pages", 1.0).await;
        assert!(asker.join().unwrap() < 1_000_000, "all requests were taken");
        other.get(0, &newest(5, 3));
        other.page();
        drop((writer, idle));
    }
}

/// Requests that wait occupy a connection, and no thread of the runtime or of another.
#[tokio::test]
async fn a_connection_full_of_waiting_requests_ends_when_it_has_to() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (_, writer) = with_database(&server).await;
    let dev = create(&server, "dev", "main").await;
    let mut links = Vec::new();
    for way in WAYS {
        let who = Hello {
            branch: format!("id:{}", dev.id),
            ..reader()
        };
        let mut link = Link::open(&door, way, &who).unwrap().0;
        let get = GetPage {
            min_lsn: writer.lsn + 1_000_000,
            timeout_ms: u32::MAX,
            ..newest(5, 3)
        };
        let asked: Vec<u8> = (0..300).flat_map(|id| get_page(id, &get)).collect();
        link.send(&asked);
        links.push(link);
    }
    let mut other = open(&door, Way::Tcp);
    other.get(1, &newest(5, 3));
    other.page();
    remove(&server, "dev").await.unwrap();
    for mut link in links {
        let mut why = None;
        loop {
            match link.next() {
                Reply::Fault(0, refusal) => why = Some(refusal),
                // The pages of a removed branch.
                Reply::Fault(_, (Code::FailedPrecondition | Code::Unavailable, _)) => {}
                Reply::End => break,
                other => panic!("{other:?}"),
            }
        }
        if let Some((code, message)) = why {
            assert_eq!(code, Code::FailedPrecondition, "{message}");
            assert!(message.contains("removed"), "{message}");
        }
    }
    streams(&server, "pages", 1.0).await;
}

/// As for a compute that was killed: its reads still wait, and nobody will take the
/// answers.
#[tokio::test]
async fn a_compute_that_goes_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (_, writer) = with_database(&server).await;
    for way in WAYS {
        let mut link = open(&door, way);
        for id in 0..20 {
            let get = GetPage {
                min_lsn: writer.lsn + 1_000_000,
                timeout_ms: u32::MAX,
                ..newest(5, 3)
            };
            link.get(id, &get);
        }
        streams(&server, "pages", 1.0).await;
        drop(link);
        streams(&server, "pages", 0.0).await;
    }
}

#[tokio::test]
async fn a_fenced_compute_sees_no_page_of_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (attached, writer) = with_database(&server).await;
    let mut links = WAYS.map(|way| {
        let who = Hello {
            epoch: attached.epoch,
            ..reader()
        };
        let mut link = Link::open(&door, way, &who).unwrap().0;
        let get = GetPage {
            min_lsn: writer.lsn + 1,
            timeout_ms: 60_000,
            ..newest(5, 3)
        };
        link.get(1, &get);
        link
    });
    let next = server.attach().await;
    let mut redo = Redo::open(&door, Way::Unix, next.epoch).unwrap();
    redo.redo(&bulky_mark(5, 3, 9));
    redo.durable();
    for link in &mut links {
        link.get(2, &newest(5, 3));
        let mut seen = Vec::new();
        for _ in 0..2 {
            match link.next() {
                Reply::Fault(id, (Code::FailedPrecondition, message)) => {
                    assert!(message.contains("another compute"), "{message}");
                    seen.push(id);
                }
                other => panic!("{other:?}"),
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        // It is there, and learns from a ping what has become of its epoch.
        link.send(&ping(3));
        match link.next() {
            Reply::Pong(3, standing) => assert_eq!(standing.epoch, next.epoch),
            other => panic!("{other:?}"),
        }
    }
}
