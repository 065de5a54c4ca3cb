//! Wire types to domain types and back. What a request says is checked here.

use bytes::Bytes;
use std::sync::Arc;
use tonic::Status;
use xylem_pages::Page;
use xylem_proto::pageserver::{self as wire, wal_frame};
use xylem_types::{FileOp, Frame, FrameBody, FrameSeq, Lsn, PageId};

/// The page that a request names.
pub(super) fn page_id(request: &wire::GetPageRequest) -> PageId {
    PageId::new(request.space_id, request.page_no)
}

/// A page on its way out: its bytes are shared, not copied.
pub(super) fn page(page: Page) -> wire::GetPageResponse {
    wire::GetPageResponse {
        page: Bytes::from_owner(page.bytes),
        lsn: page.lsn.0,
    }
}

/// A frame as its compute sent it.
pub(super) fn frame(frame: wire::WalFrame) -> Result<Frame, Status> {
    let seq = frame.seq;
    let bad = |what: String| Status::invalid_argument(format!("frame {seq}: {what}"));
    if seq == 0 {
        return Err(bad("seq: frames are numbered from 1".to_owned()));
    }
    let body = match frame.body {
        None => {
            return Err(bad(
                "body: it has neither redo nor a file operation".to_owned()
            ));
        }
        Some(wal_frame::Body::Redo(redo)) if redo.is_empty() => {
            return Err(bad("redo: it is empty".to_owned()));
        }
        Some(wal_frame::Body::Redo(redo)) => FrameBody::Redo(Arc::from(&redo[..])),
        Some(wal_frame::Body::File(op)) => FrameBody::File(file_op(op).map_err(bad)?),
    };
    Ok(Frame {
        seq: FrameSeq(seq),
        start: Lsn(frame.start_lsn),
        body,
    })
}

fn file_op(op: wire::FileOp) -> Result<FileOp, String> {
    use wire::file_op::Kind;
    let kind =
        Kind::try_from(op.kind).map_err(|_| format!("file.kind: {} is not known", op.kind))?;
    let path = relative(op.path).map_err(|why| format!("file.path: {why}"))?;
    Ok(match kind {
        Kind::Create => FileOp::Create {
            path,
            mode: op.mode,
        },
        Kind::Write => FileOp::Write {
            path,
            offset: op.offset,
            data: Arc::from(&op.data[..]),
        },
        Kind::Truncate => FileOp::Truncate {
            path,
            size: op.offset,
        },
        Kind::Rename => {
            let to = relative(op.new_path).map_err(|why| format!("file.new_path: {why}"))?;
            FileOp::Rename { from: path, to }
        }
        Kind::Unlink => FileOp::Unlink { path },
        Kind::Mkdir => FileOp::Mkdir {
            path,
            mode: op.mode,
        },
        Kind::Rmdir => FileOp::Rmdir { path },
    })
}

/// A path below the data directory, without a leading `./`. Anything that
/// could lead out of it when a compute lays its files out is refused.
pub(super) fn relative(path: String) -> Result<String, String> {
    let short = match path.strip_prefix("./") {
        Some(short) => short.to_owned(),
        None => path,
    };
    if short.len() > FileOp::PATH_MAX {
        return Err(format!(
            "a path of {} bytes, and no file has one of more than {}",
            short.len(),
            FileOp::PATH_MAX
        ));
    }
    let ok = !short.contains('\0')
        && short
            .split('/')
            .all(|part| !matches!(part, "" | "." | ".."));
    if ok {
        Ok(short)
    } else {
        Err(format!("{short:?} is not a path within the data directory"))
    }
}
