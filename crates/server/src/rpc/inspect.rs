//! Service `xylem.inspect.v1.Inspect`: the contents and the health of branches.

mod diagnose;
mod history;
mod scrub;

use super::call::Caller;
use super::pages::pooled;
use super::{Answers, call};
use crate::branch::live::OpenBranch;
use crate::branch::registry::BranchRef;
use crate::node::{Node, Opened};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tonic::{Request, Response, Status};
use xylem_pages::inspect::{LayerInfo, LayersInfo, MemoryLayerInfo};
use xylem_pages::scrub::{Finding as Found, ScrubOptions};
use xylem_proto::inspect::inspect_server::Inspect;
use xylem_proto::inspect::{
    DiagnoseRequest, DiagnoseResponse, Finding, LastScrub, LastScrubsRequest, LastScrubsResponse,
    Layer, LayersRequest, LayersResponse, MemoryLayer, PageHistoryRequest, PageHistoryResponse,
    ScrubRequest, ScrubUpdate,
};
use xylem_tokens::Right;
use xylem_types::BranchId;

/// Service `xylem.inspect.v1.Inspect`.
pub(crate) struct InspectService {
    node: Arc<Node>,
    /// True while a scrub on demand runs.
    scrubbing: Arc<AtomicBool>,
}

impl InspectService {
    pub(crate) fn new(node: Arc<Node>) -> InspectService {
        InspectService {
            node,
            scrubbing: Arc::default(),
        }
    }
}

/// The names of open branches.
struct Names(BTreeMap<BranchId, String>);

impl Names {
    fn of(opened: &Opened) -> Names {
        let all = opened.branches.all().into_iter();
        Names(all.map(|b| (b.pages.id(), b.name())).collect())
    }

    /// The name of a branch, or its id if the branch is not open.
    fn get(&self, id: BranchId) -> String {
        let name = self.0.get(&id);
        name.cloned().unwrap_or_else(|| id.to_string())
    }

    fn finding(&self, finding: &Found) -> Finding {
        Finding {
            branch: self.get(finding.branch),
            branch_id: finding.branch.to_string(),
            file: finding.file.clone(),
            kind: finding.kind.as_str().to_owned(),
            message: finding.message.clone(),
        }
    }
}

/// A time on the wire; empty when it is unknown.
fn time(us: Option<u64>) -> String {
    let time = us.filter(|us| *us > 0).and_then(crate::time::timestamp);
    time.map(|t| t.to_string()).unwrap_or_default()
}

#[tonic::async_trait]
impl Inspect for InspectService {
    async fn layers(
        &self,
        request: Request<LayersRequest>,
    ) -> Result<Response<LayersResponse>, Status> {
        let branch = call::caller(&self.node, &request)?.branch;
        let info = branch.pages.layers_info();
        Ok(Response::new(layers(branch.name(), info)))
    }

    async fn page_history(
        &self,
        request: Request<PageHistoryRequest>,
    ) -> Result<Response<PageHistoryResponse>, Status> {
        let branch = call::caller(&self.node, &request)?.branch;
        let opened = call::admitted(&self.node)?;
        let names = Names::of(opened);
        let request = request.into_inner();
        let work = move || history::page_history(&branch, &names, &request);
        pooled(&self.node.survey_pool, work)
            .await
            .map(Response::new)
    }

    type ScrubStream = Answers<ScrubUpdate>;

    async fn scrub(
        &self,
        request: Request<ScrubRequest>,
    ) -> Result<Response<Self::ScrubStream>, Status> {
        let opened = call::admitted(&self.node)?;
        let names = Names::of(opened);
        let branches = match request.get_ref().all {
            true => {
                call::bearer(&request)?.may_all(Right::Admin)?;
                None
            }
            false => {
                let Caller { bearer, branch, .. } = call::caller(&self.node, &request)?;
                let this = BranchRef::Id(branch.id());
                bearer.may_on(Right::Admin, &opened.branches, &this)?;
                Some(vec![branch.pages.id()])
            }
        };
        let options = ScrubOptions {
            branches,
            bytes_per_second: request.get_ref().bytes_per_second,
        };
        scrub::begin(self, Arc::clone(&opened.store), names, options).map(Response::new)
    }

    async fn last_scrubs(
        &self,
        request: Request<LastScrubsRequest>,
    ) -> Result<Response<LastScrubsResponse>, Status> {
        let opened = call::admitted(&self.node)?;
        let bearer = call::bearer(&request)?;
        bearer.manages()?;
        let may_read = |branch: &Arc<OpenBranch>| {
            let this = BranchRef::Id(branch.id());
            bearer.may_on(Right::Read, &opened.branches, &this).is_ok()
        };
        let names = Names::of(opened);
        let one = |branch: Arc<OpenBranch>| {
            let last = branch.pages.last_scrub();
            LastScrub {
                branch: branch.name(),
                branch_id: branch.pages.id().to_string(),
                ended_at: time(last.ended_us),
                layers: last.layers,
                bytes: last.bytes,
                findings: last.findings.iter().map(|f| names.finding(f)).collect(),
            }
        };
        Ok(Response::new(LastScrubsResponse {
            bytes_per_second: opened.store.config().scrub_bytes_per_second,
            branches: opened
                .branches
                .all()
                .into_iter()
                .filter(may_read)
                .map(one)
                .collect(),
        }))
    }

    async fn diagnose(
        &self,
        request: Request<DiagnoseRequest>,
    ) -> Result<Response<DiagnoseResponse>, Status> {
        call::admitted(&self.node)?;
        call::bearer(&request)?.may_all(Right::Admin)?;
        let node = Arc::clone(&self.node);
        let probe = request.get_ref().probe_store;
        let work = move || {
            let opened = node.opened().ok_or_else(super::status::stopping)?;
            Ok(diagnose::diagnose(&node.config, opened, probe))
        };
        pooled(&self.node.survey_pool, work)
            .await
            .map(Response::new)
    }
}

fn layers(branch: String, info: LayersInfo) -> LayersResponse {
    let memory = |m: &MemoryLayerInfo| MemoryLayer {
        frozen: m.frozen,
        start_lsn: m.start.0,
        end_lsn: m.end.unwrap_or_default().0,
        memory_bytes: m.memory_bytes,
        bytes: m.bytes,
    };
    let layer = |l: LayerInfo| Layer {
        number: l.number,
        name: l.name,
        kind: l.kind.as_str().to_owned(),
        bytes: l.bytes,
        start_lsn: l.start.0,
        end_lsn: l.end.0,
        first_key: l.first_key,
        last_key: l.last_key,
        keys: l.keys,
        run: l.run,
        old_bytes: l.old_bytes,
        merging: l.merging,
    };
    let (parent_id, branch_point_lsn) = match info.parent {
        Some((id, lsn)) => (id.to_string(), lsn.0),
        None => Default::default(),
    };
    LayersResponse {
        branch,
        branch_id: info.branch.to_string(),
        parent_id,
        branch_point_lsn,
        applied_lsn: info.applied.0,
        oldest_lsn: info.oldest.unwrap_or_default().0,
        memory: info.memory.iter().map(memory).collect(),
        layers: info.files.into_iter().map(layer).collect(),
    }
}
