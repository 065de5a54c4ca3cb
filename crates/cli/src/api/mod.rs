//! The HTTP API: all that the command line can do with branches, computes and tokens, imports
//! and exports.
//!
//! [`routes`] has the table of routes with the right that each one needs, [`handlers`]
//! answers them by [`crate::work`], [`operations`] runs what changes something, [`events`]
//! tells what changes, [`files`] keeps imports and exports to their directories, and [`serve`]
//! takes connections.

pub mod access;
pub mod error;
pub mod events;
pub mod files;
pub mod handlers;
pub mod operations;
pub mod request;
pub mod routes;
pub mod serve;

use self::access::Access;
use self::events::Events;
use self::files::Files;
use self::operations::Operations;
use crate::app::App;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// The state that all requests share.
#[derive(Clone, Debug)]
pub struct Api {
    /// The project.
    pub app: App,
    /// Checks tokens, and writes the audit log.
    pub access: Arc<Access>,
    /// The changes that were begun, and their outcomes.
    pub operations: Arc<Operations>,
    /// Tells listeners of changes.
    pub events: Arc<Events>,
    /// The directories that imports and exports may use.
    pub files: Arc<Files>,
    /// Held by the import or export that goes on: one at a time reads and writes that much, and
    /// they have names on disk that only tell processes apart.
    pub transfers: Arc<Mutex<()>>,
    /// Cancelled when no further requests are taken.
    pub stopping: CancellationToken,
}
