//! ImportBranch over gRPC: a branch appears complete, or nothing is left.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::{Server, Writer, page, redo, refused, wait_applied, with};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use xylem_proto::control::import_item::Item;
use xylem_proto::control::{
    BaseBackupRequest, ImportDirectory, ImportEnd, ImportFile, ImportItem, ImportPage, ImportPages,
    ImportResponse, ImportStart, ImportTablespace, ListBranchesRequest, base_item,
};
use xylem_redo::SpaceFlags;

const LSN: u64 = 4_000_000;
const SIZE: usize = 16384;

fn flags() -> u32 {
    SpaceFlags::full_crc32_of(SIZE).unwrap().raw()
}

/// A valid page; page 0 with the header of a tablespace of `pages` pages.
fn image(space: u32, no: u32, pages: u32, lsn: u64) -> Vec<u8> {
    let mut p = vec![0; SIZE];
    p[4..8].copy_from_slice(&no.to_be_bytes());
    p[16..24].copy_from_slice(&lsn.to_be_bytes());
    p[24..26].copy_from_slice(&17855u16.to_be_bytes());
    p[34..38].copy_from_slice(&space.to_be_bytes());
    if no == 0 {
        p[38..42].copy_from_slice(&space.to_be_bytes());
        p[46..50].copy_from_slice(&pages.to_be_bytes());
        p[54..58].copy_from_slice(&flags().to_be_bytes());
    } else {
        p[100..104].copy_from_slice(&(space * 1000 + no).to_be_bytes());
    }
    xylem_redo::seal(&mut p, SpaceFlags::new(flags()).unwrap());
    p
}

fn start(branch: &str) -> Item {
    Item::Start(ImportStart {
        branch: branch.to_owned(),
        lsn: LSN,
        page_size: SIZE as u32,
        undo_tablespaces: 0,
    })
}

fn tablespace(space_id: u32, path: &str, pages: u32) -> Item {
    Item::Tablespace(ImportTablespace {
        space_id,
        path: path.to_owned(),
        flags: flags(),
        pages,
    })
}

fn pages(images: Vec<(u32, Vec<u8>)>) -> Item {
    let pages = images.into_iter().map(|(page_no, data)| ImportPage {
        page_no,
        data: data.into(),
    });
    Item::Pages(ImportPages {
        pages: pages.collect(),
    })
}

fn end(tablespaces: u64, pages: u64, side_files: u64) -> Item {
    Item::End(ImportEnd {
        tablespaces,
        pages,
        side_files,
    })
}

fn file(path: &str, data: &'static [u8]) -> [Item; 2] {
    [
        Item::File(ImportFile {
            path: path.to_owned(),
            mode: 0o660,
            size: data.len() as u64,
        }),
        Item::Data(data.into()),
    ]
}

/// A small database.
fn database(branch: &str) -> Vec<Item> {
    let space = |id, count: u32| {
        let some = (0..count).filter(|no| no % 3 != 1);
        pages(some.map(|no| (no, image(id, no, count, LSN - 9))).collect())
    };
    let mut items = vec![
        start(branch),
        tablespace(0, "ibdata1", 20),
        space(0, 20),
        tablespace(5, "test/t1.ibd", 64),
        space(5, 64),
        Item::Directory(ImportDirectory {
            path: "test".to_owned(),
            mode: 0o700,
        }),
    ];
    items.extend(file("test/t1.frm", b"frm of t1"));
    items.push(end(2, 13 + 43, 2));
    items
}

async fn send(server: &Server, items: Vec<Item>) -> Result<ImportResponse, Status> {
    let items = items
        .into_iter()
        .map(|item| ImportItem { item: Some(item) });
    let answer = server
        .control()
        .await
        .import_branch(tokio_stream::iter(items.collect::<Vec<_>>()))
        .await;
    answer.map(tonic::Response::into_inner)
}

async fn branches(server: &Server) -> Vec<(String, u64)> {
    let answer = server
        .control()
        .await
        .list_branches(ListBranchesRequest::default())
        .await;
    let list = answer.unwrap().into_inner().branches;
    list.into_iter().map(|b| (b.name, b.applied_lsn)).collect()
}

/// Folders of branches' layers.
fn left(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("store/branches")).map_or(0, Iterator::count)
}

fn mark(page: &[u8]) -> u32 {
    u32::from_be_bytes(page[100..104].try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_becomes_a_branch_that_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let answer = send(&server, database("main")).await.unwrap();
    assert_eq!(answer.lsn, LSN);
    assert_eq!(branches(&server).await, [("main".to_owned(), LSN)]);
    // The replaced empty branch is gone.
    assert_eq!(left(dir.path()), 1);

    let attached = server.attach().await;
    assert!(!attached.empty);
    assert_eq!(attached.start_lsn, LSN + 16);
    let got = wait_applied(&server, attached.start_lsn).await;
    assert_eq!(got.page, image(0, 0, 20, LSN - 9));
    let mut backup = server
        .control()
        .await
        .base_backup(BaseBackupRequest {
            lsn: attached.start_lsn,
            all_tablespaces: true,
        })
        .await
        .unwrap()
        .into_inner();
    let mut seen = Vec::new();
    while let Some(item) = backup.message().await.unwrap() {
        seen.push(match item.item.unwrap() {
            base_item::Item::Directory(d) => d.path,
            base_item::Item::File(f) => format!("{} {}", f.path, f.data.len()),
            base_item::Item::Tablespace(t) => format!("{} {}", t.path, t.size / SIZE as u64),
            base_item::Item::RedoLog(_) => "WAL".to_owned(),
        });
    }
    assert_eq!(
        seen,
        [
            "test",
            "test/t1.frm 9",
            "ibdata1 20",
            "test/t1.ibd 64",
            "WAL"
        ]
    );
    // Redo on top of the import, and a restart of the server.
    let mut writer = Writer::open(&server, attached.epoch).await;
    assert_eq!(writer.lsn, attached.start_lsn);
    writer.redo(redo::tablespace(9, "./test/t2.ibd", 64)).await;
    writer.redo(redo::mark(9, 3, 0xaabb_ccdd)).await;
    writer.durable().await;
    let lsn = writer.lsn;
    server.crash();
    let server = Server::start(dir.path());
    wait_applied(&server, lsn).await;
    let get = |space, no| {
        let server = &server;
        async move {
            let answer = server.pages().await.get_page(page(space, no)).await;
            answer.unwrap().into_inner().page
        }
    };
    assert_eq!(mark(&get(5, 62).await), 5062);
    assert!(get(5, 61).await.iter().all(|b| *b == 0));
    assert_eq!(redo::marked(&get(9, 3).await), 0xaabb_ccdd);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_page_sizes_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    send(&server, database("one")).await.unwrap();
    let status = send(&server, database("one")).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    let status = send(&server, database("a b")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    send(&server, database("two")).await.unwrap();
    let mut other = database("three");
    other[0] = Item::Start(ImportStart {
        branch: "three".to_owned(),
        lsn: LSN,
        page_size: 65536,
        undo_tablespaces: 0,
    });
    let status = send(&server, other).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("65536"), "{status:?}");
    // A branch to which a compute has attached does not count as empty.
    server.attach().await;
    let status = send(&server, database("main")).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    let names: Vec<String> = branches(&server).await.into_iter().map(|b| b.0).collect();
    assert_eq!(names, ["main", "one", "two"]);
    assert_eq!(left(dir.path()), 3);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_right_is_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let before = left(dir.path());
    let with_item = |at: usize, item: Item| {
        let mut items = database("b");
        items[at] = item;
        items
    };
    let one = |image: Vec<u8>| with_item(4, pages(vec![(7, image)]));
    let mut flipped = image(5, 7, 64, LSN);
    flipped[900] ^= 1;
    let mut header = image(5, 0, 63, LSN);
    header.truncate(SIZE);
    let cases = [
        (vec![end(0, 0, 0)], Code::InvalidArgument, "not a start"),
        (
            database("b").into_iter().take(6).collect(),
            Code::InvalidArgument,
            "no end",
        ),
        (
            one(flipped),
            Code::InvalidArgument,
            "page 5:7: the checksum",
        ),
        (
            one(image(5, 8, 64, LSN)),
            Code::InvalidArgument,
            "carries the id of page 5:8",
        ),
        (
            one(image(5, 7, 64, LSN + 1)),
            Code::InvalidArgument,
            "LSN is 4000001",
        ),
        (
            with_item(4, pages(vec![(0, header)])),
            Code::InvalidArgument,
            "not those of its tablespace",
        ),
        (
            with_item(
                2,
                pages(vec![(3, image(0, 3, 20, 9)), (2, image(0, 2, 20, 9))]),
            ),
            Code::InvalidArgument,
            "comes after page 3",
        ),
        (
            with_item(3, tablespace(5, "../t1.ibd", 64)),
            Code::InvalidArgument,
            "not a path within",
        ),
        (
            with_item(
                3,
                Item::Tablespace(ImportTablespace {
                    space_id: 5,
                    path: "test/t1.ibd".to_owned(),
                    flags: SpaceFlags::full_crc32_of(65536).unwrap().raw(),
                    pages: 64,
                }),
            ),
            Code::InvalidArgument,
            "65536",
        ),
        (
            with_item(6, start("b")),
            Code::InvalidArgument,
            "wrong place",
        ),
        (with_item(8, end(2, 55, 2)), Code::DataLoss, "(2, 56, 2)"),
    ];
    for (items, code, says) in cases {
        let status = send(&server, items).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(says), "{says}: {status:?}");
        assert_eq!(left(dir.path()), before, "{says}");
    }
    assert_eq!(branches(&server).await.len(), 1);
    // The caller disconnects in the middle.
    let (to, items) = tokio::sync::mpsc::channel(64);
    let mut client = server.control().await;
    let call = tokio::spawn(async move { client.import_branch(ReceiverStream::new(items)).await });
    for item in database("b").into_iter().take(5) {
        to.send(ImportItem { item: Some(item) }).await.unwrap();
    }
    while left(dir.path()) == before {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    call.abort();
    drop(to);
    let gone = async {
        while left(dir.path()) != before {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone)
        .await
        .expect("what the import wrote goes");
    // An import without a start is refused.
    let status = refused(
        server
            .control()
            .await
            .import_branch(with(tokio_stream::empty(), &[]))
            .await,
    );
    assert_eq!(status.code(), Code::InvalidArgument);
    send(&server, database("b")).await.unwrap();
    server.stop();
}

/// A caller that disconnects at any moment leaves a whole branch or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_disconnects_leaves_a_branch_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let began = Instant::now();
    send(&server, database("whole")).await.unwrap();
    let whole = began.elapsed();
    let mut came_to_be = 0;
    for nth in 0..40 {
        let items = database(&format!("b{nth}"));
        // From at once to twice as long as one takes.
        let limit = whole * nth / 20;
        let _ = tokio::time::timeout(limit, send(&server, items)).await;
        if nth % 10 != 9 {
            continue;
        }
        let settled = async {
            loop {
                let named = branches(&server).await;
                if left(dir.path()) == named.len() {
                    break named;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let named = tokio::time::timeout(Duration::from_secs(20), settled).await;
        let named = named.expect("layers are left that no branch has");
        came_to_be = named.iter().filter(|(_, lsn)| *lsn >= LSN).count() - 1;
    }
    // The test means nothing if each came through, or none.
    assert!((1..40).contains(&came_to_be), "{came_to_be} of 40 imports");
    server.stop();
}

/// Two imports of one name: the second one's layers go.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_imports_of_one_name_one_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let before = left(dir.path());
    let (one, other) = tokio::join!(
        send(&server, database("same")),
        send(&server, database("same"))
    );
    let (ok, refused): (Vec<_>, Vec<_>) = [one, other].into_iter().partition(Result::is_ok);
    assert_eq!((ok.len(), refused.len()), (1, 1));
    assert_eq!(refused[0].as_ref().unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(left(dir.path()), before + 1);
    server.stop();
}

/// The server dies in the middle: the next start removes what the import wrote.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_cuts_short_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    send(&server, database("kept")).await.unwrap();
    server.stop();
    let before = left(dir.path());
    // A killed server leaves layers that no catalogue names.
    let id = "0123456789abcdef0123456789abcdef";
    let half = dir.path().join("store/branches").join(id);
    std::fs::create_dir_all(&half).unwrap();
    std::fs::write(half.join("0000000000000001-0000000000000000.layer"), "x").unwrap();
    assert_ne!(left(dir.path()), before);
    let server = Server::start(dir.path());
    assert_eq!(left(dir.path()), before);
    assert_eq!(branches(&server).await.len(), 2);
    server.stop();
}
