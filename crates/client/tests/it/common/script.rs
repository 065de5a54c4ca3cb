//! What the scripted server answers, and what it was asked.

use super::page;
use std::collections::{HashMap, HashSet};
use xylem_client::redo::FileOp;
use xylem_wire::{
    Ack, Fault, FrameHead, GetLog, GetPage, GetSpace, Hello, Space, Standing, fault, page_head,
};

/// Status codes of gRPC.
pub mod code {
    pub const UNKNOWN: u32 = 2;
    pub const NOT_FOUND: u32 = 5;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const FAILED_PRECONDITION: u32 = 9;
    pub const UNAVAILABLE: u32 = 14;
    pub const DATA_LOSS: u32 = 15;
    pub const UNAUTHENTICATED: u32 = 16;
}

/// A status code and a message.
pub type Refusal = (u32, &'static str);

/// A frame that the server received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub seq: u64,
    pub start_lsn: u64,
    pub kind: u8,
    /// The whole message without its header.
    pub body: Vec<u8>,
}

const REDO: u8 = 3;

impl Frame {
    pub fn payload(&self) -> &[u8] {
        FrameHead::decode(&self.body).unwrap().1
    }

    pub fn redo(&self) -> Option<&[u8]> {
        (self.kind == REDO).then(|| self.payload())
    }

    /// The side-file operation, as docs/formats/wal.md describes it.
    pub fn op(&self) -> Option<FileOp> {
        let payload = self.payload();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let long = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
        let int = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().unwrap());
        Some(match self.kind {
            16 => FileOp::Create {
                mode: int(0),
                path: text(&payload[4..]),
            },
            17 => {
                let end = 12 + int(8) as usize;
                FileOp::Write {
                    offset: long(0),
                    path: text(&payload[12..end]),
                    data: payload[end..].to_vec(),
                }
            }
            18 => FileOp::Truncate {
                size: long(0),
                path: text(&payload[8..]),
            },
            19 => {
                let end = 4 + int(0) as usize;
                FileOp::Rename {
                    from: text(&payload[4..end]),
                    to: text(&payload[end..]),
                }
            }
            20 => FileOp::Unlink {
                path: text(payload),
            },
            21 => FileOp::Mkdir {
                mode: int(0),
                path: text(&payload[4..]),
            },
            22 => FileOp::Rmdir {
                path: text(payload),
            },
            _ => return None,
        })
    }
}

/// The script. All statuses are those of gRPC.
#[derive(Default)]
pub struct Script {
    // Every connection.
    pub hellos: Vec<Hello>,
    /// The refusal of every connection, ping and tablespace.
    pub status: Option<Refusal>,
    /// Nothing is answered, and no connection is welcomed.
    pub away: bool,
    pub epoch: u64,
    // Pages.
    pub page_size: usize,
    /// The size of the groups in which answers are sent, each in reverse order.
    pub reverse: usize,
    /// The statuses and messages of the next page answers.
    pub page_statuses: Vec<(u32, String)>,
    /// The number of requests after which the connection ends with an error.
    pub drop_pages_after: Option<usize>,
    /// The fault with which connections for pages end.
    pub page_end: Option<Refusal>,
    /// Page reads are not answered.
    pub silent: bool,
    /// The numbers of pages whose reads are not answered yet.
    pub held: HashSet<u32>,
    /// The number of next page reads that are set aside.
    pub aside: usize,
    /// What was set aside is answered.
    pub release_aside: bool,
    /// Requests for pages are not read.
    pub pause_pages: bool,
    pub page_requests: Vec<GetPage>,
    /// Page answers sent.
    pub page_answers: usize,
    /// Requests for pages by connection.
    pub page_connections: Vec<usize>,
    pub pings: usize,
    pub tablespaces: HashMap<u32, Space>,
    /// The errors of the next requests for a tablespace.
    pub tablespace_statuses: Vec<Refusal>,
    pub tablespace_requests: Vec<GetSpace>,
    /// The files of the binary log.
    pub logs: HashMap<u32, Vec<u8>>,
    pub log_requests: Vec<GetLog>,
    // Redo.
    pub frames: Vec<Frame>,
    /// The LSN after each frame.
    pub ends: Vec<u64>,
    pub first_seq: u64,
    pub first_lsn: u64,
    /// The numbers of received frames after which connections end; each takes one from
    /// the front.
    pub drop_wal_after: Vec<usize>,
    /// Redo is not read.
    pub pause_redo: bool,
    /// Frames become durable without an acknowledgement.
    pub hold_acks: bool,
    /// The number of frames that are acknowledged at most.
    pub ack_limit: Option<usize>,
    pub wal_status: Option<Refusal>,
    /// The frame that is refused as damaged, and the number of refusals.
    pub damaged: (u64, usize),
    pub streams: usize,
    pub resent: usize,
    pub problems: Vec<String>,
}

impl Script {
    pub fn ack(&self) -> Ack {
        let frames = self.ends.len();
        let durable = self.ack_limit.map_or(frames, |limit| limit.min(frames));
        let lsn = match durable {
            0 => self.first_lsn,
            n => self.ends[n - 1],
        };
        Ack {
            durable_seq: self.first_seq + durable as u64,
            durable_lsn: lsn,
            applied_lsn: lsn,
        }
    }

    pub fn standing(&self) -> Standing {
        Standing {
            epoch: self.epoch,
            ack: self.ack(),
        }
    }

    pub fn redo(&self) -> Vec<u8> {
        let redo = self.frames.iter().filter_map(Frame::redo);
        redo.flatten().copied().collect()
    }

    /// Loses all frames, as no server may.
    pub fn lose(&mut self) {
        self.frames.clear();
        self.ends.clear();
    }

    /// Whether to refuse the frame as damaged.
    pub fn refuses(&mut self, frame: &Frame) -> bool {
        let (seq, times) = &mut self.damaged;
        let refused = frame.seq == *seq && *times > 0;
        if refused {
            *times -= 1;
        }
        refused
    }

    pub fn accept(&mut self, frame: Frame) {
        let last = self.first_seq + self.frames.len() as u64;
        let end = self.ends.last().copied().unwrap_or(self.first_lsn);
        self.check_sums(&frame);
        if frame.seq <= last {
            let at = (frame.seq - self.first_seq - 1) as usize;
            self.resent += 1;
            if self.frames.get(at) != Some(&frame) {
                let problem = format!("frame {} changed between sendings", frame.seq);
                self.problems.push(problem);
            }
        } else if frame.seq != last + 1 {
            let problem = format!("frame {} after {last}", frame.seq);
            self.problems.push(problem);
        } else if frame.start_lsn != end {
            let (seq, start) = (frame.seq, frame.start_lsn);
            let problem = format!("frame {seq} starts at {start} instead of {end}");
            self.problems.push(problem);
        } else {
            self.ends
                .push(end + frame.redo().map_or(0, |redo| redo.len() as u64));
            self.frames.push(frame);
        }
    }

    fn check_sums(&mut self, frame: &Frame) {
        let (head, payload) = FrameHead::decode(&frame.body).unwrap();
        let mut header = [frame.seq.to_le_bytes(), frame.start_lsn.to_le_bytes()].concat();
        header.push(frame.kind);
        header.extend(head.payload_crc.to_le_bytes());
        if head.payload_crc != crc32c::crc32c(payload) || head.header_crc != crc32c::crc32c(&header)
        {
            let problem = format!("frame {} has a wrong checksum", frame.seq);
            self.problems.push(problem);
        }
    }

    /// The answer to request `id`.
    pub fn answer(&mut self, id: u64, get: &GetPage) -> Vec<u8> {
        if !self.page_statuses.is_empty() {
            let (code, message) = self.page_statuses.remove(0);
            if code != 0 {
                let message = &message;
                return fault(id, &Fault { code, message });
            }
        }
        let page = page(get.space_id, get.page_no, self.page_size);
        [&page_head(id, get.min_lsn, page.len())[..], &page].concat()
    }
}
