//! A connection from its first byte to its role.

use super::super::call::{self, Caller};
use super::super::status;
use super::{pages, redo};
use crate::accept::KEEPALIVE;
use crate::connections::Permit;
use crate::node::Node;
use socket2::Domain;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tonic::Status;
use xylem_channel::{Channel, Wait};
use xylem_types::Epoch;
use xylem_wire::{
    Ack, Fault, HELLO_BYTES_MAX, Hello, Invalid, Kind, PREFACE_BYTES, Received, Role, Standing,
    check_preface, fault,
};

/// How long a peer may take to introduce itself.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// The stack of a connection's thread. Page reads from memory need little.
const STACK_BYTES: usize = 512 << 10;
/// Bytes that the system may hold in each direction.
const BUFFER_BYTES: usize = 1 << 20;

/// A connection of a compute that is known.
pub(super) struct Connection {
    pub node: Arc<Node>,
    pub caller: Caller,
    pub channel: Arc<Channel>,
    pub received: Received,
    pub runtime: Handle,
}

/// Serves a connection on a thread of its own. `permit` counts it until it ends.
pub(crate) fn spawn(node: Arc<Node>, channel: Channel, permit: Permit) {
    let runtime = Handle::current();
    let spawned = std::thread::Builder::new()
        .name("xylem-compute".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            serve(node, channel, runtime);
            drop(permit);
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot start a thread for a compute's connection: it is closed");
    }
}

fn serve(node: Arc<Node>, channel: Channel, runtime: Handle) {
    let mut received = Received::default();
    let outcome = prepare(&node, &channel).map_err(End::from).and_then(|()| {
        let hello = introduction(&channel, &mut received)?;
        let caller = admit(&node, &hello)?;
        channel.socket().set_read_timeout(None)?;
        Ok((hello.role, caller))
    });
    let (role, caller) = match outcome {
        Ok(known) => known,
        Err(End::Refused(status)) => return refuse(&channel, &status),
        Err(End::Gone) => return,
    };
    let connection = Connection {
        node,
        caller,
        channel: Arc::new(channel),
        received,
        runtime,
    };
    match role {
        Role::Pages => pages::serve(connection),
        Role::Redo => redo::serve(connection),
    }
}

/// Why a connection ends.
pub(super) enum End {
    /// The server ends it, and says why.
    Refused(Status),
    /// The peer is gone.
    Gone,
}

impl From<Status> for End {
    fn from(status: Status) -> End {
        End::Refused(status)
    }
}

impl From<Invalid> for End {
    fn from(invalid: Invalid) -> End {
        End::Refused(Status::invalid_argument(invalid.to_string()))
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Gone
    }
}

fn prepare(node: &Node, channel: &Channel) -> io::Result<()> {
    let socket = channel.socket();
    socket.set_nonblocking(false)?;
    // A peer that takes no answers for longer than that is disconnected.
    socket.set_write_timeout(Some(node.config.stall_timeout))?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    if socket.domain()? != Domain::UNIX {
        // The connection has probes for when nothing is sent. This limit is for when
        // something is; it counts a peer that is there and takes nothing, too.
        let timeout = node.config.stall_timeout.max(3 * KEEPALIVE);
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

fn introduction(channel: &Channel, received: &mut Received) -> Result<Hello, End> {
    let until = Instant::now() + HELLO_PATIENCE;
    let mut preface = false;
    loop {
        if !preface && let Some(bytes) = received.rest().first_chunk::<PREFACE_BYTES>() {
            check_preface(bytes)?;
            received.skip(PREFACE_BYTES);
            preface = true;
        }
        if preface {
            // Nobody makes the server hold more before it is known.
            if received.announced() > HELLO_BYTES_MAX {
                return Err(Invalid::TooLong(HELLO_BYTES_MAX as u32 + 1).into());
            }
            if let Some(message) = received.next()? {
                return match message.header.kind {
                    Kind::Hello => Ok(Hello::decode(message.body)?),
                    other => Err(Invalid::Unexpected(other).into()),
                };
            }
        }
        // The limit is for all of it: a peer may send it byte by byte.
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(End::Gone);
        }
        channel.socket().set_read_timeout(Some(left))?;
        receive(channel, received)?;
    }
}

/// Waits for bytes.
pub(super) fn receive(channel: &Channel, received: &mut Received) -> Result<(), End> {
    loop {
        match channel.receive(received.room(), Wait::Yes) {
            Ok(0) => return Err(End::Gone),
            Ok(count) => {
                received.filled(count);
                return Ok(());
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Sends all of `bytes`.
pub(super) fn send_all(channel: &Channel, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match channel.send(&[IoSlice::new(bytes)], Wait::Yes) {
            Ok(count) => bytes = &bytes[count..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn admit(node: &Node, hello: &Hello) -> Result<Caller, Status> {
    let bearer = node.bearer(Some(hello.token.as_bytes()))?;
    let name = (!hello.branch.is_empty()).then_some(hello.branch.as_str());
    let epoch = (hello.epoch != 0).then_some(Epoch(hello.epoch));
    let caller = call::identify(node, bearer, name, epoch)?;
    caller.check_epoch()?;
    Ok(caller)
}

/// The message that says why a connection ends.
pub(crate) fn refusal(status: &Status) -> Vec<u8> {
    let (code, message) = (status.code() as u32, status.message());
    fault(0, &Fault { code, message })
}

/// Says why the connection ends, and ends it. A peer that does not listen is not waited
/// for.
pub(super) fn refuse(channel: &Channel, status: &Status) {
    // An error means that the peer is gone.
    let _ = channel.send(&[IoSlice::new(&refusal(status))], Wait::No);
    channel.end(Shutdown::Both);
}

impl Connection {
    /// The state of the branch, for a welcome or a pong.
    pub fn standing(&self) -> Standing {
        let branch = &self.caller.branch;
        let durable = branch.durable();
        Standing {
            epoch: durable.epoch().0,
            ack: Ack {
                durable_seq: durable.seq().0,
                // Of the same moment as the number.
                durable_lsn: durable.lsn().0.max(branch.meta.branch_point_lsn),
                applied_lsn: branch.pages.applied().0,
            },
        }
    }

    /// Why the server ends the connection, if it does.
    pub fn why_ended(&self) -> Status {
        status::ended(&self.caller.branch)
    }
}

/// Calls its function on drop: also when the runtime ends, and the task that has it.
pub(super) struct AtLast<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for AtLast<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A task that is aborted on drop.
pub(super) struct Ender(tokio::task::JoinHandle<()>);

impl Ender {
    /// Aborts `task` on drop.
    pub fn of(task: tokio::task::JoinHandle<()>) -> Ender {
        Ender(task)
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        self.0.abort();
    }
}
