//! A network that is far away: a TCP proxy that holds back every byte.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Bytes that are read, and so delayed, at once.
const CHUNK: usize = 64 << 10;
/// Chunks under way in one direction of a connection; the sender waits beyond them, as it
/// would for a full window.
const CHUNKS_MAX: usize = 1024;

/// Listens on a free port of the loopback device and passes bytes on to another address,
/// each of them after a fixed time. Unlike a slow link, it does not limit the bytes that
/// are under way, up to 64 MiB.
///
/// Dropping the proxy ends accepting; connections live as long as their ends.
#[derive(Debug)]
pub struct DelayProxy {
    addr: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl DelayProxy {
    /// Passes connections on to `to`, with half of `round_trip` in each direction.
    pub fn start(to: SocketAddr, round_trip: Duration) -> io::Result<DelayProxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let delay = round_trip / 2;
        std::thread::spawn(move || {
            for near in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                // A client whose connection cannot be passed on sees it closed.
                let _ = near.and_then(|near| connect(&near, to, delay));
            }
        });
        Ok(DelayProxy { addr, ended })
    }

    /// The address for clients to connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // The thread that accepts wakes up.
        let _ = TcpStream::connect(self.addr);
    }
}

fn connect(near: &TcpStream, to: SocketAddr, delay: Duration) -> io::Result<()> {
    let far = TcpStream::connect(to)?;
    for end in [near, &far] {
        end.set_nodelay(true)?;
    }
    pass(near.try_clone()?, far.try_clone()?, delay);
    pass(far, near.try_clone()?, delay);
    Ok(())
}

/// Passes one direction on, with one thread for each end.
fn pass(from: TcpStream, to: TcpStream, delay: Duration) {
    let (sender, receiver) = sync_channel(CHUNKS_MAX);
    std::thread::spawn(move || take(from, delay, &sender));
    std::thread::spawn(move || give(to, &receiver));
}

fn take(mut from: TcpStream, delay: Duration, sender: &SyncSender<(Instant, Vec<u8>)>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        let due = Instant::now() + delay;
        if sender.send((due, chunk[..read].to_vec())).is_err() {
            // The other end takes nothing more.
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
    }
}

fn give(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, bytes)) = receiver.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut end, _) = listener.accept().unwrap();
            io::copy(&mut end.try_clone().unwrap(), &mut end).unwrap();
        });
        addr
    }

    #[test]
    fn bytes_come_back_whole_after_the_round_trip_and_not_one_after_the_other() {
        let round_trip = Duration::from_millis(50);
        let proxy = DelayProxy::start(echo(), round_trip).unwrap();
        let mut end = TcpStream::connect(proxy.addr()).unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let began = Instant::now();
        let mut writer = end.try_clone().unwrap();
        let bytes = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        end.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert!(sent == received);
        assert!(began.elapsed() >= round_trip);
        // Its sixteen chunks of 64 KiB travel together.
        assert!(began.elapsed() < round_trip * 16);
    }
}
