//! A client whose session is on no compute: its compute sleeps or has died.

use crate::branch::Branch;
use crate::computes::Reached;
use crate::conversation::{Conversation, Form, IN_TRANSACTION, Unanswered, command, has_no_answer};
use crate::gateway::Shared;
use crate::history::History;
use crate::login::Answer;
use crate::own;
use crate::packet::{self, Broken, FULL, HEADER_BYTES};
use crate::park::{Account, Parked, pong, repeat};
use crate::pool::Place;
use crate::refusal::Refusal;
use crate::session::{Client, Inner, InnerStream, MOVE};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The bytes of COM_STMT_CLOSE.
const CLOSE_BYTES: usize = HEADER_BYTES + 1 + 4;

/// A session that has left its compute.
pub(crate) struct Away {
    name: String,
    branch_id: String,
    /// The flags of the server's status.
    status: u16,
    /// The option of COM_SET_OPTION, if the client has set it.
    option: Option<[u8; 2]>,
    history: History,
    /// The account, if the history begins with its login.
    account: Option<Account>,
    /// A transaction was open when its compute died, and the client does not know that it
    /// is lost.
    lost: Option<Lost>,
}

/// A transaction of a compute that has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// It was not committed.
    RolledBack,
    /// A command that has failed may have ended it.
    Uncertain,
}

/// Why a session does not come back.
enum Stuck {
    /// Another attempt may work.
    Now(Refusal),
    /// The branch is gone.
    ForGood(Refusal),
}

impl Away {
    /// A session that has left a compute which is about to sleep.
    pub fn parked(inner: &Inner, parked: Parked) -> Away {
        let conversation = inner.entered.handle.conversation.lock();
        Away {
            name: inner.compute.branch.clone(),
            branch_id: inner.compute.branch_id.clone(),
            status: conversation.status(),
            option: conversation.option(),
            history: History::of(parked),
            account: None,
            lost: None,
        }
    }

    /// A session whose compute has ended it, if it can be made anew, and the command that
    /// waits for its answer.
    pub fn bereaved(inner: &Inner) -> Option<(Away, Option<Unanswered>)> {
        let handle = &inner.entered.handle;
        let mut conversation = handle.conversation.lock();
        let interrupted = conversation.interrupted()?;
        let account = handle.account.get().cloned().flatten();
        let has_account = conversation.history.base.is_some() || account.is_some();
        if conversation.tie().is_some() || !conversation.history.is_known() || !has_account {
            return None;
        }
        let away = Away {
            name: inner.compute.branch.clone(),
            branch_id: inner.compute.branch_id.clone(),
            status: conversation.status() & !IN_TRANSACTION,
            option: conversation.option(),
            history: std::mem::take(&mut conversation.history),
            account,
            lost: interrupted
                .in_transaction
                .then_some(match interrupted.is_uncertain {
                    true => Lost::Uncertain,
                    false => Lost::RolledBack,
                }),
        };
        Some((away, interrupted.command))
    }

    /// The branch.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The answer to a command that a dead compute has not answered.
    pub fn answer(&mut self, command: Unanswered) -> Vec<u8> {
        match command.is_ping {
            true => self.pong().to_vec(),
            false => self.take_refusal(command.may_commit).encode(),
        }
    }

    /// The answer to a ping. A client goes by its flags when it has a transaction to commit.
    fn pong(&self) -> [u8; 7] {
        let in_transaction = if self.lost.is_some() {
            IN_TRANSACTION
        } else {
            0
        };
        pong(self.status | in_transaction)
    }

    /// The error of a command that a dead compute has not answered. `may_commit`: the command
    /// may have ended a transaction.
    fn take_refusal(&mut self, may_commit: bool) -> Refusal {
        let lost = self.lost.take();
        let name = &self.name;
        if lost == Some(Lost::RolledBack) && !may_commit {
            return Refusal::rolled_back(format!(
                "The compute of branch '{name}' has ended, and nothing of the transaction was kept; try the transaction again"
            ));
        }
        Refusal::gone(format!(
            "The compute of branch '{name}' has ended before it answered; look whether the statement had an effect before you try it again"
        ))
    }

    /// Waits until the client speaks, and restores the session. A client whose compute does
    /// not start is told so, and may try again. `None`: the client has gone.
    pub async fn come_back(
        mut self,
        shared: &Shared,
        client: &mut Client,
        branch: &Arc<Branch>,
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
                    packet::write(&mut client.stream, 1, &self.pong()).await?;
                    continue;
                }
                // It changes nothing on a compute.
                [5, 0, 0, 0, command::STMT_CLOSE, ..] => {
                    while said.len() < CLOSE_BYTES {
                        read_on(&mut client.stream, &mut said).await?;
                    }
                    let id = [said[5], said[6], said[7], said[8]];
                    self.history.closed(u32::from_le_bytes(id));
                    said.drain(..CLOSE_BYTES);
                    continue;
                }
                _ => {}
            }
            let code = said[HEADER_BYTES];
            let stuck = if self.lost.is_some() {
                Stuck::Now(self.take_refusal(false))
            } else {
                let (peer, answer) = (client.peer, &client.answer);
                match self.restore(shared, peer, answer, branch).await {
                    Ok((stream, compute, id, place)) => {
                        if let Some(metrics) = branch.metrics() {
                            metrics.restored.inc();
                        }
                        let conversation = Conversation::restored(
                            Form::of(&client.answer),
                            self.status,
                            self.option,
                            self.history,
                        );
                        let process = compute.process.clone();
                        let entered = branch.enter(id, process, conversation, Some(place));
                        let _ = entered.handle.account.set(self.account);
                        return Ok(Some(Inner {
                            stream: InnerStream::Unix(stream),
                            compute,
                            id,
                            entered,
                            by_client: said,
                            by_compute: Vec::new(),
                        }));
                    }
                    Err(stuck) => stuck,
                }
            };
            if has_no_answer(code) {
                // The client would take an error for the answer to its next command.
                client.stream.shutdown().await?;
                return Ok(None);
            }
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

    /// Makes the session anew, on a compute that is started if it does not run.
    async fn restore(
        &self,
        shared: &Shared,
        peer: SocketAddr,
        answer: &Answer,
        branch: &Arc<Branch>,
    ) -> Result<(UnixStream, Reached, u32, Place), Stuck> {
        let _passed = branch.gate.read().await;
        let from = peer.ip().to_canonical();
        let name = &self.name;
        let reached = shared.reach_place(branch, name, from).await;
        let (compute, place) = reached.map_err(Stuck::Now)?;
        if compute.branch_id != self.branch_id {
            // The client has not logged in there.
            return Err(Stuck::ForGood(Refusal::gone(format!(
                "Branch '{name}' is another one by now: connect anew"
            ))));
        }
        let made = self.make(&compute, answer);
        let why = match tokio::time::timeout(MOVE, made).await {
            Ok(Ok((stream, id))) => return Ok((stream, compute, id, place)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        Err(Stuck::Now(Refusal::gone(format!(
            "The compute of branch '{name}' cannot continue this session: {why}; try again or connect anew"
        ))))
    }

    async fn make(&self, compute: &Reached, answer: &Answer) -> Result<(UnixStream, u32), Broken> {
        let (mut stream, id) = match (&self.history.base, &self.account) {
            (Some(parked), _) => parked.restore(compute, answer).await?,
            (None, Some(account)) => account.log_in(compute, answer).await?,
            (None, None) => return Err(Refusal::gone("its account is not known").into()),
        };
        repeat(&self.history, &mut stream, Form::of(answer)).await?;
        if let Some(option) = self.option {
            own::set_option(&mut stream, option).await?;
        }
        Ok((stream, id))
    }
}

/// Reads a command to its end, of which `said` is the beginning, and keeps what follows it.
/// Returns the number of its last packet.
async fn skip_command(client: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) -> io::Result<u8> {
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

async fn read_on(client: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) -> io::Result<()> {
    match client.read_buf(said).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
