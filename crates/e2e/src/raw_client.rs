//! A client that speaks MariaDB's protocol byte by byte, for what drivers do not do.
//! (<https://mariadb.com/kb/en/clientserver-protocol/>)

use anyhow::{Result, bail, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// `CLIENT_CONNECT_WITH_DB`, `CLIENT_PROTOCOL_41`, `CLIENT_TRANSACTIONS`,
/// `CLIENT_SECURE_CONNECTION`, `CLIENT_PLUGIN_AUTH`.
const CAPABILITIES: u32 = 1 << 3 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 19;

/// A connection to the gateway or a compute.
#[derive(Debug)]
pub struct RawClient(TcpStream);

impl RawClient {
    /// Logs in with an account that has no password.
    ///
    /// # Errors
    /// When it is refused.
    pub fn connect(port: u16, user: &str, database: &str) -> Result<RawClient> {
        RawClient::connect_with(port, user, database, 0)
    }

    /// Logs in as [`RawClient::connect`] does, with further capabilities.
    ///
    /// # Errors
    /// When it is refused.
    pub fn connect_with(
        port: u16,
        user: &str,
        database: &str,
        capabilities: u32,
    ) -> Result<RawClient> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = RawClient(stream);
        client.receive()?;
        let mut answer = (CAPABILITIES | capabilities).to_le_bytes().to_vec();
        answer.extend((1_u32 << 24).to_le_bytes());
        answer.push(45);
        answer.extend([0; 23]);
        answer.extend(user.as_bytes());
        // The end of the user, and a challenge's answer of no bytes.
        answer.extend([0, 0]);
        answer.extend(database.as_bytes());
        answer.extend(b"\0mysql_native_password\0");
        client.send(1, &answer)?;
        let (mut seq, mut said) = client.receive()?;
        if said.first() == Some(&0xfe) {
            client.send(seq + 1, b"")?;
            (seq, said) = client.receive()?;
        }
        ensure!(said.first() == Some(&0), "packet {seq}: {}", text(&said));
        Ok(client)
    }

    /// The bytes behind the login.
    pub fn into_stream(self) -> TcpStream {
        self.0
    }

    /// Sends a command, and returns the first packet of its answer.
    ///
    /// # Errors
    /// Also when that is an error.
    pub fn command(&mut self, payload: &[u8]) -> Result<Vec<u8>> {
        self.send(0, payload)?;
        self.packet()
    }

    /// Sends a command that has no answer.
    ///
    /// # Errors
    /// When the connection is closed.
    pub fn say(&mut self, payload: &[u8]) -> Result<()> {
        self.send(0, payload)
    }

    /// The next packet.
    ///
    /// # Errors
    /// Also when it is an error.
    pub fn packet(&mut self) -> Result<Vec<u8>> {
        let (_, said) = self.receive()?;
        if said.first() == Some(&0xff) {
            bail!("{}", text(&said));
        }
        Ok(said)
    }

    /// The packets before the next one that ends a list.
    ///
    /// # Errors
    /// When an error comes first.
    pub fn list(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        loop {
            let packet = self.packet()?;
            if packet.first() == Some(&0xfe) && packet.len() < 9 {
                return Ok(all);
            }
            all.push(packet);
        }
    }

    fn send(&mut self, seq: u8, payload: &[u8]) -> Result<()> {
        let [a, b, c, _] = u32::try_from(payload.len())?.to_le_bytes();
        Ok(self.0.write_all(&[&[a, b, c, seq], payload].concat())?)
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head)?;
        let [a, b, c, seq] = head;
        let mut payload = vec![0; u32::from_le_bytes([a, b, c, 0]) as usize];
        self.0.read_exact(&mut payload)?;
        Ok((seq, payload))
    }
}

fn text(packet: &[u8]) -> String {
    String::from_utf8_lossy(packet).into_owned()
}
