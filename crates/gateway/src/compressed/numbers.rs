//! The numbers of packets inside of compressed packets.
//!
//! Both kinds begin at 0 with each command, and go on through its answer. A compute, which
//! gets and sends packets only, insists on their numbers. MariaDB and its clients do not, where
//! packets are compressed: they go by the numbers of compressed packets, and number a packet
//! behind a pause as the compressed packet that it is in (`net_flush`, where MariaDB says
//! "Sync packet number if using compression"); MariaDB's client numbers all packets of a
//! command 0. The packets of either side therefore get other numbers on their way.

use super::results::Results;
use crate::conversation::{Form, has_no_answer};
use crate::packet::{FULL, HEADER_BYTES, length};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};

/// The most commands ahead of their answers whose numbers are kept.
const WAITING_MAX: usize = 1000;
/// The most of a compute's packet that is looked at.
const LOOK_BYTES: usize = 32;

/// The numbers in both directions.
pub(super) struct Numbers {
    form: Form,
    by_client: Packets,
    by_compute: Packets,
    /// That of the compressed packet behind the client's last one.
    frame: u8,
    /// That of the client's last packet, as the compute gets it.
    sent: u8,
    /// The client's last packet had this number, 255, and is not the end of a file.
    wraps: bool,
    /// The next byte of the client is a command's code.
    at_code: bool,
    /// The client's packets are about `waiting`'s last command, or else about `turn`.
    counts: bool,
    /// That of the compute's last packet, as the compute has sent it.
    answered: u8,
    /// The compute has sent it behind the client's last one.
    has_answered: bool,
    /// The beginning of the compute's packet that is under way, and its length.
    seen: Vec<u8>,
    count: usize,
    /// That packet does not continue another one.
    looks: bool,
    /// A result has ended, and another one follows.
    is_flushed: bool,
    /// The command whose answer is under way, or was the last one.
    turn: Turn,
    /// The commands whose answers have not begun.
    waiting: VecDeque<Turn>,
}

/// A command and its answer: the numbers that come next.
#[derive(Clone, Copy)]
struct Turn {
    /// That of the compute's first packet, as the compute sends it.
    first: u8,
    /// That of the compute's next packet, as the client gets it.
    packet: u8,
    /// That of the next compressed packet.
    frame: u8,
    results: Results,
}

/// A way of packets, which is anywhere in one.
#[derive(Default)]
struct Packets {
    /// The header, of which so many bytes have come.
    header: [u8; HEADER_BYTES],
    got: usize,
    /// Bytes of the payload that have not come.
    left: usize,
    /// The packet is full, and the next one continues it.
    continued: bool,
}

impl Packets {
    fn is_between(&self) -> bool {
        self.got == 0 && self.left == 0 && !self.continued
    }

    /// Takes the front of `bytes` as bytes of the header. Whether it is whole.
    fn take_header(&mut self, bytes: &[u8]) -> (usize, bool) {
        let count = bytes.len().min(HEADER_BYTES - self.got);
        self.header[self.got..self.got + count].copy_from_slice(&bytes[..count]);
        self.got += count;
        (count, self.got == HEADER_BYTES)
    }

    /// Goes on behind the header. Returns its length.
    fn enter(&mut self) -> usize {
        self.left = length(self.header);
        self.continued = self.left == FULL;
        self.got = 0;
        self.left
    }
}

impl Numbers {
    /// Those behind the login of a client whose packets have this form.
    pub fn new(form: Form) -> Numbers {
        Numbers {
            form,
            by_client: Packets::default(),
            by_compute: Packets::default(),
            frame: 0,
            sent: 0,
            wraps: false,
            at_code: false,
            counts: false,
            answered: 0,
            has_answered: false,
            seen: Vec::with_capacity(LOOK_BYTES),
            count: 0,
            looks: false,
            is_flushed: false,
            // A packet that nobody has asked for must not be numbered 0.
            turn: Turn {
                first: 1,
                packet: 1,
                frame: 1,
                results: Results::Last,
            },
            waiting: VecDeque::new(),
        }
    }

    /// A compressed packet of the client begins.
    ///
    /// # Errors
    /// When it has the number of another one.
    pub fn read_frame(&mut self, number: u8) -> io::Result<()> {
        let turn = self.waiting.back().unwrap_or(&self.turn);
        // Between packets it may begin a command, or go on behind what the compute has said.
        let goes_on = self.has_answered && number == turn.frame;
        let is_next =
            number == self.frame || self.by_client.is_between() && (number == 0 || goes_on);
        if !is_next {
            let next = self.frame;
            let what = format!(
                "a compressed packet of the client has the number {number} in place of {next}"
            );
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        self.frame = number.wrapping_add(1);
        Ok(())
    }

    /// Puts the compute's numbers into bytes of the client.
    pub fn read(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            if self.by_client.left > 0 {
                if std::mem::take(&mut self.at_code) {
                    self.command(bytes[at]);
                }
                self.count();
                let passed = self.by_client.left.min(bytes.len() - at);
                self.by_client.left -= passed;
                at += passed;
                continue;
            }
            let (passed, is_whole) = self.by_client.take_header(&bytes[at..]);
            at += passed;
            if is_whole {
                self.sent = self.number();
                // The last byte of the header.
                bytes[at - 1] = self.sent;
                self.count();
            }
        }
    }

    /// The number of the client's packet, whose header has come, for the compute.
    fn number(&mut self) -> u8 {
        let was_continued = self.by_client.continued;
        let number = self.by_client.header[HEADER_BYTES - 1];
        let count = self.by_client.enter();
        let wrapped = std::mem::replace(&mut self.wraps, number == u8::MAX && count > 0);
        let has_answered = std::mem::take(&mut self.has_answered);
        if was_continued {
            return self.sent.wrapping_add(1);
        }
        self.at_code = number == 0 && count > 0 && !wrapped;
        // Whether a command counts, its code says.
        self.counts = !self.at_code;
        match has_answered {
            _ if self.at_code => 0,
            true => self.answered.wrapping_add(1),
            false => self.sent.wrapping_add(1),
        }
    }

    /// The client has sent a command.
    fn command(&mut self, code: u8) {
        self.counts = !has_no_answer(code) && self.waiting.len() < WAITING_MAX;
        if self.counts {
            self.waiting.push_back(Turn {
                results: Results::of(code),
                ..self.turn
            });
        }
    }

    /// The client's command, or its part of an answer, has come this far.
    fn count(&mut self) {
        if self.counts {
            let turn = self.waiting.back_mut().unwrap_or(&mut self.turn);
            turn.first = self.sent.wrapping_add(1);
            turn.packet = self.frame;
            turn.frame = self.frame;
        }
    }

    /// Adds the compute's `bytes` to `to`, with the client's numbers, up to the beginning of
    /// another answer or result, which is in another compressed packet. Returns how many it took. Less
    /// than a header is kept for the next call.
    pub fn write(&mut self, bytes: &[u8], to: &mut Vec<u8>) -> usize {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if self.by_compute.left > 0 && !rest.is_empty() {
                let passed = self.by_compute.left.min(rest.len());
                to.extend_from_slice(&rest[..passed]);
                at += passed;
                self.pass(&rest[..passed]);
                continue;
            }
            if self.by_compute.left > 0 {
                return at;
            }
            let (passed, is_whole) = self.by_compute.take_header(rest);
            at += passed;
            if !is_whole {
                return at;
            }
            let number = self.by_compute.header[HEADER_BYTES - 1];
            let begins = self.begins(number);
            if (begins || self.is_flushed) && !to.is_empty() {
                return at;
            }
            if self.is_flushed {
                self.turn.packet = self.turn.frame;
                self.is_flushed = false;
            }
            if begins && let Some(turn) = self.waiting.pop_front() {
                self.turn = turn;
            }
            let [a, b, c, _] = self.by_compute.header;
            to.extend([a, b, c, self.turn.packet]);
            self.turn.packet = self.turn.packet.wrapping_add(1);
            (self.answered, self.has_answered) = (number, true);
            // What continues a packet is no other one.
            let is_first = !self.by_compute.continued;
            self.count = self.by_compute.enter();
            self.seen.clear();
            self.looks = is_first;
        }
    }

    /// The compute has sent `bytes` of a payload.
    fn pass(&mut self, bytes: &[u8]) {
        let looked_at = bytes.len().min(LOOK_BYTES - self.seen.len());
        self.seen.extend_from_slice(&bytes[..looked_at]);
        self.by_compute.left -= bytes.len();
        if self.by_compute.left == 0 && self.looks {
            let results = &mut self.turn.results;
            self.is_flushed = results.pass(self.form, &self.seen, self.count);
        }
    }

    /// Whether a packet of the compute with this number begins the answer to the next command.
    /// One in the middle of an answer is taken for that if it has the number by chance: packet
    /// 257 of an answer, if the client has sent another command meanwhile. Clients that do so
    /// do not look at the numbers.
    fn begins(&self, number: u8) -> bool {
        let next = self.answered.wrapping_add(1);
        let is_other = |turn: &Turn| number == turn.first || number != next;
        !self.by_compute.continued && self.waiting.front().is_some_and(is_other)
    }

    /// Bytes of the compute's packet that have not come.
    pub fn left(&self) -> usize {
        self.by_compute.left
    }

    /// Whether the compute's last packet has come to its end.
    pub fn is_between(&self) -> bool {
        self.by_compute.is_between()
    }

    /// Whether a header was kept that is whole.
    pub fn holds_header(&self) -> bool {
        self.by_compute.got == HEADER_BYTES
    }

    /// The number of the compressed packet that the compute's bytes are in.
    pub fn write_frame(&mut self) -> u8 {
        let number = self.turn.frame;
        self.turn.frame = number.wrapping_add(1);
        number
    }
}
