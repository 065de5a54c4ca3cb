//! The client's side of a connection whose packets are compressed, from the end of its login.
//!
//! The bytes of the packets, with their headers, are cut into compressed packets at any
//! place:
//!
//! ```text
//!  3 bytes  length of the payload
//!  1 byte   number, of compressed packets
//!  3 bytes  length of the payload when it is inflated; 0: it is not deflated
//!           payload: zlib's format (RFC 1950), or the bytes themselves
//! ```
//!
//! Source: <https://mariadb.com/kb/en/0-packet/>, and `net_serv.cc` and `my_compress.c` of
//! MariaDB where it says nothing.
//!
//! A payload is inflated in pieces, as fast as they are read, so that the lengths in a header
//! cost no memory. An idle connection has no buffer; one that is in the middle of a deflated
//! payload has some 47 KiB.

mod numbers;
mod results;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

use self::numbers::Numbers;
use crate::conversation::Form;
use miniz_oxide::deflate::CompressionLevel;
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, TDEFLStatus, compress};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a header.
const HEADER_BYTES: usize = 7;
/// A shorter payload is not deflated (MariaDB's `MIN_COMPRESS_LENGTH`).
const DEFLATE_BYTES_MIN: usize = 50;
/// A payload of this size is sent before the compute has said more. Zlib looks back by half
/// of it.
const PAYLOAD_BYTES: usize = 64 << 10;
/// The largest rest of a packet that is deflated. Some clients read one compressed packet more
/// where a packet does not end in the first, and no third one, so the rest is in one. A larger
/// rest is sent as it is, which needs no buffer, and no processor for long.
const REST_BYTES_MAX: usize = 1 << 20;
/// The buffer of deflated bytes that were not inflated yet.
const INPUT_BYTES: usize = 4 << 10;

/// A stream of packets inside of a stream of compressed packets.
pub(crate) struct Compressed<S> {
    stream: S,
    /// Bytes that were read from the stream before, and how many of them were taken.
    ahead: Vec<u8>,
    taken: usize,
    reading: Reading,
    /// The next payload for the client, as far as it is known.
    plain: Vec<u8>,
    /// The compute's packet that is under way began in the payload before.
    is_rest: bool,
    /// Bytes of a compressed packet that is sent as it is that have not come.
    raw: usize,
    /// A compressed packet for the client, and how much of it was sent.
    out: Vec<u8>,
    sent: usize,
    numbers: Numbers,
}

/// The part of a compressed packet that comes next.
enum Reading {
    /// Its header, of which so many bytes are there.
    Header([u8; HEADER_BYTES], usize),
    /// So many bytes as they are.
    Plain(usize),
    Deflated(Deflated),
}

impl Reading {
    const BEGIN: Reading = Reading::Header([0; HEADER_BYTES], 0);
}

/// A deflated payload.
struct Deflated {
    /// Made when the first byte arrives.
    state: Option<Box<InflateState>>,
    /// Bytes that were read and not inflated: `input[begin..end]`.
    input: Vec<u8>,
    begin: usize,
    end: usize,
    /// Bytes that were not read yet.
    left: usize,
    /// Inflated bytes that were not passed on yet.
    claimed: usize,
    /// The last of those, once it is there.
    last: Option<u8>,
}

/// The progress of a [`Deflated`].
enum Step {
    More,
    /// It needs further input.
    Starved,
    /// It was what its header says.
    Whole,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Compressed<S> {
    /// The packets of this form in `stream`, of which `ahead` was read before.
    pub fn new(stream: S, ahead: Vec<u8>, form: Form) -> Compressed<S> {
        Compressed {
            stream,
            ahead,
            taken: 0,
            reading: Reading::BEGIN,
            plain: Vec::new(),
            is_rest: false,
            raw: 0,
            out: Vec::new(),
            sent: 0,
            numbers: Numbers::new(form),
        }
    }

    /// Reads on. Returns the number of bytes, which is 0 at the end of the stream.
    fn poll_source(
        stream: &mut S,
        (ahead, taken): (&mut Vec<u8>, &mut usize),
        cx: &mut Context<'_>,
        to: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let rest = &ahead[*taken..];
        if rest.is_empty() {
            let mut to = ReadBuf::new(to);
            ready!(Pin::new(stream).poll_read(cx, &mut to))?;
            return Poll::Ready(Ok(to.filled().len()));
        }
        let count = rest.len().min(to.len());
        to[..count].copy_from_slice(&rest[..count]);
        *taken += count;
        if *taken == ahead.len() {
            (*ahead, *taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(count))
    }

    /// Puts the next bytes of packets into `to`, which is not empty. None: the stream ends.
    fn poll_packets(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (stream, ahead, taken) = (&mut self.stream, &mut self.ahead, &mut self.taken);
        let before = to.filled().len();
        loop {
            match &mut self.reading {
                Reading::Header(header, got) => {
                    if to.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                    let more = &mut header[*got..];
                    match ready!(Self::poll_source(stream, (ahead, taken), cx, more))? {
                        0 if *got == 0 => return Poll::Ready(Ok(())),
                        0 => return Poll::Ready(Err(ends("in its header"))),
                        more => *got += more,
                    }
                    if *got == HEADER_BYTES {
                        let (number, next) = Reading::behind(*header)?;
                        self.numbers.read_frame(number)?;
                        self.reading = next;
                    }
                }
                Reading::Plain(0) => self.reading = Reading::BEGIN,
                Reading::Plain(left) => {
                    let count = to.remaining().min(*left);
                    let room = to.initialize_unfilled_to(count);
                    let got = match ready!(Self::poll_source(stream, (ahead, taken), cx, room))? {
                        0 => return Poll::Ready(Err(ends("in its payload"))),
                        got => got,
                    };
                    to.advance(got);
                    *left -= got;
                    return Poll::Ready(Ok(()));
                }
                Reading::Deflated(payload) => match payload.step(to)? {
                    Step::More if to.remaining() == 0 => return Poll::Ready(Ok(())),
                    Step::More => {}
                    Step::Whole => self.reading = Reading::BEGIN,
                    Step::Starved => {
                        let input = payload.room();
                        match Self::poll_source(stream, (ahead, taken), cx, input)? {
                            Poll::Pending if to.filled().len() > before => {
                                return Poll::Ready(Ok(()));
                            }
                            Poll::Pending => return Poll::Pending,
                            Poll::Ready(0) => return Poll::Ready(Err(ends("in its payload"))),
                            Poll::Ready(got) => payload.fed(got),
                        }
                    }
                },
            }
        }
    }

    /// Sends what is left of the last compressed packet.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let rest = &self.out[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        (self.out, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Sends all that was written, but for a packet that has not come to its end: nobody could
    /// use its beginning. At the end of the stream, `is_end`, that is sent as well.
    fn poll_sent(&mut self, cx: &mut Context<'_>, is_end: bool) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        while self.numbers.holds_header() {
            if !self.plain.is_empty() {
                self.pack();
                ready!(self.poll_drain(cx))?;
            }
            self.numbers.write(&[], &mut self.plain);
        }
        if !self.plain.is_empty() && (is_end || self.numbers.is_between()) {
            self.pack();
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes bytes of packets. Returns how many, and makes a compressed packet when it is time.
    fn gather(&mut self, packets: &[u8]) -> usize {
        let mut packets = &packets[..packets.len().min(PAYLOAD_BYTES)];
        if self.is_rest {
            // Its end may be that of the payload.
            let rest = self.numbers.left();
            packets = &packets[..packets.len().min(rest)];
            if self.plain.is_empty() && self.raw == 0 && rest > REST_BYTES_MAX {
                self.raw = rest;
                self.out = header(self.numbers.write_frame(), rest, 0).to_vec();
            }
        }
        if self.raw > 0 {
            let taken = self.numbers.write(packets, &mut self.out);
            self.raw -= taken;
            self.is_rest = self.raw > 0;
            return taken;
        }
        let taken = self.numbers.write(packets, &mut self.plain);
        // What comes next is in a compressed packet of its own.
        let is_whole = taken < packets.len() || self.numbers.holds_header();
        // What is under way behind the rest begins in this payload.
        self.is_rest &= self.numbers.left() > 0;
        if is_whole || self.plain.len() >= PAYLOAD_BYTES && !self.is_rest {
            self.pack();
        }
        taken
    }

    /// Makes a compressed packet of the payload.
    fn pack(&mut self) {
        thread_local! {
            /// It has some 300 KiB, and is used for a payload at a time.
            static DEFLATER: RefCell<CompressorOxide> =
                RefCell::new(CompressorOxide::with_format_and_level(
                    DataFormat::Zlib,
                    CompressionLevel::DefaultLevel,
                ));
        }
        let plain = std::mem::take(&mut self.plain);
        if plain.is_empty() {
            return;
        }
        self.is_rest = self.numbers.left() > 0;
        let number = self.numbers.write_frame();
        DEFLATER.with_borrow_mut(|deflater| self.out = frame(number, &plain, deflater));
    }
}

/// The header of a compressed packet of `count` bytes. `inflated` is 0 for one that is not
/// deflated.
fn header(number: u8, count: usize, inflated: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, ..] = count.to_le_bytes();
    let [d, e, f, ..] = inflated.to_le_bytes();
    [a, b, c, number, d, e, f]
}

/// A compressed packet.
fn frame(number: u8, plain: &[u8], deflater: &mut CompressorOxide) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES + plain.len()];
    let (head, payload) = out.split_at_mut(HEADER_BYTES);
    if plain.len() >= DEFLATE_BYTES_MIN {
        deflater.reset();
        // Not if it is no shorter.
        let room = &mut payload[..plain.len() - 1];
        let (status, _, count) = compress(deflater, plain, room, TDEFLFlush::Finish);
        if status == TDEFLStatus::Done {
            head.copy_from_slice(&header(number, count, plain.len()));
            out.truncate(HEADER_BYTES + count);
            return out;
        }
    }
    head.copy_from_slice(&header(number, plain.len(), 0));
    payload.copy_from_slice(plain);
    out
}

impl Reading {
    /// The number of a compressed packet, and the payload behind its header.
    fn behind(header: [u8; HEADER_BYTES]) -> io::Result<(u8, Reading)> {
        let [a, b, c, number, d, e, f] = header;
        let left = u32::from_le_bytes([a, b, c, 0]) as usize;
        let claimed = u32::from_le_bytes([d, e, f, 0]) as usize;
        let payload = match (left, claimed) {
            (left, 0) => Reading::Plain(left),
            (0, claimed) => {
                return Err(damaged(format!("claims {claimed} bytes and has none")));
            }
            (left, claimed) => Reading::Deflated(Deflated {
                state: None,
                input: Vec::new(),
                begin: 0,
                end: 0,
                left,
                claimed,
                last: None,
            }),
        };
        Ok((number, payload))
    }
}

impl Deflated {
    /// The place of the next input.
    fn room(&mut self) -> &mut [u8] {
        (self.begin, self.end) = (0, 0);
        self.input.resize(self.left.min(INPUT_BYTES), 0);
        &mut self.input
    }

    /// So many bytes of input have come.
    fn fed(&mut self, got: usize) {
        self.end = got;
        self.left -= got;
    }

    /// Inflates as much as fits into `to`. The last byte comes only when all of the payload is
    /// known to be right, so that no packet in it ends before.
    fn step(&mut self, to: &mut ReadBuf<'_>) -> io::Result<Step> {
        let no_input = self.begin == self.end;
        if self.state.is_none() && no_input {
            return Ok(Step::Starved);
        }
        let state = self
            .state
            .get_or_insert_with(|| InflateState::new_boxed(DataFormat::Zlib));
        // Room for the last byte, and for one that is too many.
        let mut end = [0; 2];
        let (is_end, room) = match self.claimed - 1 {
            0 if self.last.is_some() => (true, &mut end[1..]),
            0 => (true, &mut end[..]),
            more => {
                let more = more.min(to.remaining());
                (false, to.initialize_unfilled_to(more))
            }
        };
        let input = &self.input[self.begin..self.end];
        let done = inflate(state, input, room, MZFlush::None);
        self.begin += done.bytes_consumed;
        if is_end {
            let count = usize::from(self.last.is_some()) + done.bytes_written;
            if count > 1 {
                return Err(damaged("inflates to more bytes than it claims"));
            }
            if done.bytes_written == 1 {
                self.last = Some(end[0]);
            }
        } else {
            to.advance(done.bytes_written);
            self.claimed -= done.bytes_written;
        }
        let is_read = self.begin == self.end && self.left == 0;
        match done.status {
            Ok(MZStatus::StreamEnd) => match self.last {
                _ if !is_read => Err(damaged("has bytes behind its zlib data")),
                None => Err(damaged("inflates to fewer bytes than it claims")),
                // The step before this one left room for it.
                Some(_) if to.remaining() == 0 => Ok(Step::More),
                Some(last) => {
                    to.put_slice(&[last]);
                    Ok(Step::Whole)
                }
            },
            Ok(_) | Err(MZError::Buf) if done.bytes_written + done.bytes_consumed > 0 => {
                Ok(Step::More)
            }
            Ok(_) | Err(MZError::Buf) if is_read => Err(damaged("has zlib data without an end")),
            Ok(_) | Err(MZError::Buf) if no_input => Ok(Step::Starved),
            _ => Err(damaged("has damaged zlib data")),
        }
    }
}

fn damaged(what: impl std::fmt::Display) -> io::Error {
    let what = format!("a compressed packet of the client {what}");
    io::Error::new(ErrorKind::InvalidData, what)
}

fn ends(place: &str) -> io::Error {
    let what = format!("a compressed packet of the client ends {place}");
    io::Error::new(ErrorKind::UnexpectedEof, what)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Compressed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if to.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = to.filled().len();
        let read = ready!(self.poll_packets(cx, to));
        match read {
            Ok(()) => self.numbers.read(&mut to.filled_mut()[before..]),
            // The beginning of what is damaged.
            Err(_) => to.set_filled(before),
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Compressed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        if from.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let taken = self.gather(from);
        // What is not sent now is sent by the next call.
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx, false))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx, true))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
