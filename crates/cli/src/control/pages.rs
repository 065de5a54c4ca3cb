//! Pages of a branch at an LSN, many at a time.

use super::{CONNECT_LIMIT, Control, RETRY_LIMIT, is_passing};
use crate::failure::Failure;
use crate::timing::Timer;
use anyhow::{Context, Result};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use xylem_proto::control::base_item::Item;
use xylem_proto::control::{BaseBackupRequest, BaseItem};
use xylem_proto::pageserver::page_server_client::PageServerClient;
use xylem_proto::pageserver::{GetPageRequest, GetPageResponse, GetPagesRequest};

/// The largest answer: 64 pages of 64 KiB, and what surrounds them.
const MESSAGE_BYTES_MAX: usize = 20 << 20;

/// A connection for page reads.
#[derive(Clone, Debug)]
pub struct Pages {
    client: PageServerClient<Channel>,
    control: Control,
    branch: String,
    lsn: u64,
}

impl Control {
    /// A connection of its own for pages of `branch` at `lsn`.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn pages(&self, branch: &str, lsn: u64) -> Result<Pages> {
        let windows = |endpoint: Endpoint| {
            endpoint
                .initial_stream_window_size(Some(4 << 20))
                .initial_connection_window_size(Some(16 << 20))
        };
        let channel = self.way.connect(CONNECT_LIMIT, windows).await;
        let channel =
            channel.with_context(|| format!("the server at {} does not answer", self.way))?;
        Ok(Pages {
            client: PageServerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            control: self.clone(),
            branch: branch.to_owned(),
            lsn,
        })
    }

    /// Gives `take` each directory, side file and tablespace of `branch` at `lsn`.
    ///
    /// # Errors
    /// When the server breaks off, or `take` fails.
    pub async fn everything(
        &self,
        branch: &str,
        lsn: u64,
        mut take: impl FnMut(Item) -> Result<()>,
    ) -> Result<()> {
        let doing = format!("fetch what branch {branch} has at LSN {lsn}");
        let message = BaseBackupRequest {
            lsn,
            all_tablespaces: true,
        };
        let request = self.request(Some(&branch), message)?;
        let answer = self.client.clone().base_backup(request).await;
        let mut items = answer.map_err(|s| self.explain(&doing, &s))?.into_inner();
        while let Some(BaseItem { item }) = items
            .message()
            .await
            .map_err(|s| self.explain(&doing, &s))?
        {
            take(item.ok_or_else(|| {
                Failure::new(
                    "the server sent an item that this version does not know",
                    "restart the server with this version: `xylem down`, then `xylem up`",
                )
            })?)?;
        }
        Ok(())
    }
}

impl Pages {
    /// `count` pages of a tablespace from `first` on. Asks again while the
    /// server is away.
    ///
    /// # Errors
    /// When the server refuses or fails.
    pub async fn get(&self, space: u32, first: u32, count: u32) -> Result<Vec<GetPageResponse>> {
        let timer = Timer::start(&self.control.clock);
        loop {
            let message = GetPagesRequest {
                pages: (first..first.saturating_add(count))
                    .map(|page_no| GetPageRequest {
                        space_id: space,
                        page_no,
                        lsn: self.lsn,
                        ..GetPageRequest::default()
                    })
                    .collect(),
            };
            let request = self.control.request(Some(&self.branch), message)?;
            match self.client.clone().get_pages(request).await {
                Ok(answer) => return Ok(answer.into_inner().pages),
                Err(s) if is_passing(&s) && timer.elapsed() < RETRY_LIMIT => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(s) => {
                    let doing = format!("read pages of tablespace {space}");
                    return Err(self.control.explain(&doing, &s));
                }
            }
        }
    }
}
