//! Keeps the server's certificates: makes and renews the project's own, and takes files
//! that have changed.

use crate::config::{Certificates, ServerConfig};
use crate::error::ServerError;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};
use xylem_tls::authority::{self, AuthorityError};
use xylem_tls::{ServerTls, Versions};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How often certificates are renewed, if they need it.
const RENEW: Duration = Duration::from_secs(60 * 60);

/// The names for which the project's own certificate must be.
#[derive(Clone)]
struct Own {
    config: Certificates,
    listens_on: [SocketAddr; 2],
    clock: Clock,
    entropy: Entropy,
}

/// The TLS of a server's ports.
pub(crate) struct Keeper {
    own: Option<Own>,
    /// Why the project's certificates could not be made or renewed.
    trouble: Option<AuthorityError>,
    ports: Vec<Arc<ServerTls>>,
    config: ServerConfig,
}

impl Keeper {
    /// Makes the project's certificates if the configuration has a directory for them.
    /// The server listens on `listens_on`.
    pub(crate) fn new(config: &ServerConfig, listens_on: [SocketAddr; 2]) -> Keeper {
        let own = config.certificates.clone().map(|certificates| Own {
            config: certificates,
            listens_on,
            clock: config.clock.clone(),
            entropy: config.entropy.clone(),
        });
        // What is there may serve all the same: `ca.key` may be kept elsewhere.
        let trouble = own.as_ref().and_then(|own| own.ensure().err());
        if let Some(error) = &trouble {
            tracing::error!(%error, "cannot make or renew the project's certificates");
        }
        Keeper {
            own,
            trouble,
            ports: Vec::new(),
            config: config.clone(),
        }
    }

    /// The TLS of a port that speaks `protocols`, if the configuration has TLS.
    ///
    /// # Errors
    /// When there is no certificate, or a file is of no use.
    pub(crate) fn port(
        &mut self,
        protocols: &[&[u8]],
    ) -> Result<Option<Arc<ServerTls>>, ServerError> {
        let Some(files) = self.config.tls.clone() else {
            return Ok(None);
        };
        let opened = ServerTls::open(files, Versions::Newest, protocols);
        let tls = match (opened, self.trouble.take()) {
            (Ok(tls), _) => Arc::new(tls),
            (Err(_), Some(trouble)) => return Err(trouble.into()),
            (Err(error), None) => return Err(error.into()),
        };
        self.ports.push(Arc::clone(&tls));
        Ok(Some(tls))
    }

    /// Renews certificates, and takes files that have changed.
    pub(crate) async fn keep(self) {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(own) = &self.own
                && renewed.elapsed() >= RENEW
            {
                renewed = tokio::time::Instant::now();
                let own = own.clone();
                let done = tokio::task::spawn_blocking(move || own.ensure()).await;
                if let Ok(Err(error)) = done {
                    tracing::error!(%error, "cannot renew the certificates");
                }
            }
            for tls in &self.ports {
                match tls.refresh() {
                    Ok(false) => {}
                    Ok(true) => tracing::info!("took new certificates: their files have changed"),
                    Err(error) => {
                        tracing::error!(%error, "cannot take new certificates: the old ones stay in use");
                    }
                }
            }
        }
    }
}

impl Own {
    fn ensure(&self) -> Result<(), AuthorityError> {
        let mut names: BTreeSet<String> = self.config.names.iter().cloned().collect();
        names.extend(xylem_tls::names::of_listeners(
            self.listens_on.map(|address| address.ip()),
        ));
        let names: Vec<String> = names.into_iter().collect();
        authority::ensure(&self.config.dir, &names, &self.clock, &self.entropy)
    }
}
