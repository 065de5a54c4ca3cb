//! A connection after its login: bytes are copied in both directions. What the client
//! sends is looked at packet by packet, because a few commands have names and numbers in
//! them that the gateway has changed.

use crate::branch::Handle;
use crate::conversation::{Conversation, command};
use crate::history::Reading;
use crate::kill;
use crate::login::ChangeUser;
use crate::packet::{FULL, HEADER_BYTES, header, length};
use crate::route::split;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The buffer of a direction that is idle or has little to copy.
const SMALL_BYTES: usize = 4 << 10;
/// The buffer of a direction that has much to copy.
const LARGE_BYTES: usize = 64 << 10;
/// A command's code, and the number of the prepared statement that it is about.
const CODE_BYTES: usize = 1 + 4;
/// The largest command that is looked at. It fits into a large buffer.
const LOOK_BYTES: usize = 60 << 10;

/// Copies answers from `from` to `to` until `from` ends. Returns what the compute has said
/// at its end without being asked, which `to` has not got.
///
/// # Errors
/// When `to` has ended.
pub(crate) async fn copy_answers(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    handle: &Handle,
    bytes: &Counter,
) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; SMALL_BYTES];
    loop {
        let Ok(got @ 1..) = from.read(&mut buffer).await else {
            return Ok(Vec::new());
        };
        bytes.inc_by(got as u64);
        let is_quiet = handle.conversation.lock().is_quiet();
        if is_quiet {
            // The session stays where it is until the client has this.
            handle.speak();
            let mut said = buffer[..got].to_vec();
            if ends(from, &mut said).await {
                return Ok(said);
            }
            to.write_all(&said).await?;
            to.flush().await?;
            handle.conversation.lock().received(&said);
            continue;
        }
        handle.speak();
        to.write_all(&buffer[..got]).await?;
        to.flush().await?;
        // Only now: a session that is idle has nothing on its way.
        handle.conversation.lock().received(&buffer[..got]);
        fit(&mut buffer, got);
    }
}

/// Reads on for a moment. Whether `from` ends.
async fn ends(from: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) -> bool {
    let rest = async {
        while said.len() < SMALL_BYTES {
            if !matches!(from.read_buf(said).await, Ok(1..)) {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(LAST_WORDS, rest)
        .await
        .unwrap_or(false)
}

/// Why [`copy_commands`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The client has ended its side.
    Ended,
    /// The session is to leave the compute.
    Asked,
    /// The compute takes nothing more.
    Gone,
}

/// How long a compute that ends a session may take from its last words to the end of the
/// connection.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Copies commands of a client, and changes those that `commands` says, until the client or
/// the compute ends, or `handle` asks the session to leave between two commands.
///
/// # Errors
/// When the client has broken off.
pub(crate) async fn copy_commands(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    commands: &mut Commands<'_>,
    handle: &Handle,
    bytes: &Counter,
) -> io::Result<Stopped> {
    let mut buffer = vec![0; SMALL_BYTES];
    let mut held = 0;
    loop {
        let got = tokio::select! {
            // What has arrived comes first.
            biased;
            got = from.read(&mut buffer[held..]) => got?,
            () = handle.asked() => {
                if held == 0 && commands.are_answered() && handle.is_silent() {
                    return Ok(Stopped::Asked);
                }
                handle.refuse();
                continue;
            }
        };
        handle.speak();
        bytes.inc_by(got as u64);
        if got == 0 {
            let _ = to.write_all(&buffer[..held]).await;
            let _ = to.shutdown().await;
            return Ok(Stopped::Ended);
        }
        let end = held + got;
        let mut begin = 0;
        while begin < end {
            let (passed, by) = match commands.next(&buffer[begin..end]) {
                Next::Pass(passed) => (begin..begin + passed, None),
                Next::Replace(passed, replaced, by) => {
                    (begin..begin + passed, Some((replaced, by)))
                }
                Next::More => break,
            };
            begin = passed.end + by.as_ref().map_or(0, |(replaced, _)| *replaced);
            commands.unread = end - begin;
            let passing = async {
                to.write_all(&buffer[passed]).await?;
                if let Some((_, by)) = &by {
                    to.write_all(by).await?;
                }
                to.flush().await
            };
            if passing.await.is_err() {
                return Ok(Stopped::Gone);
            }
        }
        buffer.copy_within(begin..end, 0);
        held = end - begin;
        commands.unread = held;
        match held {
            0 => fit(&mut buffer, got),
            // A command that is looked at fits.
            _ => buffer.resize(LARGE_BYTES, 0),
        }
    }
}

/// Gives a buffer the size that its direction needs now.
fn fit(buffer: &mut Vec<u8>, used: usize) {
    if used == buffer.len() && used < LARGE_BYTES {
        buffer.resize(2 * used, 0);
    } else if used < SMALL_BYTES && buffer.len() > SMALL_BYTES {
        buffer.truncate(SMALL_BYTES);
        buffer.shrink_to_fit();
    }
}

/// Looks at what a client sends.
pub(crate) struct Commands<'a> {
    /// The branch that the client is on, and the name by which it has asked for it.
    branches: [&'a str; 2],
    /// The compute's number of a connection of this branch that has this number here.
    inner: &'a (dyn Fn(u32) -> Option<u32> + Send + Sync),
    /// Bytes that belong to a packet that was looked at.
    left: usize,
    /// The last packet is continued by the next one.
    continued: bool,
    /// A command that arrives in parts.
    reading: Option<Reading>,
    /// Bytes in front of that command's next ones: a header, and the code.
    skip: usize,
    /// The number of its last packet.
    seq: u8,
    /// Bytes that the client has sent and that were not looked at.
    unread: usize,
    conversation: &'a Mutex<Conversation>,
}

/// The treatment of the next bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Pass this many.
    Pass(usize),
    /// Pass this many, then leave so many out, and send these.
    Replace(usize, usize, Vec<u8>),
    /// Wait for more.
    More,
}

impl<'a> Commands<'a> {
    pub(crate) fn new(
        branches: [&'a str; 2],
        inner: &'a (dyn Fn(u32) -> Option<u32> + Send + Sync),
        conversation: &'a Mutex<Conversation>,
    ) -> Commands<'a> {
        Commands {
            branches,
            inner,
            left: 0,
            continued: false,
            reading: None,
            skip: 0,
            seq: 0,
            unread: 0,
            conversation,
        }
    }

    /// Whether the client has sent whole commands, and nothing behind them.
    pub(crate) fn are_whole(&self) -> bool {
        self.left == 0 && !self.continued && self.unread == 0
    }

    /// Whether all commands were passed to their ends and have their whole answers,
    /// outside of a transaction.
    fn are_answered(&self) -> bool {
        self.left == 0 && !self.continued && self.conversation.lock().is_idle()
    }

    /// Looks at the front of `bytes`, which have not been passed yet.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Next {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if self.left > 0 {
                let passed = self.left.min(rest.len());
                self.left -= passed;
                at += passed;
                self.read(&rest[..passed]);
                if self.left > 0 || at == bytes.len() {
                    return Next::Pass(at);
                }
                continue;
            }
            let incomplete = match at {
                0 => Next::More,
                _ => Next::Pass(at),
            };
            let Some(head) = rest.first_chunk::<HEADER_BYTES>() else {
                return incomplete;
            };
            let (count, seq) = (length(*head), head[3]);
            let payload = &rest[HEADER_BYTES..];
            // A command begins with the number 0. So does a packet of a longer sequence:
            // of LOAD DATA LOCAL, or behind a full one.
            if seq == 0 && !self.continued && count > 0 {
                let Some(&code) = payload.first() else {
                    return incomplete;
                };
                if payload.len() < CODE_BYTES.min(count) {
                    return incomplete;
                }
                let whole = payload.len() >= count;
                let body = &payload[1..count.min(payload.len())];
                let mut changed = None;
                if count <= LOOK_BYTES && is_looked_at(code, body) {
                    if !whole {
                        return incomplete;
                    }
                    changed = self.change(code, body);
                }
                self.begin(code, body, whole && count < FULL);
                if let Some(changed) = changed {
                    let mut by = header(changed.len() + 1, seq).to_vec();
                    by.push(code);
                    by.extend_from_slice(&changed);
                    self.continued = false;
                    return Next::Replace(at, HEADER_BYTES + count, by);
                }
            }
            self.skip = match (&self.reading, seq) {
                (Some(_), 0) if !self.continued => HEADER_BYTES + 1,
                _ => HEADER_BYTES,
            };
            self.seq = seq;
            // The empty packet that ends a file of LOAD DATA LOCAL has any number.
            self.continued = (seq == u8::MAX && count > 0) || count == FULL;
            self.left = HEADER_BYTES + count;
        }
    }

    /// Takes the beginning of a command, which may be all of it.
    fn begin(&mut self, code: u8, body: &[u8], whole: bool) {
        let mut conversation = self.conversation.lock();
        conversation.sent(code, body);
        if whole {
            conversation.sent_whole(code, body);
        } else {
            self.reading = Some(Reading::new(code, conversation.has_backslashes()));
        }
    }

    /// Takes the next bytes of a command that arrives in parts, if there is one.
    fn read(&mut self, part: &[u8]) {
        let Some(reading) = &mut self.reading else {
            return;
        };
        let skipped = self.skip.min(part.len());
        self.skip -= skipped;
        reading.feed(&part[skipped..]);
        if self.left == 0
            && !self.continued
            && let Some(reading) = self.reading.take()
        {
            self.conversation.lock().sent_in_parts(reading, self.seq);
        }
    }

    /// The body that the compute gets in place of the command's own, if it is another.
    fn change(&self, code: u8, body: &[u8]) -> Option<Vec<u8>> {
        match code {
            command::QUERY => {
                let (range, id) = kill::number(body)?;
                let inner = (self.inner)(id)?.to_string();
                Some([&body[..range.start], inner.as_bytes(), &body[range.end..]].concat())
            }
            command::PROCESS_KILL => {
                let id = u32::from_le_bytes(*body.first_chunk()?);
                Some((self.inner)(id)?.to_le_bytes().to_vec())
            }
            command::CHANGE_USER => {
                let mut change = ChangeUser::decode(body).ok()?;
                for name in [&mut change.user, &mut change.database] {
                    // Another branch is another compute: this one does not know the
                    // name, and says so.
                    if let (before, Some(branch)) = split(name)
                        && self.branches.iter().any(|name| name.as_bytes() == branch)
                    {
                        *name = before;
                    }
                }
                Some(change.encode())
            }
            _ => None,
        }
    }
}

/// Whether a command may have something in it that the gateway changes. `body` may be
/// only the beginning.
fn is_looked_at(code: u8, body: &[u8]) -> bool {
    match code {
        command::QUERY => kill::may_be(body),
        command::PROCESS_KILL | command::CHANGE_USER => true,
        _ => false,
    }
}
