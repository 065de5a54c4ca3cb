//! A client's connection, from the greeting to its end. Its session on a compute may end
//! before it, and is restored on the next compute of the branch (`park.rs`).

use crate::away::Away;
use crate::branch::{Branch, Entered};
use crate::compressed::Compressed;
use crate::computes::Reached;
use crate::conversation::{Conversation, ERR, Form, OK, status_of_ok};
use crate::gateway::{MORE_OFFERED, Shared};
use crate::login::{Answer, Greeting, asks_for_tls, caps};
use crate::metrics::{BranchMetrics, Counted};
use crate::packet::{self, Ahead, Broken};
use crate::park::Parked;
use crate::pool::{Login, Place};
use crate::proxy;
use crate::refusal::Refusal;
use crate::relay::{self, Commands, Stopped};
use crate::route::{ATTRIBUTE, Wishes, route};
use crate::scan::is_ambiguous;
use crate::secure;
use futures::future::Either;
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

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
pub(crate) const MOVE: Duration = Duration::from_secs(10);
/// How long a compute that has ended its sessions may take to end.
const DEATH: Duration = Duration::from_secs(60);
/// The first pause between two looks whether it has. It doubles each time.
const LOOK: Duration = Duration::from_millis(10);
/// The longest one.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// The client's side of a connection, with TLS and compression or without.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A client that is known by what it asked for.
pub(crate) struct Client {
    pub stream: Box<dyn Stream>,
    pub peer: SocketAddr,
    local: SocketAddr,
    id: u32,
    /// The number of its last packet.
    seq: u8,
    pub answer: Answer,
    /// It has TLS.
    is_secure: bool,
    server_name: Option<String>,
    /// The branch or moment that it has named.
    named: String,
}

/// A session on a compute.
pub(crate) struct Inner {
    pub stream: InnerStream,
    pub compute: Reached,
    /// Its number on the compute.
    pub id: u32,
    pub entered: Entered,
    /// Bytes that the client has sent and the compute has not got.
    pub by_client: Vec<u8>,
    /// Bytes that the compute has sent and the client has not got.
    pub by_compute: Vec<u8>,
}

/// A client's way to a compute: its own account's, or that of a session which was restored.
pub(crate) enum InnerStream {
    Tcp(TcpStream),
    /// For accounts that require TLS.
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl AsyncRead for InnerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            InnerStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            InnerStream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            InnerStream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for InnerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            InnerStream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            InnerStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            InnerStream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            InnerStream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            InnerStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            InnerStream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            InnerStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            InnerStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            InnerStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

type Halves<'a> = (
    Box<dyn AsyncRead + Send + Unpin + 'a>,
    Box<dyn AsyncWrite + Send + Unpin + 'a>,
);

impl InnerStream {
    /// Both directions, which a connection without TLS has without a lock.
    fn split(&mut self) -> Halves<'_> {
        match self {
            InnerStream::Tcp(stream) => {
                let (from, to) = stream.split();
                (Box::new(from), Box::new(to))
            }
            InnerStream::Tls(stream) => {
                let (from, to) = tokio::io::split(stream);
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
    let branch = shared.branches.get(&inner.compute.branch);
    let metrics = branch.exists(&inner.compute.branch, &shared.metrics);
    metrics.logins.inc();
    // That of the first client, before the branch was known to exist.
    metrics.woken(&mut inner.compute);
    let _client = Counted::one(&metrics.clients);
    let _forgotten = Forgotten(&shared, inner.compute.branch.clone());
    loop {
        let Some(away) = pass(&shared, &mut client, inner, metrics).await else {
            return;
        };
        let _parked = Counted::one(&metrics.parked);
        let back = tokio::select! {
            back = away.come_back(&shared, &mut client, &branch) => back,
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

/// Forgets the name of a moment that nobody is at any more, on drop.
struct Forgotten<'a>(&'a Shared, String);

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.0.branches.forget(&self.1);
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
    let is_secure = asks_for_tls(&first.payload);
    let mut stream: Box<dyn Stream> = Box::new(stream);
    if is_secure {
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
        is_secure,
        server_name,
        named: String::new(),
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
    client.named = route
        .branch
        .unwrap_or_else(|| shared.computes.default_branch().to_owned());
    let from = client.peer.ip().to_canonical();
    let name = shared.computes.settle(&client.named, from).await?;
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
    let compute = shared.reach(branch, name, from).await?;
    let login = branch.pool.log_in(compute.pool, name).await?;
    let clock = &shared.settings.clock;
    let wanted = match client.is_secure {
        true => secure::wanted(branch, &compute, clock, &client.answer.user).await,
        false => None,
    };
    let connected = within(async {
        let mut stream = TcpStream::connect(compute.address).await?;
        stream.set_nodelay(true)?;
        let header = proxy::header(client.peer, client.local);
        stream.write_all(&header).await?;
        let greeting = packet::read(&mut stream).await?;
        Ok((stream, greeting))
    });
    let (stream, greeting) = connected.await.map_err(no_answer(name))?;
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
    client.answer.caps &= greeting.caps | caps::SSL | caps::COMPRESS;
    client.answer.more_caps &= greeting.more_caps & MORE_OFFERED;
    // From here on, the compute lists the session as one that is busy. Nobody waits for a
    // client that takes its time to log in.
    let mut conversation = Conversation::login(Form::of(&client.answer));
    if is_ambiguous(client.answer.charset) {
        conversation.history.lose();
    }
    let mut entered = branch.enter(greeting.id, compute.process.clone(), conversation, None);
    drop(passed);
    let place = branch.pool.enter(compute.pool, name);
    let wanted = wanted.filter(|_| greeting.caps & caps::SSL != 0);
    let answered = answer(&client.answer, stream, wanted, &compute).await;
    let (mut stream, seq) = answered.map_err(no_answer(name))?;
    // The compute's numbers are smaller by the packets that only the client had.
    let offset = client.seq.wrapping_sub(seq);
    let authenticated = authenticate(client, &mut stream, offset, login, place).await?;
    let Some((place, status, [by_client, by_compute])) = authenticated else {
        return Ok(None);
    };
    let by_client = client.compress(by_client);
    entered.handle.conversation.lock().begin(status);
    entered.place = Some(place);
    Ok(Some(Inner {
        stream,
        compute,
        id: greeting.id,
        entered,
        by_client,
        by_compute,
    }))
}

/// The error for a client whose compute does not answer the gateway.
fn no_answer(name: &str) -> impl Fn(Broken) -> Broken {
    move |error| match error {
        Broken::Io(error) => Refusal::gone(format!(
            "The compute of branch '{name}' does not answer: {error}; try again"
        ))
        .into(),
        refused @ Broken::Refused(_) => refused,
    }
}

/// Answers the compute's greeting, over TLS if that is `wanted`. Returns the number of the
/// answer's packet.
async fn answer(
    answer: &Answer,
    mut stream: TcpStream,
    wanted: Option<Arc<ClientConfig>>,
    compute: &Reached,
) -> Result<(InnerStream, u8), Broken> {
    let mut seq = 1;
    let mut stream = match wanted {
        None => InnerStream::Tcp(stream),
        Some(config) => {
            packet::write(&mut stream, seq, &answer.ask_for_tls()).await?;
            seq += 1;
            let secured = within(secure::connect(config, compute, stream)).await?;
            InnerStream::Tls(Box::new(secured))
        }
    };
    let is_secure = matches!(stream, InnerStream::Tls(_));
    packet::write(&mut stream, seq, &answer.encode(is_secure)).await?;
    Ok((stream, seq))
}

/// Passes the compute's challenge to the client and its answers back, until the compute
/// has decided. The client's packets have numbers that are larger by `offset`. A client that
/// is let in waits for its `place`. Returns that, the flags of its status, and what the client
/// and the compute have sent behind that; `None` when the compute does not let the client in.
async fn authenticate(
    client: &mut Client,
    compute: &mut InnerStream,
    offset: u8,
    login: Login,
    place: impl Future<Output = Result<Place, Refusal>>,
) -> Result<Option<(Place, u16, [Vec<u8>; 2])>, Broken> {
    let patience = match login.is_of_pool() {
        true => PATIENCE,
        false => DECISION,
    };
    let (mut by_client, mut by_compute) = (Ahead::default(), Ahead::default());
    loop {
        let said = async {
            Ok(tokio::select! {
                said = by_compute.read(compute) => Either::Left(said?),
                said = by_client.read(&mut client.stream) => Either::Right(said?),
            })
        };
        let said: Result<_, Broken> = match tokio::time::timeout(patience, said).await {
            Ok(said) => said,
            Err(_) => Err(Refusal::gone("The login takes too long").into()),
        };
        match said? {
            Either::Left(packet) => {
                let seq = packet.seq.wrapping_add(offset);
                if packet.payload.first() == Some(&OK) {
                    let status = status_of_ok(&packet.payload)?;
                    // Others may begin to log in while this client waits for its place.
                    drop(login);
                    let place = place.await?;
                    client.seq = seq;
                    packet::write(&mut client.stream, seq, &packet.payload).await?;
                    return Ok(Some((place, status, [by_client.bytes, by_compute.bytes])));
                }
                client.seq = seq;
                packet::write(&mut client.stream, seq, &packet.payload).await?;
                if packet.payload.first() == Some(&ERR) {
                    client.stream.shutdown().await?;
                    return Ok(None);
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

/// Why copying has ended.
enum End {
    /// The client has gone.
    Client,
    /// The session is to leave the compute.
    Asked,
    /// The compute has ended the session, with these words that nobody asked for.
    Compute(Vec<u8>),
}

/// Copies bytes until one side ends, or the session leaves its compute: then returns what
/// it was.
async fn pass(
    shared: &Shared,
    client: &mut Client,
    mut inner: Inner,
    metrics: &BranchMetrics,
) -> Option<Away> {
    let name = inner.compute.branch.clone();
    let _entry = shared.enter(client.id, &name, inner.id);
    let form = Form::of(&client.answer);
    let handle = Arc::clone(&inner.entered.handle);
    let numbers = |id| shared.inner_id(id, &name);
    let named = client.named.clone();
    let mut commands = Commands::new([&name, &named], &numbers, &handle.conversation);
    let (by_client, by_compute) = (
        std::mem::take(&mut inner.by_client),
        std::mem::take(&mut inner.by_compute),
    );
    let (mut by_client, mut by_compute) = (&by_client[..], &by_compute[..]);
    loop {
        let end = {
            let (from_client, mut to_client) = tokio::io::split(&mut client.stream);
            let (from_compute, mut to_compute) = inner.stream.split();
            let mut from_client = (&mut by_client).chain(from_client);
            let mut from_compute = (&mut by_compute).chain(from_compute);
            let there = pin!(relay::copy_commands(
                &mut from_client,
                &mut to_compute,
                &mut commands,
                &handle,
                &metrics.commands,
            ));
            let back = pin!(relay::copy_answers(
                &mut from_compute,
                &mut to_client,
                &handle,
                &metrics.answers,
            ));
            // Answers first: a compute that has ended gets no further command.
            match futures::future::select(back, there).await {
                Either::Left((Ok(said), _)) => End::Compute(said),
                Either::Right((Ok(Stopped::Asked), _)) => End::Asked,
                // A client that has ended well may still want the rest of an answer, which
                // the compute ends by itself.
                Either::Right((Ok(Stopped::Ended), back)) => {
                    let _ = tokio::time::timeout(PATIENCE, back).await;
                    End::Client
                }
                // What the compute has said before is still on its way.
                Either::Right((Ok(Stopped::Gone), back)) => {
                    match tokio::time::timeout(PATIENCE, back).await {
                        Ok(Ok(said)) => End::Compute(said),
                        _ => End::Client,
                    }
                }
                // The compute must learn at once that it is over, because the session's
                // locks wait for it.
                Either::Left((Err(error), _)) | Either::Right((Err(error), _)) => {
                    tracing::debug!(peer = %client.peer, %error, "a client was lost");
                    End::Client
                }
            }
        };
        match end {
            End::Client => {
                drop(inner);
                let _ = tokio::time::timeout(PATIENCE, client.stream.shutdown()).await;
                return None;
            }
            End::Compute(said) => {
                let has_all = commands.are_whole() && by_client.is_empty();
                let away = bereaved(shared, client, inner, &said, has_all).await?;
                metrics.bereaved.inc();
                return Some(away);
            }
            End::Asked => {}
        }
        let Some(request) = handle.take() else {
            continue;
        };
        let capture = Parked::capture(&mut inner.stream, form, request.account);
        let Ok(captured) = tokio::time::timeout(MOVE, capture).await else {
            return None;
        };
        match captured {
            Ok(parked) => {
                let away = Away::parked(&inner, parked);
                drop(inner);
                let _ = request.left.send(Ok(()));
                return Some(away);
            }
            // It goes on where it is.
            Err(Broken::Refused(error)) => {
                let _ = request.left.send(Err(error.message.into_owned()));
            }
            Err(Broken::Io(_)) => return None,
        }
    }
}

/// Finds out why a compute has ended a session. If it has died, the session can come back on
/// another one, unless something in it is not known; a command that waits for its answer gets
/// an error. Otherwise the client's connection ends with what the compute has `said`.
/// `has_all`: nothing that the client has sent is lost.
async fn bereaved(
    shared: &Shared,
    client: &mut Client,
    inner: Inner,
    said: &[u8],
    has_all: bool,
) -> Option<Away> {
    let away = match has_all {
        true => Away::bereaved(&inner),
        false => None,
    };
    let survives = match &away {
        Some(_) => has_died(shared, &inner.compute).await,
        None => false,
    };
    drop(inner);
    let Some((mut away, command)) = away.filter(|_| survives) else {
        let _ = client.stream.write_all(said).await;
        let _ = client.stream.shutdown().await;
        return None;
    };
    if let Some(command) = command {
        let answer = away.answer(command);
        let told = packet::write(&mut client.stream, command.seq, &answer).await;
        told.ok()?;
    }
    tracing::debug!(branch = away.name(), "a session survives its compute");
    Some(away)
}

/// Whether the process of a compute that has ended a session ends as well. It may take its
/// time: it is asked whether it takes others.
async fn has_died(shared: &Shared, compute: &Reached) -> bool {
    let began = shared.settings.clock.instant();
    let mut pause = LOOK;
    while shared.settings.clock.since(began) < DEATH && !shared.stopping.is_cancelled() {
        if !shared.computes.is_alive(compute) {
            return true;
        }
        let greeted = async {
            let mut stream = UnixStream::connect(&compute.own.socket).await?;
            packet::read(&mut stream).await
        };
        if matches!(tokio::time::timeout(PATIENCE, greeted).await, Ok(Ok(_))) {
            return false;
        }
        tokio::time::sleep(pause).await;
        // Thousands of sessions may look at once.
        pause = (pause * 2).min(LOOK_MAX);
    }
    false
}

impl Client {
    /// Compresses what follows the login, if the client has asked for it. `ahead` was read
    /// already; returns what of it is not compressed.
    fn compress(&mut self, ahead: Vec<u8>) -> Vec<u8> {
        if self.answer.caps & caps::COMPRESS == 0 {
            return ahead;
        }
        let stream = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        self.stream = Box::new(Compressed::new(stream, ahead, Form::of(&self.answer)));
        Vec::new()
    }

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
