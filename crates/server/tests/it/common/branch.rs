//! Calls about branches, and reads on them.

use super::redo::marked;
use super::{Server, page, with};
use tonic::Status;
use xylem_proto::control::{
    Branch, CreateBranchRequest, CreateLeaseRequest, ListBranchesRequest, Moment,
    RemoveBranchRequest, RenameBranchRequest, ReopenBranchRequest, RestoreBranchRequest,
    RestoreBranchResponse, moment::At,
};
use xylem_proto::pageserver::GetPageRequest;

pub fn at_lsn(lsn: u64) -> Option<Moment> {
    Some(Moment {
        at: Some(At::Lsn(lsn)),
    })
}

pub fn at_time(time: &str) -> Option<Moment> {
    Some(Moment {
        at: Some(At::Time(time.to_owned())),
    })
}

pub async fn try_create(
    server: &Server,
    name: &str,
    from: &str,
    at: Option<Moment>,
) -> Result<Branch, Status> {
    let request = CreateBranchRequest {
        name: name.to_owned(),
        from: from.to_owned(),
        at,
        empty: false,
    };
    let made = server.control().await.create_branch(request).await?;
    Ok(made.into_inner())
}

pub async fn create(server: &Server, name: &str, from: &str) -> Branch {
    try_create(server, name, from, None).await.unwrap()
}

pub async fn create_at(
    server: &Server,
    name: &str,
    from: &str,
    lsn: u64,
) -> Result<Branch, Status> {
    try_create(server, name, from, at_lsn(lsn)).await
}

pub async fn refused_create(server: &Server, name: &str, from: &str, lsn: Option<u64>) -> Status {
    try_create(server, name, from, lsn.and_then(at_lsn))
        .await
        .unwrap_err()
}

pub async fn lease(server: &Server, from: &str, at: Option<Moment>) -> Result<Branch, Status> {
    let request = CreateLeaseRequest {
        from: from.to_owned(),
        at,
    };
    let made = server.control().await.create_lease(request).await?;
    Ok(made.into_inner())
}

pub async fn remove(server: &Server, name: &str) -> Result<(), Status> {
    let request = RemoveBranchRequest {
        name: name.to_owned(),
    };
    server.control().await.remove_branch(request).await?;
    Ok(())
}

pub async fn reopen(server: &Server, name: &str) -> Result<Branch, Status> {
    let request = ReopenBranchRequest {
        name: name.to_owned(),
    };
    let reopened = server.control().await.reopen_branch(request).await?;
    Ok(reopened.into_inner())
}

pub async fn rename(server: &Server, name: &str, to: &str) -> Result<Branch, Status> {
    let request = RenameBranchRequest {
        name: name.to_owned(),
        new_name: to.to_owned(),
    };
    let renamed = server.control().await.rename_branch(request).await?;
    Ok(renamed.into_inner())
}

pub async fn restore_at(
    server: &Server,
    name: &str,
    at: Option<Moment>,
    keep_as: &str,
) -> Result<RestoreBranchResponse, Status> {
    let request = RestoreBranchRequest {
        name: name.to_owned(),
        at,
        keep_as: keep_as.to_owned(),
    };
    let restored = server.control().await.restore_branch(request).await?;
    Ok(restored.into_inner())
}

pub async fn restore(
    server: &Server,
    name: &str,
    lsn: u64,
    keep_as: &str,
) -> Result<RestoreBranchResponse, Status> {
    restore_at(server, name, at_lsn(lsn), keep_as).await
}

pub async fn list(server: &Server, leases: bool) -> Vec<Branch> {
    let request = ListBranchesRequest {
        leases,
        ..ListBranchesRequest::default()
    };
    let told = server.control().await.list_branches(request).await.unwrap();
    told.into_inner().branches
}

pub async fn names(server: &Server) -> Vec<String> {
    let all = list(server, false).await;
    all.into_iter().map(|branch| branch.name).collect()
}

pub fn named<'a>(branches: &'a [Branch], name: &str) -> &'a Branch {
    branches
        .iter()
        .find(|branch| branch.name == name)
        .unwrap_or_else(|| panic!("no {name} among {branches:?}"))
}

/// Reads marks of a branch.
pub struct Reader<'a> {
    server: &'a Server,
    branch: &'a str,
}

impl<'a> Reader<'a> {
    pub fn new(server: &'a Server, branch: &'a str) -> Reader<'a> {
        Reader { server, branch }
    }

    pub async fn newest(&self, space: u32, number: u32, min_lsn: u64) -> u32 {
        self.read(GetPageRequest {
            min_lsn,
            ..page(space, number)
        })
        .await
    }

    pub async fn at(&self, space: u32, number: u32, lsn: u64) -> u32 {
        self.read(GetPageRequest {
            lsn,
            ..page(space, number)
        })
        .await
    }

    async fn read(&self, request: GetPageRequest) -> u32 {
        let request = GetPageRequest {
            timeout_ms: 20_000,
            ..request
        };
        let request = with(request, &[("xylem-branch", self.branch)]);
        let got = self.server.pages().await.get_page(request).await.unwrap();
        marked(&got.into_inner().page)
    }
}
