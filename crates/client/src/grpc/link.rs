//! One HTTP/2 connection with one bidirectional call on it, driven by one task.
//!
//! The usual way, a task for the connection and one for the call, costs a
//! wake-up between the two for each message; here both are polled together.

use super::{Closed, Deframer, Metadata, RpcStatus};
use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The connection, its call, and a pulse.
pub struct Link {
    connection: Connection<TcpStream, Bytes>,
    send: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// What the server sent and nobody read yet.
    pub received: Deframer,
    ping_pong: Option<PingPong>,
    ping_sent: Option<Instant>,
    heard: Instant,
    pulse: bool,
}

impl Link {
    /// Opens a call of `path` on a new connection. Nothing has been sent when
    /// this returns: the first poll does.
    ///
    /// # Errors
    /// When the connection takes no call.
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

    /// Queues a message. h2 keeps what the server's window does not let through
    /// yet: the caller bounds how much that can be.
    ///
    /// # Errors
    /// When the call is over: with what the server said when it ended the call,
    /// if that came.
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
                // What it said before that.
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Closed::Status(status))) => return Err(Closed::Status(status)),
                Poll::Ready(Err(_)) | Poll::Pending => return Err(failed),
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        // An error means that the call is over already.
        let _ = self.send.send_data(Bytes::new(), true);
    }

    /// Sends what is queued and takes what came into [`Link::received`]. Ready
    /// when there is something new, or when the call is over.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), Closed>> {
        let alive = self.connection_poll(cx);
        // What came before the connection broke still counts.
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

    /// Whether a ping was answered: an HTTP/2 server lives at the other end.
    pub fn has_pulse(&self) -> bool {
        self.pulse
    }

    /// Takes the server's pulse: a ping at the start, and when nothing was heard for a third of
    /// `timeout`, and an error when none was answered for all of it. Without
    /// this a peer that vanished would be noticed only by TCP, minutes later.
    ///
    /// # Errors
    /// When the server is silent.
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
                // Registers this task for the answer, and gets the ping sent.
                let _ = ping_pong.poll_pong(cx);
                self.connection_poll(cx)
            }
            Some(sent) if silent >= timeout && now.duration_since(sent) >= timeout / 3 => Err(
                Closed::Transport(format!("nothing heard for {} ms", silent.as_millis())),
            ),
            _ => Ok(()),
        }
    }
}
