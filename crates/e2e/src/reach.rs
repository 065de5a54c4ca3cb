//! Reaches a project's server over its ports, as other machines do: with TLS, unless the
//! server is of a version that has none.

use crate::Project;
use anyhow::{Context, Result, ensure};
use std::io::IoSlice;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_channel::{Channel, ClientTls, Wait};
use xylem_proto::dial::{PROTOCOL, Way};

/// How long the server may take to connect, and to answer.
const LIMIT: Duration = Duration::from_secs(30);

impl Project {
    /// The file of the authority of the server's certificate, if it has one.
    pub fn authority(&self) -> Option<PathBuf> {
        Some(self.dir().join("tls/ca.pem")).filter(|file| file.exists())
    }

    /// The address of the server's port called `which` in the status: grpc or http.
    pub fn server_address(&self, which: &str) -> Result<String> {
        let status = self.json(&["status"])?;
        let address = status["server"][which].as_str();
        let address = address.with_context(|| format!("the server has no {which} address"))?;
        Ok(address.to_owned())
    }

    /// The way to the server's gRPC.
    pub fn way(&self) -> Result<Way> {
        let address = self.server_address("grpc")?;
        Ok(match self.authority() {
            None => Way::Plain(address),
            Some(file) => {
                let tls = ClientTls::new(xylem_tls::provider(), PROTOCOL, file, None)?;
                Way::Tls(address, Arc::new(tls))
            }
        })
    }

    /// A connection to the server's gRPC.
    pub async fn channel(&self) -> Result<tonic::transport::Channel> {
        Ok(self.way()?.connect(LIMIT, |endpoint| endpoint).await?)
    }

    /// The body of the answer to a request for `path` on the server's HTTP port, with
    /// the owner's token.
    pub fn http_get(&self, path: &str) -> Result<String> {
        let address = self.server_address("http")?;
        let stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let (host, _) = address.rsplit_once(':').context("no port")?;
        let channel = match self.authority() {
            None => Channel::plain(stream.into()),
            Some(file) => {
                let tls = ClientTls::new(xylem_tls::provider(), b"http/1.1", file, None)?;
                let until = Instant::now() + LIMIT;
                let mut goes_on = || match Instant::now() < until {
                    true => Ok(()),
                    false => Err(std::io::ErrorKind::TimedOut.into()),
                };
                tls.connect(stream.into(), host, &mut goes_on)?
            }
        };
        let token = match self.token()? {
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{token}Connection: close\r\n\r\n");
        channel.send(&[IoSlice::new(request.as_bytes())], Wait::Yes)?;
        let mut answer = Vec::new();
        let mut room = [0; 64 << 10];
        loop {
            match channel.receive(&mut room, Wait::Yes)? {
                0 => break,
                count => answer.extend_from_slice(&room[..count]),
            }
        }
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP response")?;
        ensure!(head.contains(" 200 "), "{path}: {head}\n{body}");
        Ok(body.to_owned())
    }
}
