//! Calls to the server's Inspect service.

use super::Control;
use crate::compute::name::ComputeName;
use anyhow::Result;
use std::fmt::Display;
use std::time::Duration;
use xylem_proto::inspect::scrub_update::Update;
use xylem_proto::inspect::{
    DiagnoseRequest, DiagnoseResponse, LastScrubsRequest, LastScrubsResponse, LayersRequest,
    LayersResponse, PageHistoryRequest, PageHistoryResponse, ScrubDone, ScrubRequest,
};
use xylem_types::BranchName;

/// How long a server may take to diagnose its branches.
const DIAGNOSE_LIMIT: Duration = Duration::from_secs(60);

impl Control {
    /// The layers of a branch.
    ///
    /// # Errors
    /// When the server cannot be asked, or there is no such branch.
    pub async fn layers(&self, branch: &ComputeName) -> Result<LayersResponse> {
        let request = self.request(Some(branch), LayersRequest {})?;
        let answer = self.inspect.clone().layers(request).await;
        let doing = format!("ask for the layers of branch {branch}");
        answer
            .map(|a| a.into_inner())
            .map_err(|s| self.explain(&doing, &s))
    }

    /// A part of a page's history.
    ///
    /// # Errors
    /// When the server cannot be asked, or there is no such branch or table.
    pub async fn page_history(
        &self,
        branch: &BranchName,
        message: PageHistoryRequest,
    ) -> Result<PageHistoryResponse> {
        let request = self.request(Some(branch), message)?;
        let answer = self.inspect.clone().page_history(request).await;
        let doing = format!("ask for a page's history on branch {branch}");
        answer
            .map(|a| a.into_inner())
            .map_err(|s| self.explain(&doing, &s))
    }

    /// Scrubs a branch, or all; `take` gets progress and findings.
    ///
    /// # Errors
    /// When the server breaks off.
    pub async fn scrub(
        &self,
        branch: Option<&BranchName>,
        bytes_per_second: u64,
        mut take: impl FnMut(&Update),
    ) -> Result<ScrubDone> {
        let doing = "scrub the store";
        let message = ScrubRequest {
            all: branch.is_none(),
            bytes_per_second,
        };
        let request = self.request(branch.map(|b| b as &(dyn Display + Sync)), message)?;
        let answer = self.inspect.clone().scrub(request).await;
        let mut updates = answer.map_err(|s| self.explain(doing, &s))?.into_inner();
        while let Some(update) = updates
            .message()
            .await
            .map_err(|s| self.explain(doing, &s))?
        {
            match update.update {
                Some(Update::Done(done)) => return Ok(done),
                Some(update) => take(&update),
                None => {}
            }
        }
        anyhow::bail!("the server ended the scrub too early")
    }

    /// The results of the newest scrubs.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn last_scrubs(&self) -> Result<LastScrubsResponse> {
        let mut request = self.request(None, LastScrubsRequest {})?;
        request.set_timeout(Duration::from_secs(10));
        let answer = self.inspect.clone().last_scrubs(request).await;
        answer
            .map(|a| a.into_inner())
            .map_err(|s| self.explain("ask for the newest scrubs", &s))
    }

    /// The health of the store, the disks and the branches. With `probe_store` the
    /// server also writes, reads and removes a file in the store.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn diagnose(&self, probe_store: bool) -> Result<DiagnoseResponse> {
        let message = DiagnoseRequest { probe_store };
        let mut request = self.request(None, message)?;
        request.set_timeout(DIAGNOSE_LIMIT);
        let answer = self.inspect.clone().diagnose(request).await;
        answer
            .map(|a| a.into_inner())
            .map_err(|s| self.explain("diagnose the server", &s))
    }
}
