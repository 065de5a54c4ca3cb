//! The wire protocol: messages, client and server code of the gRPC services.
//!
//! Generated from `proto/*.proto`, which say what each field means. Wire types
//! are not domain types: convert them at the edge.

pub mod dial;

/// Pages and redo: package `pageserver`.
#[allow(missing_docs, clippy::all)]
pub mod pageserver {
    tonic::include_proto!("pageserver");
}

/// Branches and computes: package `xylem.control.v1`.
#[allow(missing_docs, clippy::all)]
pub mod control {
    tonic::include_proto!("xylem.control.v1");
}

/// Inspection of branches: package `xylem.inspect.v1`.
#[allow(missing_docs, clippy::all)]
pub mod inspect {
    tonic::include_proto!("xylem.inspect.v1");
}

/// All packages as an encoded `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// gRPC metadata key of the branch: its name, or `id:` and its id.
pub const BRANCH_KEY: &str = "xylem-branch";
/// gRPC metadata key of the caller's epoch, decimal.
pub const EPOCH_KEY: &str = "xylem-epoch";
/// gRPC metadata key of the project's token.
pub const TOKEN_KEY: &str = "xylem-token";
