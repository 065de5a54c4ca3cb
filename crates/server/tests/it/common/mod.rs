//! A server in this process, and the compute's side of the protocol.

pub mod branch;
pub mod compute;
pub mod place;
pub mod raw;
pub mod redo;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use xylem_pages::place::Place;
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::control::{AttachRequest, AttachResponse};
use xylem_proto::pageserver::page_server_client::PageServerClient;
use xylem_proto::pageserver::{
    FileOp, GetPageRequest, GetPageResponse, WalAck, WalFrame, wal_frame,
};
use xylem_server::config::{ServerArgs, ServerConfig, load};
use xylem_server::{ListenAddrs, ServerError};

pub fn args(dir: &Path) -> ServerArgs {
    ServerArgs {
        data_dir: Some(dir.display().to_string()),
        grpc_listen: Some("127.0.0.1:0".to_owned()),
        http_listen: Some("127.0.0.1:0".to_owned()),
        wal_segment_size: Some("16MiB".to_owned()),
        memory: Some("64MiB".to_owned()),
        stop_grace: Some("300ms".to_owned()),
        ownership_lease: Some("300ms".to_owned()),
        ..ServerArgs::default()
    }
}

pub fn config(args: &ServerArgs) -> ServerConfig {
    load(args, &|_| None, None).unwrap()
}

/// A server with its own runtime.
pub struct Server {
    pub addrs: ListenAddrs,
    stop: Option<oneshot::Sender<()>>,
    crash: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl Server {
    pub fn start(dir: &Path) -> Server {
        Server::with(config(&args(dir))).unwrap()
    }

    pub fn with(config: ServerConfig) -> Result<Server, ServerError> {
        Server::serve(config, None)
    }

    /// Starts a server on the given store.
    pub fn on(dir: &Path, place: Arc<dyn Place>) -> Server {
        Server::try_on(config(&args(dir)), place).unwrap()
    }

    pub fn try_on(config: ServerConfig, place: Arc<dyn Place>) -> Result<Server, ServerError> {
        Server::serve(config, Some(place))
    }

    fn serve(config: ServerConfig, place: Option<Arc<dyn Place>>) -> Result<Server, ServerError> {
        let (ready, addrs) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let (crash, crashed) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = xylem_server::runtime(&config).unwrap();
            let ended = runtime.block_on(async {
                let shutdown = async {
                    let _ = stopped.await;
                };
                let ready = |addrs| ready.send(addrs).unwrap();
                let running: Pin<Box<dyn Future<Output = _>>> = match place {
                    None => Box::pin(xylem_server::run(config, ready, shutdown)),
                    Some(place) => Box::pin(xylem_server::run_on(config, place, ready, shutdown)),
                };
                tokio::select! {
                    ended = running => ended,
                    Ok(()) = crashed => Ok(()),
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(10));
            ended
        });
        match addrs.recv() {
            Ok(addrs) => Ok(Server {
                addrs,
                stop: Some(stop),
                crash: Some(crash),
                thread: Some(thread),
            }),
            Err(_) => Err(thread.join().unwrap().unwrap_err()),
        }
    }

    /// Stops the server gracefully and waits until it has ended.
    pub fn stop(mut self) {
        self.begin_stop();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    pub fn begin_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub fn join(mut self) {
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    /// Drops the server, as a crash would.
    pub fn crash(mut self) {
        self.crash.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    /// Waits until the server ends by itself; returns its result.
    pub fn ended(mut self) -> Result<(), ServerError> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// A server in another process; this value does not stop it.
    pub fn elsewhere(addrs: ListenAddrs) -> Server {
        Server {
            addrs,
            stop: None,
            crash: None,
            thread: None,
        }
    }

    pub async fn channel(&self) -> Channel {
        channel(self.addrs.grpc).await
    }

    pub async fn pages(&self) -> PageServerClient<Channel> {
        PageServerClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub async fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel().await)
    }

    pub async fn attach(&self) -> AttachResponse {
        self.attach_to("main").await.unwrap()
    }

    pub async fn attach_to(&self, branch: &str) -> Result<AttachResponse, Status> {
        let request = with(AttachRequest {}, &[("xylem-branch", branch)]);
        let attached = self.control().await.attach(request).await?;
        Ok(attached.into_inner())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let (Some(crash), Some(thread)) = (self.crash.take(), self.thread.take()) {
            let _ = crash.send(());
            let _ = thread.join();
        }
    }
}

pub async fn channel(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}"))
        .unwrap()
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .connect()
        .await
        .unwrap()
}

/// A request with gRPC metadata.
pub fn with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in metadata {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    request
}

pub fn page(space: u32, page: u32) -> GetPageRequest {
    GetPageRequest {
        space_id: space,
        page_no: page,
        ..GetPageRequest::default()
    }
}

/// The compute's end of a StreamWAL.
pub struct Writer {
    pub frames: Option<mpsc::Sender<WalFrame>>,
    pub acks: Streaming<WalAck>,
    pub first: WalAck,
    pub seq: u64,
    pub lsn: u64,
}

impl Writer {
    pub async fn open(server: &Server, epoch: u64) -> Writer {
        Writer::try_open(server, epoch).await.unwrap()
    }

    pub async fn try_open(server: &Server, epoch: u64) -> Result<Writer, Status> {
        Writer::open_on(server, "main", epoch).await
    }

    /// Opens a stream on a branch, given by its name or `id:…`.
    pub async fn open_on(server: &Server, branch: &str, epoch: u64) -> Result<Writer, Status> {
        Writer::open_as(server, branch, epoch, "").await
    }

    /// As [`Writer::open_on`], with a token unless it is empty.
    pub async fn open_as(
        server: &Server,
        branch: &str,
        epoch: u64,
        token: &str,
    ) -> Result<Writer, Status> {
        let (frames, receiver) = mpsc::channel(64);
        let epoch = epoch.to_string();
        let mut metadata = vec![("xylem-epoch", epoch.as_str()), ("xylem-branch", branch)];
        if !token.is_empty() {
            metadata.push(("xylem-token", token));
        }
        let request = with(ReceiverStream::new(receiver), &metadata);
        let mut acks = server.pages().await.stream_wal(request).await?.into_inner();
        let first = acks.message().await?.unwrap();
        let (seq, lsn) = (first.durable_seq, first.durable_lsn);
        Ok(Writer {
            frames: Some(frames),
            acks,
            first,
            seq,
            lsn,
        })
    }

    /// Sends a frame of redo and advances the LSN.
    pub async fn redo(&mut self, bytes: Vec<u8>) {
        self.seq += 1;
        let start_lsn = self.lsn;
        self.lsn += bytes.len() as u64;
        let body = Some(wal_frame::Body::Redo(bytes.into()));
        self.send(WalFrame {
            seq: self.seq,
            start_lsn,
            body,
            ..WalFrame::default()
        })
        .await;
    }

    pub async fn file(&mut self, op: FileOp) {
        self.seq += 1;
        let body = Some(wal_frame::Body::File(op));
        self.send(WalFrame {
            seq: self.seq,
            start_lsn: self.lsn,
            body,
            ..WalFrame::default()
        })
        .await;
    }

    /// Sends a frame, with its checksums if it has none.
    pub async fn send(&mut self, frame: WalFrame) {
        let frame = match frame.payload_crc32c {
            Some(_) => frame,
            None => redo::with_sums(frame),
        };
        self.frames.as_ref().unwrap().send(frame).await.unwrap();
    }

    /// Waits until everything sent is durable.
    pub async fn durable(&mut self) -> WalAck {
        loop {
            let ack = self.acks.message().await.unwrap().unwrap();
            if ack.durable_seq >= self.seq {
                assert_eq!(ack.durable_lsn, self.lsn);
                return ack;
            }
        }
    }

    /// Waits until everything sent can be read.
    pub async fn applied(&mut self) {
        while self.acks.message().await.unwrap().unwrap().applied_lsn < self.lsn {}
    }

    /// Waits for the end of the stream; returns its status.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.acks.message().await?.is_some() {}
        Ok(())
    }
}

/// A server whose branch `main` has a small database, and the writer of its compute.
pub async fn with_database(server: &Server) -> (AttachResponse, Writer) {
    let attached = server.attach().await;
    assert!(attached.empty);
    assert_eq!(attached.start_lsn, 12288);
    let mut writer = Writer::open(server, attached.epoch).await;
    assert_eq!(writer.lsn, 12288);
    writer.redo(redo::system_tablespace()).await;
    writer.file(redo::mkdir("test")).await;
    writer.file(redo::create("test/t1.frm")).await;
    writer.file(redo::write("test/t1.frm", b"frm of t1")).await;
    writer.redo(redo::tablespace(5, "./test/t1.ibd", 64)).await;
    writer.redo(redo::mark(5, 3, 0xaabb_ccdd)).await;
    writer.durable().await;
    wait_applied(server, writer.lsn).await;
    (attached, writer)
}

pub async fn wait_applied(server: &Server, lsn: u64) -> GetPageResponse {
    let request = GetPageRequest {
        min_lsn: lsn,
        timeout_ms: 20_000,
        ..page(0, 0)
    };
    server
        .pages()
        .await
        .get_page(request)
        .await
        .unwrap()
        .into_inner()
}

/// `GET path`: status and body.
pub async fn http_get(addr: SocketAddr, path: &str) -> (u16, String) {
    http_get_as(addr, path, "").await
}

/// As [`http_get`], with a token unless it is empty.
pub async fn http_get_as(addr: SocketAddr, path: &str, token: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let token = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n{token}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

pub fn refused<T>(result: Result<Response<T>, Status>) -> Status {
    match result {
        Ok(_) => panic!("the call was not refused"),
        Err(status) => status,
    }
}
