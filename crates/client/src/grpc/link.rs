//! One HTTP/2 connection with one bidirectional call on it, driven by one task.
//!
//! With the usual two tasks, one for the connection and one for the call, each
//! message costs a wake-up between them. Here one task polls both.

use super::{Closed, Deframer, Metadata, RpcStatus};
use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A connection, its call, and the pulse of the server.
pub struct Link {
    connection: Connection<TcpStream, Bytes>,
    send: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// Received bytes that were not read yet.
    pub received: Deframer,
    ping_pong: Option<PingPong>,
    ping_sent: Option<Instant>,
    heard: Instant,
    pulse: bool,
}

impl Link {
    /// Opens a call of `path` on a new connection. The first poll sends the
    /// request.
    ///
    /// # Errors
    /// When the connection does not accept a call.
    pub async fn open(
        mut requests: SendRequest<Bytes>,
        mut connection: Connection<TcpStream, Bytes>,
        metadata: &Metadata,
        path: &str,
        message_limit: usize,
        now: Instant,
    ) -> Result<Link, Closed> {
        let request = metadata
            .request(path)
            .map_err(|e| Closed::Transport(e.message))?;
        std::future::poll_fn(|cx| requests.poll_ready(cx)).await?;
        let (response, send) = requests.send_request(request, false)?;
        let ping_pong = connection.ping_pong();
        Ok(Link {
            connection,
            send,
            response: Some(response),
            body: None,
            received: Deframer::new(message_limit),
            ping_pong,
            ping_sent: None,
            heard: now,
            pulse: false,
        })
    }

    /// Queues a message. h2 buffers the bytes that exceed the server's window; the
    /// caller bounds their number.
    ///
    /// # Errors
    /// When the call has ended: the server's status, if it was received.
    pub fn send(
        &mut self,
        cx: &mut Context<'_>,
        message: Bytes,
        now: Instant,
    ) -> Result<(), Closed> {
        let failed = match self.send.send_data(message, false) {
            Ok(()) => return Ok(()),
            Err(e) => Closed::from(e),
        };
        loop {
            match self.poll(cx, now) {
                // Answers that the server sent before it ended the call.
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Closed::Status(status))) => return Err(Closed::Status(status)),
                Poll::Ready(Err(_)) | Poll::Pending => return Err(failed),
            }
        }
    }

    /// Closes the sending side of the call.
    pub fn finish(&mut self) {
        // An error means that the call has already ended.
        let _ = self.send.send_data(Bytes::new(), true);
    }

    /// Sends queued messages and moves received bytes to [`Link::received`].
    /// Ready when there are new bytes, or when the call has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), Closed>> {
        let alive = self.connection_poll(cx);
        // Bytes that arrived before the connection broke still count.
        match self.body_poll(cx, now) {
            Poll::Pending => match alive {
                Ok(()) => Poll::Pending,
                Err(closed) => Poll::Ready(Err(closed)),
            },
            ready => ready,
        }
    }

    fn connection_poll(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        match Pin::new(&mut self.connection).poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => Err(Closed::Transport(
                "the server closed the connection".to_owned(),
            )),
            Poll::Ready(Err(e)) => Err(e.into()),
        }
    }

    fn body_poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), Closed>> {
        if let Some(response) = &mut self.response {
            let (head, body) = ready!(Pin::new(response).poll(cx))?.into_parts();
            self.response = None;
            self.heard = now;
            if head.status != http::StatusCode::OK {
                return Poll::Ready(Err(Closed::Status(RpcStatus::from_http(head.status))));
            }
            if let Some(status) = RpcStatus::from_headers(&head.headers) {
                return Poll::Ready(Err(Closed::Status(status)));
            }
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else {
            return Poll::Pending;
        };
        match ready!(body.poll_data(cx)) {
            Some(chunk) => {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                self.heard = now;
                self.received.push(chunk);
                Poll::Ready(Ok(()))
            }
            None => {
                let trailers = ready!(body.poll_trailers(cx))?;
                let status = trailers.as_ref().and_then(RpcStatus::from_headers);
                Poll::Ready(Err(match status {
                    Some(status) => Closed::Status(status),
                    None => Closed::Transport("the server ended the stream".to_owned()),
                }))
            }
        }
    }

    /// Whether a ping was answered, which shows that an HTTP/2 server is at the
    /// other end.
    pub fn has_pulse(&self) -> bool {
        self.pulse
    }

    /// Checks the server's pulse. Sends a ping at the start and whenever nothing
    /// was received for a third of `timeout`. Without pings, only TCP would notice
    /// that the peer vanished, minutes later.
    ///
    /// # Errors
    /// When a ping is unanswered and nothing was received for `timeout`.
    pub fn check_pulse(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        timeout: Duration,
    ) -> Result<(), Closed> {
        let Some(ping_pong) = &mut self.ping_pong else {
            return Ok(());
        };
        if self.ping_sent.is_some()
            && let Poll::Ready(pong) = ping_pong.poll_pong(cx)
        {
            pong?;
            self.heard = now;
            self.pulse = true;
            self.ping_sent = None;
        }
        let silent = now.duration_since(self.heard);
        match self.ping_sent {
            None if !self.pulse || silent >= timeout / 3 => {
                ping_pong.send_ping(Ping::opaque())?;
                self.ping_sent = Some(now);
                // Registers this task for the answer; then sends the ping.
                let _ = ping_pong.poll_pong(cx);
                self.connection_poll(cx)
            }
            Some(sent) if silent >= timeout && now.duration_since(sent) >= timeout / 3 => Err(
                Closed::Transport(format!("nothing received for {} ms", silent.as_millis())),
            ),
            _ => Ok(()),
        }
    }
}
