//! The table of all calls, each about branch dev, and the right that it needs.

use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use xylem_proto::control as c;
use xylem_proto::inspect as i;
use xylem_tokens::Right;

/// The right that a call needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Needs {
    /// A valid token; the answer has what the token allows to read.
    Token,
    /// A right on the branch that the call is about.
    On(Right),
    /// A right on all branches.
    OnAll(Right),
}

/// A call about branch dev.
pub struct Call {
    pub needs: Needs,
    /// Sent as metadata, where the message does not name the branch.
    pub in_metadata: bool,
    pub message: Vec<u8>,
}

/// Every call of the server.
pub fn calls() -> BTreeMap<&'static str, Call> {
    let dev = || "dev".to_owned();
    let lsn = |lsn| {
        Some(c::Moment {
            at: Some(c::moment::At::Lsn(lsn)),
        })
    };
    let start = c::ImportItem {
        item: Some(c::import_item::Item::Start(c::ImportStart {
            branch: dev(),
            ..Default::default()
        })),
    };
    let (read, write, admin) = (Right::Read, Right::Write, Right::Admin);
    let by_metadata = |needs, message: Vec<u8>| Call {
        needs,
        in_metadata: true,
        message,
    };
    let by_name = |needs, message: Vec<u8>| Call {
        needs,
        in_metadata: false,
        message,
    };
    let on = Needs::On;
    BTreeMap::from([
        (
            "pageserver.PageServer/GetPage",
            by_metadata(on(read), vec![]),
        ),
        (
            "pageserver.PageServer/GetPages",
            by_metadata(on(read), vec![]),
        ),
        (
            "pageserver.PageServer/PageStream",
            by_metadata(on(read), vec![]),
        ),
        (
            "pageserver.PageServer/StreamWAL",
            by_metadata(on(write), vec![]),
        ),
        ("pageserver.PageServer/Ping", by_metadata(on(read), vec![])),
        (
            "xylem.control.v1.Control/ListBranches",
            by_name(Needs::Token, vec![]),
        ),
        (
            "xylem.control.v1.Control/CreateBranch",
            by_name(
                on(admin),
                c::CreateBranchRequest {
                    name: dev(),
                    from: dev(),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
        ),
        (
            "xylem.control.v1.Control/RemoveBranch",
            by_name(
                on(admin),
                c::RemoveBranchRequest { name: dev() }.encode_to_vec(),
            ),
        ),
        (
            "xylem.control.v1.Control/RenameBranch",
            by_name(
                on(admin),
                c::RenameBranchRequest {
                    name: dev(),
                    new_name: dev(),
                }
                .encode_to_vec(),
            ),
        ),
        (
            "xylem.control.v1.Control/ReopenBranch",
            by_name(
                on(admin),
                c::ReopenBranchRequest { name: dev() }.encode_to_vec(),
            ),
        ),
        (
            "xylem.control.v1.Control/RestoreBranch",
            by_name(
                on(admin),
                c::RestoreBranchRequest {
                    name: dev(),
                    at: lsn(1),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
        ),
        (
            "xylem.control.v1.Control/CreateLease",
            by_name(
                on(read),
                c::CreateLeaseRequest {
                    from: dev(),
                    at: lsn(1),
                }
                .encode_to_vec(),
            ),
        ),
        (
            "xylem.control.v1.Control/ResolveTime",
            by_name(
                on(read),
                c::ResolveTimeRequest {
                    branch: dev(),
                    at: lsn(1),
                    ..c::ResolveTimeRequest::default()
                }
                .encode_to_vec(),
            ),
        ),
        (
            "xylem.control.v1.Control/Attach",
            by_metadata(on(write), vec![]),
        ),
        (
            "xylem.control.v1.Control/BaseBackup",
            by_metadata(on(read), vec![]),
        ),
        (
            "xylem.control.v1.Control/GetTablespace",
            by_metadata(on(read), vec![]),
        ),
        (
            "xylem.control.v1.Control/Status",
            by_name(Needs::Token, vec![]),
        ),
        (
            "xylem.control.v1.Control/ImportBranch",
            by_name(on(admin), start.encode_to_vec()),
        ),
        (
            "xylem.inspect.v1.Inspect/Layers",
            by_metadata(on(read), vec![]),
        ),
        (
            "xylem.inspect.v1.Inspect/PageHistory",
            by_metadata(on(read), vec![]),
        ),
        (
            "xylem.inspect.v1.Inspect/Scrub",
            by_metadata(on(admin), vec![]),
        ),
        (
            "xylem.inspect.v1.Inspect/LastScrubs",
            by_name(Needs::Token, vec![]),
        ),
        (
            "xylem.inspect.v1.Inspect/Diagnose",
            by_name(
                Needs::OnAll(admin),
                i::DiagnoseRequest::default().encode_to_vec(),
            ),
        ),
    ])
}

/// The calls that the server's own description has.
fn described() -> BTreeSet<String> {
    let pool = prost_reflect::DescriptorPool::decode(xylem_proto::FILE_DESCRIPTOR_SET).unwrap();
    pool.services()
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            let methods: Vec<String> = service
                .methods()
                .map(|method| format!("{name}/{}", method.name()))
                .collect();
            methods
        })
        .collect()
}

#[test]
fn the_table_has_every_call() {
    let listed: BTreeSet<String> = calls().keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(listed, described());
}
