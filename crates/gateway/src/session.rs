//! A client's connection, from the greeting to its end. Its session on a compute may end
//! before it, and is restored on the next compute of the branch (`park.rs`).

use crate::branch::{Branch, Entered};
use crate::conversation::{Conversation, ERR, Form, OK, command, status_of_ok};
use crate::gateway::Shared;
use crate::login::{Answer, Greeting, asks_for_tls, caps};
use crate::own;
use crate::packet::{self, Ahead, Broken, FULL, HEADER_BYTES};
use crate::park::{Parked, pong};
use crate::proxy;
use crate::refusal::Refusal;
use crate::relay::{self, Commands, Stopped};
use crate::route::{ATTRIBUTE, Wishes, route};
use futures::future::Either;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;

/// How long a client may take to say what it wants, and the compute to greet.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the compute and the client may take for each step of the authentication: the
/// compute may ask another system, and the client a person.
const DECISION: Duration = Duration::from_secs(60);
/// A client that vanishes without a word is noticed after this time, whether it was sent
/// something or not.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);
/// The probes of a connection on which nothing is sent.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(20))
    .with_retries(3);
/// How long a compute may take to say what a session is, and to make it anew.
const MOVE: Duration = Duration::from_secs(10);

/// The client's side of a connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A client that is known by what it asked for.
struct Client {
    stream: Box<dyn Stream>,
    peer: SocketAddr,
    local: SocketAddr,
    id: u32,
    /// The number of its last packet.
    seq: u8,
    answer: Answer,
    server_name: Option<String>,
}

/// A session on a compute.
struct Inner {
    stream: InnerStream,
    name: String,
    branch: Arc<Branch>,
    /// The branch's id.
    branch_id: String,
    /// Its number on the compute.
    id: u32,
    entered: Entered,
    /// Bytes that the client has sent and the compute has not got.
    by_client: Vec<u8>,
    /// Bytes that the compute has sent and the client has not got.
    by_compute: Vec<u8>,
}

/// A session that has left its compute.
struct Away {
    name: String,
    branch_id: String,
    /// The flags of the server's status.
    status: u16,
    /// What COM_SET_OPTION has set.
    option: Option<[u8; 2]>,
    parked: Parked,
}

/// Why a session does not come back.
enum Stuck {
    /// Another attempt may work.
    Now(Refusal),
    /// The branch is gone.
    ForGood(Refusal),
}

/// A client's way to a compute: its own account's, or that of a session which was restored.
enum InnerStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

type Halves<'a> = (
    Box<dyn AsyncRead + Send + Unpin + 'a>,
    Box<dyn AsyncWrite + Send + Unpin + 'a>,
);

impl InnerStream {
    fn split(&mut self) -> Halves<'_> {
        match self {
            InnerStream::Tcp(stream) => {
                let (from, to) = stream.split();
                (Box::new(from), Box::new(to))
            }
            InnerStream::Unix(stream) => {
                let (from, to) = stream.split();
                (Box::new(from), Box::new(to))
            }
        }
    }
}

/// Serves a client. `id` is the number by which it can be killed.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, id: u32) {
    let (mut client, mut inner) = match begin(&shared, stream, peer, id).await {
        Ok(Some(begun)) => begun,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%peer, %error, "a login was not finished");
            return;
        }
    };
    // A login may have had much that is of no use any more.
    client.answer.attributes = Vec::new();
    let branch = Arc::clone(&inner.branch);
    branch.exists.store(true, Relaxed);
    loop {
        let Some(away) = pass(&shared, &mut client, inner).await else {
            return;
        };
        let back = tokio::select! {
            back = come_back(&shared, &mut client, &branch, &away) => back,
            () = shared.stopping.cancelled() => return,
        };
        inner = match back {
            Ok(Some(inner)) => inner,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%peer, %error, "a client was lost");
                return;
            }
        };
    }
}

/// Leads a client to its compute. `None`: it was told why not.
async fn begin(
    shared: &Shared,
    stream: TcpStream,
    peer: SocketAddr,
    id: u32,
) -> Result<Option<(Client, Inner)>, Broken> {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(&stream);
    let _ = socket.set_tcp_keepalive(&KEEPALIVE);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let mut client = match greet(shared, stream, peer, id).await? {
        Ok(client) => client,
        Err(mut told) => {
            told.end().await?;
            return Ok(None);
        }
    };
    let reached = match reach(shared, &mut client).await {
        Ok(reached) => reached,
        Err(Broken::Refused(refusal)) => {
            client.end(&refusal.encode()).await?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(reached.map(|inner| (client, inner)))
}

/// A client that was refused before it was known.
struct Told(Box<dyn Stream>, u8, Refusal);

impl Told {
    async fn end(&mut self) -> io::Result<()> {
        let Told(stream, seq, refusal) = self;
        last_packet(stream, *seq, &refusal.encode()).await
    }
}

/// Answers the packet `seq` for the last time.
async fn last_packet(stream: &mut dyn Stream, seq: u8, payload: &[u8]) -> io::Result<()> {
    let mut stream = stream;
    packet::write(&mut stream, seq.wrapping_add(1), payload).await?;
    stream.shutdown().await
}

/// Greets the client, and reads what it wants.
async fn greet(
    shared: &Shared,
    mut stream: TcpStream,
    peer: SocketAddr,
    id: u32,
) -> Result<Result<Client, Told>, Broken> {
    let local = stream.local_addr()?;
    let greeting = shared.greeting(id)?;
    packet::write(&mut stream, 0, &greeting.encode()).await?;
    let mut first = within(packet::read(&mut stream)).await?;
    let mut server_name = None;
    let mut stream: Box<dyn Stream> = Box::new(stream);
    if asks_for_tls(&first.payload) {
        let Some(config) = shared.tls() else {
            let refusal = Refusal::handshake("Bad handshake: this gateway has no TLS");
            return Ok(Err(Told(stream, first.seq, refusal)));
        };
        let secured = within(async {
            let accepting = TlsAcceptor::from(config).accept(stream);
            accepting.await.map_err(Broken::from)
        });
        let secured = secured.await?;
        server_name = secured.get_ref().1.server_name().map(str::to_owned);
        stream = Box::new(secured);
        first = within(packet::read(&mut stream)).await?;
    } else if shared.settings.require_tls && !peer.ip().to_canonical().is_loopback() {
        let refusal = Refusal::new(
            // ER_SECURE_TRANSPORT_REQUIRED, as MySQL has it.
            3159,
            *b"08004",
            "Connections without TLS are refused: connect with --ssl",
        );
        return Ok(Err(Told(stream, first.seq, refusal)));
    }
    let answer = match Answer::decode(&first.payload) {
        Ok(answer) => answer,
        Err(refusal) => return Ok(Err(Told(stream, first.seq, refusal))),
    };
    Ok(Ok(Client {
        stream,
        peer,
        local,
        id,
        seq: first.seq,
        answer,
        server_name,
    }))
}

/// Finds the client's compute, and lets the two agree on who the client is. `None`: the
/// compute has refused it.
async fn reach(shared: &Shared, client: &mut Client) -> Result<Option<Inner>, Broken> {
    let wishes = Wishes {
        user: &client.answer.user,
        database: &client.answer.database,
        attribute: client.answer.attribute(ATTRIBUTE)?,
        server_name: client.server_name.as_deref(),
    };
    let route = route(&wishes, shared.settings.domain.as_deref())?;
    client.answer.user = route.user;
    client.answer.database = route.database;
    let name = route
        .branch
        .unwrap_or_else(|| shared.computes.default_branch().to_owned());
    let branch = shared.branches.get(&name);
    let reached = log_in(shared, client, &branch, &name).await;
    drop(branch);
    if !matches!(reached, Ok(Some(_))) {
        shared.branches.forget(&name);
    }
    reached
}

/// Finds a client's compute, and logs the client in there.
async fn log_in(
    shared: &Shared,
    client: &mut Client,
    branch: &Arc<Branch>,
    name: &str,
) -> Result<Option<Inner>, Broken> {
    let passed = branch.gate.read().await;
    let from = client.peer.ip().to_canonical();
    let compute = shared.computes.reach(name, from).await?;
    let connected = within(async {
        let mut stream = TcpStream::connect(compute.address).await?;
        stream.set_nodelay(true)?;
        let header = proxy::header(client.peer, client.local);
        stream.write_all(&header).await?;
        let greeting = packet::read(&mut stream).await?;
        Ok((stream, greeting))
    });
    let (mut stream, greeting) = connected.await.map_err(|error| match error {
        Broken::Io(error) => Refusal::gone(format!(
            "The compute of branch '{name}' does not answer: {error}; try again"
        ))
        .into(),
        refused => refused,
    })?;
    if greeting.payload.first() == Some(&ERR) {
        // It has too many connections, for example.
        client.end(&greeting.payload).await?;
        return Ok(None);
    }
    let greeting = Greeting::decode(&greeting.payload)?;
    if client.answer.caps & caps::FORM & !greeting.caps != 0 {
        return Err(Refusal::handshake(
            "Bad handshake: the compute has another version than the gateway",
        )
        .into());
    }
    client.answer.caps &= greeting.caps | caps::SSL;
    client.answer.more_caps &= greeting.more_caps;
    // From here on, the compute lists the session as one that is busy. Nobody waits for a
    // client that takes its time to log in.
    let conversation = Conversation::login(Form::of(&client.answer));
    let entered = branch.enter(greeting.id, conversation);
    drop(passed);
    packet::write(&mut stream, 1, &client.answer.encode()).await?;
    let Some((status, [by_client, by_compute])) = authenticate(client, &mut stream).await? else {
        return Ok(None);
    };
    entered.handle.conversation.lock().begin(status);
    Ok(Some(Inner {
        stream: InnerStream::Tcp(stream),
        name: name.to_owned(),
        branch: Arc::clone(branch),
        branch_id: compute.branch_id,
        id: greeting.id,
        entered,
        by_client,
        by_compute,
    }))
}

/// Passes the compute's challenge to the client and its answers back, until the compute
/// has decided. Returns the flags of its status, and what the client and the compute have
/// sent behind that; `None` when the compute does not let the client in.
async fn authenticate(
    client: &mut Client,
    compute: &mut TcpStream,
) -> Result<Option<(u16, [Vec<u8>; 2])>, Broken> {
    // The compute's numbers are smaller by the packets that only the client had.
    let offset = client.seq.wrapping_sub(1);
    let (mut by_client, mut by_compute) = (Ahead::default(), Ahead::default());
    loop {
        let said = async {
            Ok(tokio::select! {
                said = by_compute.read(compute) => Either::Left(said?),
                said = by_client.read(&mut client.stream) => Either::Right(said?),
            })
        };
        let said: Result<_, Broken> = match tokio::time::timeout(DECISION, said).await {
            Ok(said) => said,
            Err(_) => Err(Refusal::gone("The login takes too long").into()),
        };
        match said? {
            Either::Left(packet) => {
                let seq = packet.seq.wrapping_add(offset);
                client.seq = seq;
                packet::write(&mut client.stream, seq, &packet.payload).await?;
                match packet.payload.first() {
                    Some(&OK) => {
                        let status = status_of_ok(&packet.payload)?;
                        return Ok(Some((status, [by_client.bytes, by_compute.bytes])));
                    }
                    Some(&ERR) => {
                        client.stream.shutdown().await?;
                        return Ok(None);
                    }
                    _ => {}
                }
            }
            Either::Right(packet) => {
                client.seq = packet.seq;
                let seq = packet.seq.wrapping_sub(offset);
                packet::write(compute, seq, &packet.payload).await?;
            }
        }
    }
}

/// Copies bytes until one side ends, or the session leaves its compute: then returns what
/// it was.
async fn pass(shared: &Shared, client: &mut Client, inner: Inner) -> Option<Away> {
    let Inner {
        mut stream,
        name,
        branch_id,
        id,
        entered,
        by_client,
        by_compute,
        ..
    } = inner;
    let _entry = shared.enter(client.id, &name, id);
    let form = Form::of(&client.answer);
    let conversation = &entered.handle.conversation;
    let numbers = |id| shared.inner_id(id, &name);
    let mut commands = Commands::new(&name, &numbers, conversation);
    let (mut by_client, mut by_compute) = (&by_client[..], &by_compute[..]);
    loop {
        {
            let (from_client, mut to_client) = tokio::io::split(&mut client.stream);
            let (from_compute, mut to_compute) = stream.split();
            let mut from_client = (&mut by_client).chain(from_client);
            let mut from_compute = (&mut by_compute).chain(from_compute);
            let there = pin!(relay::copy_commands(
                &mut from_client,
                &mut to_compute,
                &mut commands,
                &entered.handle,
            ));
            let back = pin!(relay::copy_answers(
                &mut from_compute,
                &mut to_client,
                &entered.handle,
            ));
            // A client that has ended well may still want the rest of an answer, which the
            // compute ends by itself. In all other cases the compute must learn at once
            // that it is over, because the session's locks wait for it.
            match futures::future::select(there, back).await {
                Either::Left((Ok(Stopped::Asked), _)) => {}
                Either::Left((Ok(Stopped::Ended), back)) => {
                    let _ = tokio::time::timeout(PATIENCE, back).await;
                    return None;
                }
                _ => return None,
            }
        }
        let Some(request) = entered.handle.take() else {
            continue;
        };
        let capture = async {
            match &mut stream {
                InnerStream::Tcp(stream) => Parked::capture(stream, form, request.account).await,
                InnerStream::Unix(stream) => Parked::capture(stream, form, request.account).await,
            }
        };
        let captured = match tokio::time::timeout(MOVE, capture).await {
            Ok(captured) => captured,
            Err(_) => return None,
        };
        match captured {
            Ok(parked) => {
                let (status, option) = {
                    let conversation = conversation.lock();
                    (conversation.status(), conversation.option())
                };
                drop(stream);
                drop(entered);
                let _ = request.left.send(Ok(()));
                return Some(Away {
                    name: name.clone(),
                    branch_id,
                    status,
                    option,
                    parked,
                });
            }
            // It goes on where it is.
            Err(Broken::Refused(error)) => {
                let _ = request.left.send(Err(error.message.into_owned()));
            }
            Err(Broken::Io(_)) => return None,
        }
    }
}

/// Waits until a client whose session is parked speaks, and restores the session. A client
/// whose compute does not start is told so, and may try again. `None`: the client has gone.
async fn come_back(
    shared: &Shared,
    client: &mut Client,
    branch: &Arc<Branch>,
    away: &Away,
) -> Result<Option<Inner>, Broken> {
    let mut said = Vec::new();
    loop {
        while said.len() <= HEADER_BYTES {
            if client.stream.read_buf(&mut said).await? == 0 {
                return Ok(None);
            }
        }
        match said[..] {
            [1, 0, 0, 0, command::QUIT] => return Ok(None),
            [1, 0, 0, 0, command::PING] => {
                said.clear();
                packet::write(&mut client.stream, 1, &pong(away.status)).await?;
                continue;
            }
            _ => {}
        }
        let (peer, answer) = (client.peer, &client.answer);
        match restore(shared, peer, answer, branch, away).await {
            Ok((stream, id, entered)) => {
                return Ok(Some(Inner {
                    stream: InnerStream::Unix(stream),
                    name: away.name.clone(),
                    branch: Arc::clone(branch),
                    branch_id: away.branch_id.clone(),
                    id,
                    entered,
                    by_client: said,
                    by_compute: Vec::new(),
                }));
            }
            Err(stuck) => {
                let (Stuck::Now(refusal) | Stuck::ForGood(refusal)) = &stuck;
                let seq = skip_command(&mut client.stream, &mut said).await?;
                let seq = seq.wrapping_add(1);
                packet::write(&mut client.stream, seq, &refusal.encode()).await?;
                if matches!(stuck, Stuck::ForGood(_)) {
                    client.stream.shutdown().await?;
                    return Ok(None);
                }
            }
        }
    }
}

/// Makes a session anew, on a compute that is started if it does not run.
async fn restore(
    shared: &Shared,
    peer: SocketAddr,
    answer: &Answer,
    branch: &Arc<Branch>,
    away: &Away,
) -> Result<(UnixStream, u32, Entered), Stuck> {
    let _passed = branch.gate.read().await;
    let from = peer.ip().to_canonical();
    let name = &away.name;
    let reached = shared.computes.reach(name, from).await;
    let compute = reached.map_err(Stuck::Now)?;
    if compute.branch_id != away.branch_id {
        // The client has not logged in there.
        return Err(Stuck::ForGood(Refusal::gone(format!(
            "Branch '{name}' is another one by now: connect anew"
        ))));
    }
    let restored = async {
        let (mut stream, id) = away.parked.restore(&compute, answer).await?;
        if let Some(option) = away.option {
            own::set_option(&mut stream, option).await?;
        }
        Ok::<_, Broken>((stream, id))
    };
    let why = match tokio::time::timeout(MOVE, restored).await {
        Ok(Ok((stream, id))) => {
            let conversation = Conversation::restored(Form::of(answer), away.status, away.option);
            return Ok((stream, id, branch.enter(id, conversation)));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    Err(Stuck::Now(Refusal::gone(format!(
        "The compute of branch '{name}' cannot continue this session: {why}; try again or connect anew"
    ))))
}

/// Reads a command to its end, of which `said` is the beginning, and keeps what follows it.
/// Returns the number of its last packet.
async fn skip_command(client: &mut Box<dyn Stream>, said: &mut Vec<u8>) -> io::Result<u8> {
    loop {
        while said.len() < HEADER_BYTES {
            read_on(client, said).await?;
        }
        let head = *said.first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        let count = packet::length(head);
        let mut left = HEADER_BYTES + count;
        loop {
            let passed = left.min(said.len());
            said.drain(..passed);
            left -= passed;
            if left == 0 {
                break;
            }
            read_on(client, said).await?;
        }
        if count < FULL {
            return Ok(head[3]);
        }
    }
}

async fn read_on(client: &mut Box<dyn Stream>, said: &mut Vec<u8>) -> io::Result<()> {
    match client.read_buf(said).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

impl Client {
    /// Sends a last packet.
    async fn end(&mut self, payload: &[u8]) -> io::Result<()> {
        last_packet(&mut *self.stream, self.seq, payload).await
    }
}

async fn within<T>(step: impl Future<Output = Result<T, Broken>>) -> Result<T, Broken> {
    match tokio::time::timeout(PATIENCE, step).await {
        Ok(done) => done,
        Err(_) => Err(Broken::Io(io::ErrorKind::TimedOut.into())),
    }
}
