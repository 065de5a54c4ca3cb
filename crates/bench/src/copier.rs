//! The least that a proxy does: a program that copies bytes between two TCP connections.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 16 << 10;

/// A process that copies, in a session of its own, as servers are: Linux divides the processor
/// between sessions first. It is killed on drop.
pub struct Copier {
    process: Child,
    port: u16,
}

impl Copier {
    /// Starts this program as a copier to the port `to` of loopback.
    ///
    /// # Errors
    /// When it cannot be executed or has no port.
    pub fn start(to: u16) -> Result<Copier> {
        let program = std::env::current_exe().context("this program has no path")?;
        // It executes the program in its own process: the pid stays.
        let mut process = Command::new("setsid")
            .arg(program)
            .arg(format!("--copy-to={to}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a copier")?;
        let mut said = String::new();
        let out = process.stdout.take().context("no output of a copier")?;
        BufReader::new(out).read_line(&mut said)?;
        let port = said.trim().parse();
        Ok(Copier {
            process,
            port: port.with_context(|| format!("a copier said {said:?}"))?,
        })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The copier itself: prints the port of loopback that it listens on, and leads each
/// connection to port `to` until it is killed.
///
/// # Errors
/// When there is no free port.
pub fn run(to: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    println!("{}", listener.local_addr()?.port());
    serve(&listener, to);
    Ok(())
}

/// Leads all connections of a listener.
pub fn serve(listener: &TcpListener, to: u16) {
    for near in listener.incoming().flatten() {
        // A client whose connection fails sees it closed.
        let _ = lead(near, to);
    }
}

/// Copies in both directions, with a thread for each.
fn lead(near: TcpStream, to: u16) -> Result<()> {
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
    thread::spawn(move || copy(near, far));
    thread::spawn(move || copy(far_too, near_too));
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other side learns that no more comes; one that is gone needs not.
    let _ = to.shutdown(Shutdown::Write);
}
