//! Who is let in.

use super::streams;
use crate::common::branch::{create, rename};
use crate::common::compute::{Door, Link, Redo, Refusal, Reply, WAYS, Way, reader, start, writer};
use crate::common::{Server, args, config, with_database};
use std::time::{Duration, Instant};
use tonic::Code;
use xylem_proto::dial;
use xylem_proto::pageserver::PingRequest;
use xylem_proto::pageserver::page_server_client::PageServerClient;
use xylem_wire::{Header, Hello, Kind, MAGIC, PREFACE_BYTES, VERSION, hello, ping};

fn refused(door: &Door, way: Way, who: &Hello, code: Code, says: &str) {
    let (got, message) = Link::open(door, way, who).err().expect("it was admitted");
    assert_eq!(got, code, "{message}");
    assert!(message.contains(says), "{message:?} does not say {says}");
}

#[tokio::test]
async fn branch_and_epoch_must_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (_, main) = with_database(&server).await;
    let dev = create(&server, "dev", "main").await;
    let epoch = server.attach_to("dev").await.unwrap().epoch;
    let of = |branch: &str, epoch| Hello {
        branch: branch.to_owned(),
        epoch,
        ..reader()
    };
    let id = format!("id:{}", dev.id);
    let gone = format!("id:{:032x}", 7);
    for way in WAYS {
        refused(
            &door,
            way,
            &of("other", 0),
            Code::NotFound,
            "no branch other",
        );
        refused(
            &door,
            way,
            &of("../x", 0),
            Code::InvalidArgument,
            "xylem-branch",
        );
        // To a compute, NOT_FOUND would be a missing page.
        refused(
            &door,
            way,
            &of(&gone, 1),
            Code::FailedPrecondition,
            "removed",
        );
        let newer = "the newest epoch of branch main is 1";
        refused(&door, way, &of("main", 2), Code::FailedPrecondition, newer);
        let named = of("dev", epoch);
        refused(&door, way, &named, Code::FailedPrecondition, &id);
        refused(
            &door,
            way,
            &writer(0),
            Code::InvalidArgument,
            "attach first",
        );
        // The project's first branch keeps its name for ever.
        let (_, standing) = Link::open(&door, way, &of("main", 1)).unwrap();
        assert_eq!((standing.epoch, standing.ack.durable_lsn), (1, main.lsn));
        assert_eq!(standing.ack.durable_seq, main.seq);
        Link::open(&door, way, &of("", 1)).unwrap();
        Link::open(&door, way, &of("dev", 0)).unwrap();
        Link::open(&door, way, &of(&id, epoch)).unwrap();
    }
    rename(&server, "dev", "work").await.unwrap();
    Link::open(&door, Way::Unix, &of(&id, epoch)).unwrap();
    server.attach().await;
    for who in [of("main", 1), writer(1)] {
        let taken = "another compute has taken it over";
        refused(&door, Way::Tcp, &who, Code::FailedPrecondition, taken);
    }
}

/// What the server says to `bytes`, with which a connection begins.
fn answer_to(door: &Door, way: Way, bytes: &[u8]) -> Option<Refusal> {
    let mut link = Link::silent(door, way);
    link.send(bytes);
    link.ended()
}

#[tokio::test]
async fn garbage_and_other_versions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let good = hello(&reader());
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let body = PREFACE_BYTES + 16;
    let mut wrong_length = good.clone();
    wrong_length[PREFACE_BYTES..][..4].copy_from_slice(&3_u32.to_le_bytes());
    let mut large = good[..PREFACE_BYTES].to_vec();
    let header = Header {
        length: 9000,
        kind: Kind::Hello,
        id: 0,
    };
    large.extend_from_slice(&header.encode());
    let mut early = good[..PREFACE_BYTES].to_vec();
    early.extend_from_slice(&ping(1));
    let cases = [
        (changed(5, b'!'), "does not speak"),
        (changed(MAGIC.len(), VERSION as u8 + 1), "version 2"),
        (changed(PREFACE_BYTES + 4, 99), "unknown kind 99"),
        (changed(body, 9), "unknown role 9"),
        (wrong_length, "ends early"),
        // The server does not wait for the rest of what it would not take.
        (large, "limit"),
        (early, "Ping out of place"),
    ];
    for way in WAYS {
        for (bytes, says) in &cases {
            let (code, message) = answer_to(&door, way, bytes).expect(says);
            assert_eq!(code, Code::InvalidArgument, "{message}");
            assert!(message.contains(says), "{message:?} does not say {says}");
        }
        // Only the server's messages have such numbers.
        let mut link = Link::open(&door, way, &reader()).unwrap().0;
        link.send(
            &Header {
                length: 0,
                kind: Kind::Ack,
                id: 4,
            }
            .encode(),
        );
        assert_eq!(link.ended().unwrap().0, Code::InvalidArgument);
    }
    // Both have gRPC, too, whose first byte is another.
    server.pages().await.ping(PingRequest {}).await.unwrap();
    let socket = dial::Way::Socket(door.unix.clone());
    let limit = std::time::Duration::from_secs(10);
    let channel = socket.connect(limit, |endpoint| endpoint).await.unwrap();
    let mut pages = PageServerClient::new(channel);
    pages.ping(PingRequest {}).await.unwrap();
    streams(&server, "pages", 0.0).await;
}

/// Sends a greeting so slowly that it would take minutes. Returns when the server has
/// ended the connection.
fn dribble(mut link: Link) {
    for byte in hello(&reader()) {
        link.send(&[byte]);
        match link.next_within(Duration::from_secs(2)) {
            None => {}
            Some(Reply::End) => return,
            Some(other) => panic!("{other:?}"),
        }
    }
    panic!("the greeting was taken");
}

#[tokio::test]
async fn a_peer_that_says_nothing_or_little_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, door) = start(dir.path(), |args| {
        args.connections_max = Some("8".to_owned());
    });
    let started = Instant::now();
    let slow = WAYS.map(|way| {
        let link = Link::silent(&door, way);
        std::thread::spawn(move || dribble(link))
    });
    for mut quiet in WAYS.map(|way| Link::silent(&door, way)) {
        assert!(quiet.ended().is_none());
        assert!(started.elapsed() > Duration::from_secs(5));
    }
    for slow in slow {
        slow.join().unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(40));
    // Their places are free again.
    let open = (0..8).map(|_| Link::open(&door, Way::Unix, &reader()).unwrap());
    assert_eq!(open.collect::<Vec<_>>().len(), 8);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |args| {
        args.connections_max = Some("8".to_owned())
    });
    let open: Vec<_> = (0..8)
        .map(|n| Link::open(&door, WAYS[n % 2], &reader()).unwrap())
        .collect();
    for way in WAYS {
        assert!(Link::silent(&door, way).ended().is_none());
    }
    drop(open);
    streams(&server, "pages", 0.0).await;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let mut link = Link::silent(&door, Way::Unix);
        link.send(&hello(&reader()));
        match link.next() {
            Reply::Welcome(_) => return,
            _ => assert!(Instant::now() < until, "no place became free"),
        }
    }
}

#[tokio::test]
async fn a_socket_that_is_left_is_replaced_and_one_in_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |_| {});
    let (attached, _) = with_database(&server).await;
    let mut redo = Redo::open(&door, Way::Unix, attached.epoch).unwrap();
    // Another server is told to listen at the same place.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut other = args(elsewhere.path());
    other.compute_socket = Some(door.unix.display().to_string());
    let refusal = Server::with(config(&other)).err().unwrap().to_string();
    assert!(refusal.contains("--compute-socket"), "{refusal}");
    redo.redo(&crate::common::redo::mark(5, 3, 1));
    redo.durable();
    drop(redo);
    server.crash();
    assert!(door.unix.exists());
    let (server, door) = start(dir.path(), |_| {});
    Redo::open(&door, Way::Unix, attached.epoch).unwrap();
    drop(server);
    // Nothing but a socket is removed.
    std::fs::remove_file(&door.unix).unwrap();
    std::fs::write(&door.unix, b"mine").unwrap();
    other.compute_socket = Some(door.unix.display().to_string());
    Server::with(config(&other)).err().unwrap();
    assert_eq!(std::fs::read(&door.unix).unwrap(), b"mine");
}
