//! gRPC on the `h2` crate. It replaces tonic, whose dependencies a GPL-2.0-only
//! server cannot link.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

mod connect;
mod deframe;
mod link;
mod metadata;
mod rpc_status;
mod unary;

pub use connect::{Closed, connect};
pub use deframe::Deframer;
pub use link::Link;
pub use metadata::Metadata;
pub use rpc_status::{Code, RpcStatus};
pub use unary::unary;
