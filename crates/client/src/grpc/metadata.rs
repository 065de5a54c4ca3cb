//! The headers of a request: the path, gRPC's fixed headers, and those that
//! identify the compute.

use crate::status::{Error, Status};
use http::{HeaderValue, Method, Request, Uri, Version};

/// The parts of the headers that are the same in every call: server, branch, epoch
/// and token.
#[derive(Clone, Debug)]
pub struct Metadata {
    authority: String,
    branch: HeaderValue,
    epoch: Option<HeaderValue>,
    token: Option<HeaderValue>,
}

impl Metadata {
    /// Headers for the server `authority` (`host:port`).
    ///
    /// # Errors
    /// When a value is not valid in a header.
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
                    format!("the {name} contains an invalid character"),
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
        // Checked here, so that a bad address is an error now and not a lost
        // connection later.
        metadata.request("/").map(|_| metadata)
    }

    /// The headers of a call of `path` (`/package.Service/Method`).
    ///
    /// # Errors
    /// When the address is invalid.
    pub fn request(&self, path: &str) -> Result<Request<()>, Error> {
        let bad = |e: http::Error| {
            Error::new(
                Status::Invalid,
                format!("{} is not a valid server address: {e}", self.authority),
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
