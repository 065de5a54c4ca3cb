//! The call that fills a new branch.

use super::Control;
use crate::failure::{Failure, Kind};
use anyhow::Result;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use xylem_proto::control::{ImportItem, ImportResponse};
use xylem_types::BranchName;

impl Control {
    /// Fills the new branch `branch` with `items`.
    ///
    /// # Errors
    /// When the server refuses or fails, or there was no end.
    pub async fn import_branch(
        &self,
        branch: &BranchName,
        items: mpsc::Receiver<ImportItem>,
    ) -> Result<ImportResponse> {
        let request = self.request(None, ReceiverStream::new(items))?;
        match self.client.clone().import_branch(request).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) if status.code() == Code::AlreadyExists => Err(Failure::of(
                Kind::Conflict,
                status.message().to_owned(),
                "name a new branch with --branch",
            )),
            Err(status) if status.code() == Code::FailedPrecondition => {
                Err(Failure::of(Kind::Conflict, status.message().to_owned(), ""))
            }
            Err(status) => Err(self.explain(&format!("import branch {branch}"), &status)),
        }
    }
}
