//! The head of a request: path, gRPC's fixed headers, and who is calling.

use crate::status::{Error, Status};
use http::{HeaderValue, Method, Request, Uri, Version};

/// What every call carries: where it goes, for which branch, under which epoch,
/// with which token.
#[derive(Clone, Debug)]
pub struct Metadata {
    authority: String,
    branch: HeaderValue,
    epoch: Option<HeaderValue>,
    token: Option<HeaderValue>,
}

impl Metadata {
    /// For the server `authority` (`host:port`).
    ///
    /// # Errors
    /// When one of them cannot stand in a header.
    pub fn new(
        authority: String,
        branch: &str,
        epoch: u64,
        token: Option<&str>,
    ) -> Result<Metadata, Error> {
        let header = |name: &str, text: &str| {
            HeaderValue::from_str(text).map_err(|_| {
                Error::new(
                    Status::Invalid,
                    format!("the {name} has a character it cannot have"),
                )
            })
        };
        let metadata = Metadata {
            branch: header("branch name", branch)?,
            epoch: (epoch != 0).then(|| HeaderValue::from(epoch)),
            token: token
                .map(|text| {
                    let mut value = header("token", text)?;
                    value.set_sensitive(true);
                    Ok::<_, Error>(value)
                })
                .transpose()?,
            authority,
        };
        // Once here, so that a bad address is an error now, not a lost
        // connection later.
        metadata.request("/").map(|_| metadata)
    }

    /// The head of a call of `path` (`/package.Service/Method`).
    ///
    /// # Errors
    /// When the address cannot stand in a request.
    pub fn request(&self, path: &str) -> Result<Request<()>, Error> {
        let bad = |e: http::Error| {
            Error::new(
                Status::Invalid,
                format!("{} is no address of a page server: {e}", self.authority),
            )
        };
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(bad)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(uri)
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header(
                "user-agent",
                concat!("xylem-client/", env!("CARGO_PKG_VERSION")),
            )
            .header("xylem-branch", self.branch.clone());
        if let Some(epoch) = &self.epoch {
            request = request.header("xylem-epoch", epoch.clone());
        }
        if let Some(token) = &self.token {
            request = request.header("xylem-token", token.clone());
        }
        request.body(()).map_err(bad)
    }
}
