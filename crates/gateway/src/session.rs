//! A client's connection, from the greeting to its end.

use crate::gateway::Shared;
use crate::login::{Answer, Greeting, asks_for_tls, caps};
use crate::packet::{self, Ahead, Broken};
use crate::proxy;
use crate::refusal::Refusal;
use crate::relay::{self, Commands};
use crate::route::{ATTRIBUTE, Wishes, route};
use futures::future::Either;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
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
/// The first byte of a packet that ends a login well.
const OK: u8 = 0x00;
/// The first byte of an error.
const ERR: u8 = 0xff;

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

/// A compute that has greeted.
struct Inner {
    stream: TcpStream,
    branch: String,
    greeting: Greeting,
    /// Bytes that the client and the compute have sent behind the login.
    ahead: [Vec<u8>; 2],
}

/// Serves a client. `id` is the number by which it can be killed.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, id: u32) {
    match begin(&shared, stream, peer, id).await {
        Ok(Some((client, inner))) => pass(&shared, client, inner).await,
        Ok(None) => {}
        Err(error) => tracing::debug!(%peer, %error, "a login was not finished"),
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
    let from = client.peer.ip().to_canonical();
    let reached = shared.computes.reach(route.branch.as_deref(), from).await?;
    client.answer.user = route.user;
    client.answer.database = route.database;

    let connected = within(async {
        let mut stream = TcpStream::connect(reached.address).await?;
        stream.set_nodelay(true)?;
        let header = proxy::header(client.peer, client.local);
        stream.write_all(&header).await?;
        let greeting = packet::read(&mut stream).await?;
        Ok((stream, greeting))
    });
    let (mut stream, greeting) = connected.await.map_err(|error| match error {
        Broken::Io(error) => Refusal::gone(format!(
            "The compute of branch '{}' does not answer: {error}; try again",
            reached.branch
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
    packet::write(&mut stream, 1, &client.answer.encode()).await?;
    let ahead = authenticate(client, &mut stream).await?;
    Ok(ahead.map(|ahead| Inner {
        stream,
        branch: reached.branch,
        greeting,
        ahead,
    }))
}

/// Passes the compute's challenge to the client and its answers back, until the compute
/// has decided. Returns what the client and the compute have sent behind that; `None`
/// when the compute does not let the client in.
async fn authenticate(
    client: &mut Client,
    compute: &mut TcpStream,
) -> Result<Option<[Vec<u8>; 2]>, Broken> {
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
                    Some(&OK) => return Ok(Some([by_client.bytes, by_compute.bytes])),
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

/// Copies bytes until one side ends.
async fn pass(shared: &Shared, client: Client, inner: Inner) {
    let Inner {
        mut stream,
        branch,
        greeting,
        ahead: [by_client, by_compute],
    } = inner;
    let _entry = shared.enter(client.id, &branch, greeting.id);
    let numbers = |id| shared.inner_id(id, &branch);
    let commands = Commands::new(&branch, &numbers);
    // A login may have had much that is of no use any more.
    drop(client.answer);
    let (from_client, mut to_client) = tokio::io::split(client.stream);
    let (from_compute, mut to_compute) = stream.split();
    let mut from_client = (&by_client[..]).chain(from_client);
    let mut from_compute = (&by_compute[..]).chain(from_compute);
    let there = pin!(relay::copy_commands(
        &mut from_client,
        &mut to_compute,
        commands
    ));
    let back = pin!(relay::copy(&mut from_compute, &mut to_client));
    // A client that has ended well may still want the rest of an answer, which the
    // compute ends by itself. In all other cases the compute must learn at once that it is
    // over, because the session's locks wait for it.
    if let Either::Left((Ok(()), back)) = futures::future::select(there, back).await {
        let _ = tokio::time::timeout(PATIENCE, back).await;
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
