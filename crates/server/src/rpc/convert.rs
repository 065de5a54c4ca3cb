//! Converts wire types to domain types and back, and validates requests.

use bytes::Bytes;
use std::sync::Arc;
use tonic::Status;
use xylem_pages::Page;
use xylem_proto::pageserver::{self as wire, wal_frame};
use xylem_types::{FileOp, Frame, FrameBody, FrameSeq, Lsn, PageId, side_file_max};
use xylem_wal::{CheckedFrame, Damaged, FrameSums, Unreadable};

pub(super) fn page_id(request: &wire::GetPageRequest) -> PageId {
    PageId::new(request.space_id, request.page_no)
}

/// Converts a page without copying its bytes.
pub(super) fn page(page: Page) -> wire::GetPageResponse {
    wire::GetPageResponse {
        page: Bytes::from_owner(page.bytes),
        lsn: page.lsn.0,
    }
}

/// Converts a frame, and verifies the checksums that the compute computed.
///
/// # Errors
/// DATA_LOSS for a frame that was damaged on the way, INVALID_ARGUMENT for an invalid
/// frame.
pub(super) fn frame(frame: wire::WalFrame) -> Result<CheckedFrame, Status> {
    let seq = frame.seq;
    let bad = |what: String| Status::invalid_argument(format!("frame {seq}: {what}"));
    if seq == 0 {
        return Err(bad("seq: frames are numbered from 1".to_owned()));
    }
    let (Some(payload), Some(header)) = (frame.payload_crc32c, frame.header_crc32c) else {
        return Err(bad(
            "payload_crc32c, header_crc32c: it has no checksums; the compute's libxylem_client.so is older than this server"
                .to_owned(),
        ));
    };
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
    let start = Lsn(frame.start_lsn);
    let frame = Frame {
        seq: FrameSeq(seq),
        start,
        body,
    };
    let checked = CheckedFrame::verify(frame, FrameSums { payload, header })
        .map_err(|damaged| Status::data_loss(damage(seq, start, &damaged)))?;
    tidy(checked).map_err(bad)
}

/// Decodes a frame of the compute protocol, and verifies the checksums that the compute
/// computed.
///
/// # Errors
/// As for [`frame`].
pub(super) fn compute_frame(
    seq: u64,
    head: &xylem_wire::FrameHead,
    payload: &[u8],
) -> Result<CheckedFrame, Status> {
    let bad = |what: String| Status::invalid_argument(format!("frame {seq}: {what}"));
    if seq == 0 {
        return Err(bad("frames are numbered from 1".to_owned()));
    }
    let start = Lsn(head.start_lsn);
    let sums = FrameSums {
        payload: head.payload_crc,
        header: head.header_crc,
    };
    let checked = CheckedFrame::decode((FrameSeq(seq), start), head.kind, payload, sums);
    let checked = checked.map_err(|error| match error {
        Unreadable::Damaged(damaged) => Status::data_loss(damage(seq, start, &damaged)),
        Unreadable::Malformed(what) => bad(what),
    })?;
    if checked.redo().is_some_and(<[u8]>::is_empty) {
        return Err(bad("its redo is empty".to_owned()));
    }
    tidy(checked).map_err(bad)
}

fn damage(seq: u64, start: Lsn, damaged: &Damaged) -> String {
    format!(
        "frame {seq} at LSN {start} was damaged on its way from the compute: {damaged}; the server rejected it: send it again"
    )
}

/// Checks the paths and the size of a side-file operation, and removes a leading `./`.
fn tidy(checked: CheckedFrame) -> Result<CheckedFrame, String> {
    let FrameBody::File(op) = &checked.frame().body else {
        return Ok(checked);
    };
    let mut op = op.clone();
    let mut changed = false;
    let mut tidied = |field: &str, path: &mut String| {
        let short = relative(path.clone()).map_err(|why| format!("{field}: {why}"))?;
        changed |= short != *path;
        *path = short;
        Ok::<_, String>(())
    };
    match &mut op {
        FileOp::Create { path, .. }
        | FileOp::Write { path, .. }
        | FileOp::Truncate { path, .. }
        | FileOp::Unlink { path }
        | FileOp::Mkdir { path, .. }
        | FileOp::Rmdir { path } => tidied("file.path", path)?,
        FileOp::Rename { from, to } => {
            tidied("file.path", from)?;
            tidied("file.new_path", to)?;
        }
    }
    let (path, size) = match &op {
        FileOp::Write { path, offset, data } => {
            (&path[..], offset.saturating_add(data.len() as u64))
        }
        FileOp::Truncate { path, size } => (&path[..], *size),
        _ => ("", 0),
    };
    let max = side_file_max(path);
    if size > max {
        return Err(format!(
            "file: a side file of {size} bytes, the limit is {max}"
        ));
    }
    if !changed {
        return Ok(checked);
    }
    let mut frame = checked.into_frame();
    frame.body = FrameBody::File(op);
    Ok(CheckedFrame::of(frame))
}

fn file_op(op: wire::FileOp) -> Result<FileOp, String> {
    use wire::file_op::Kind;
    let kind = Kind::try_from(op.kind).map_err(|_| format!("file.kind: {} is unknown", op.kind))?;
    let path = op.path;
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
        Kind::Rename => FileOp::Rename {
            from: path,
            to: op.new_path,
        },
        Kind::Unlink => FileOp::Unlink { path },
        Kind::Mkdir => FileOp::Mkdir {
            path,
            mode: op.mode,
        },
        Kind::Rmdir => FileOp::Rmdir { path },
    })
}

/// A path below the data directory, without a leading `./`. Refuses a path that could
/// lead out of a compute's data directory.
pub(super) fn relative(path: String) -> Result<String, String> {
    let short = match path.strip_prefix("./") {
        Some(short) => short.to_owned(),
        None => path,
    };
    if short.len() > FileOp::PATH_MAX {
        return Err(format!(
            "a path of {} bytes, the limit is {}",
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
