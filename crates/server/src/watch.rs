//! Watches whether this server still owns the project.

use crate::node::Node;
use crate::ownership;
use crate::project::catalog::CatalogError;
use std::sync::Arc;

/// Asks the store periodically whether this server still owns the project. Continues
/// while the server stops, since it still acknowledges commits then.
pub async fn watch(node: Arc<Node>) {
    let Some(opened) = node.opened() else {
        return;
    };
    let step = ownership::look_interval(&node.config, opened.store.place().is_exclusive());
    loop {
        tokio::time::sleep(step).await;
        let catalog = Arc::clone(&opened.catalog);
        match tokio::task::spawn_blocking(move || catalog.look()).await {
            Ok(Ok(())) => {}
            Ok(Err(CatalogError::Lost { .. })) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot ask the store whether this server still owns the project");
            }
        }
    }
}
