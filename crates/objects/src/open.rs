//! From a URL and settings to an object store.

use crate::retry::Retry;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{ClientConfigKey, SpawnedReqwestConnector};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, RetryConfig};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use tokio::runtime::Handle;
use url::Url;
use xylem_ambient::{Clock, Entropy};

/// The supported URLs, for messages.
const SUPPORTED: &str = "supported are file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, \
                         az://CONTAINER/PREFIX and memory:///";

/// How a bucket is opened and used.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    /// Settings of the provider by name, such as `region`; they override the
    /// environment's, and the URL's query overrides them.
    pub settings: BTreeMap<String, String>,
    /// How long to try.
    pub retry: Retry,
    /// A larger upload goes in parts of this size. S3 takes no less than
    /// 5 MiB, and 10,000 parts.
    pub part_bytes: usize,
    /// Measures time between warnings. Time limits of requests are tokio's.
    pub clock: Clock,
    /// The randomness of waits between attempts, and of the names of
    /// [`crate::Bucket::check`].
    pub entropy: Entropy,
}

impl Default for BucketConfig {
    fn default() -> BucketConfig {
        BucketConfig {
            settings: BTreeMap::new(),
            retry: Retry::default(),
            part_bytes: 8 << 20,
            clock: Clock::system(),
            entropy: Entropy::system(),
        }
    }
}

/// Why a URL could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL, or one without a required part.
    #[error("object store {url}: {what}; {SUPPORTED}")]
    Url {
        /// The URL.
        url: String,
        /// The problem with it.
        what: String,
    },
    /// A setting that the provider does not have, or a value it does not take.
    #[error("object store {url}: {what}; see docs/object-storage.md")]
    Setting {
        /// The URL.
        url: String,
        /// The problem.
        what: String,
    },
    /// The directory cannot be made.
    #[error("object store {url}: {source}")]
    Io {
        /// The URL.
        url: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl From<OpenError> for std::io::Error {
    fn from(error: OpenError) -> std::io::Error {
        std::io::Error::other(error)
    }
}

/// An object store and the place in it.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    /// For people: without settings and secrets.
    pub(crate) url: String,
    /// The directory, when it is one.
    pub(crate) local: Option<PathBuf>,
}

impl Opened {
    /// All of a store that is there already.
    pub(crate) fn whole(store: Arc<dyn ObjectStore>, url: &str) -> Opened {
        Opened {
            store,
            prefix: Path::default(),
            url: url.to_owned(),
            local: None,
        }
    }
}

/// A URL taken apart.
struct Place<'a> {
    url: &'a Url,
    shown: String,
    settings: BTreeMap<String, String>,
    config: &'a BucketConfig,
    handle: &'a Handle,
}

pub(crate) fn open(
    text: &str,
    config: &BucketConfig,
    handle: &Handle,
) -> Result<Opened, OpenError> {
    let url = Url::parse(text).map_err(|e| OpenError::Url {
        url: text.to_owned(),
        what: e.to_string(),
    })?;
    let mut settings = config.settings.clone();
    settings.extend(url.query_pairs().into_owned());
    let place = Place {
        shown: shown(&url),
        url: &url,
        settings,
        config,
        handle,
    };
    match url.scheme() {
        "file" => place.file(),
        "memory" => place.memory(),
        "s3" | "s3a" => place.s3(),
        "gs" => place.gcs(),
        "az" | "azure" => place.azure(),
        other => Err(place.bad_url(format!("unknown scheme {other}"))),
    }
}

/// The URL without query, user and password.
fn shown(url: &Url) -> String {
    let path = url.path().trim_end_matches('/');
    let host = url.host_str().unwrap_or("");
    // az://CONTAINER@ACCOUNT names no user.
    let container = match (url.scheme(), url.username()) {
        ("az" | "azure", name) if !name.is_empty() => format!("{name}@"),
        _ => String::new(),
    };
    format!("{}://{container}{host}{path}", url.scheme())
}

impl Place<'_> {
    fn bad_url(&self, what: impl Into<String>) -> OpenError {
        OpenError::Url {
            url: self.shown.clone(),
            what: what.into(),
        }
    }

    fn bad_setting(&self, what: impl Into<String>) -> OpenError {
        OpenError::Setting {
            url: self.shown.clone(),
            what: what.into(),
        }
    }

    fn no_settings(&self) -> Result<(), OpenError> {
        match self.settings.keys().next() {
            Some(key) => Err(self.bad_setting(format!("it takes no settings, but {key} is set"))),
            None => Ok(()),
        }
    }

    fn prefix(&self) -> Result<Path, OpenError> {
        Path::from_url_path(self.url.path()).map_err(|e| self.bad_url(e.to_string()))
    }

    fn bucket(&self) -> Result<&str, OpenError> {
        match self.url.host_str() {
            Some(host) if !host.is_empty() => Ok(host),
            _ => Err(self.bad_url("it names no bucket")),
        }
    }

    fn opened(&self, store: Arc<dyn ObjectStore>) -> Result<Opened, OpenError> {
        Ok(Opened {
            store,
            prefix: self.prefix()?,
            url: self.shown.clone(),
            local: None,
        })
    }

    fn file(&self) -> Result<Opened, OpenError> {
        self.no_settings()?;
        let dir = match (self.url.host_str(), self.url.to_file_path()) {
            (None, Ok(dir)) => dir,
            _ => {
                return Err(self.bad_url(
                    "the directory must be absolute, with three slashes: file:///var/lib/xylem",
                ));
            }
        };
        let io = |source| OpenError::Io {
            url: self.shown.clone(),
            source,
        };
        std::fs::create_dir_all(&dir).map_err(io)?;
        if let Some(parent) = dir.parent() {
            std::fs::File::open(parent)
                .and_then(|d| d.sync_all())
                .map_err(io)?;
        }
        let store = LocalFileSystem::new_with_prefix(&dir)
            .map_err(|e| self.bad_url(e.to_string()))?
            .with_fsync(true)
            // A folder without files is no folder.
            .with_automatic_cleanup(true);
        Ok(Opened {
            store: Arc::new(store),
            prefix: Path::default(),
            url: self.shown.clone(),
            local: Some(dir),
        })
    }

    fn memory(&self) -> Result<Opened, OpenError> {
        self.no_settings()?;
        self.opened(Arc::new(InMemory::new()))
    }

    /// Applies timeout and settings, in this order.
    fn apply<B, K: FromStr>(
        &self,
        builder: B,
        timeout: K,
        with: impl Fn(B, K, String) -> B,
    ) -> Result<B, OpenError> {
        let seconds = self.config.retry.attempt_timeout.as_secs().max(1);
        let mut builder = with(builder, timeout, format!("{seconds} s"));
        for (key, value) in &self.settings {
            let parsed = key.to_ascii_lowercase().parse().map_err(|_| {
                self.bad_setting(format!(
                    "setting {key} is not known for {}://",
                    self.url.scheme()
                ))
            })?;
            builder = with(builder, parsed, value.clone());
        }
        Ok(builder)
    }

    fn connector(&self) -> SpawnedReqwestConnector {
        // Fails if the process has a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        SpawnedReqwestConnector::new(self.handle.clone())
    }

    fn s3(&self) -> Result<Opened, OpenError> {
        let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
        let builder = self
            .apply(
                AmazonS3Builder::from_env(),
                timeout,
                AmazonS3Builder::with_config,
            )?
            .with_bucket_name(self.bucket()?)
            .with_retry(no_retry())
            .with_http_connector(self.connector());
        let value = |key| builder.get_config_value(&key).unwrap_or_default();
        let allow = value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
        for key in [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint] {
            let endpoint = value(key);
            let allowed = matches!(
                allow.to_ascii_lowercase().as_str(),
                "1" | "true" | "on" | "yes" | "y"
            );
            if endpoint.starts_with("http://") && !allowed {
                return Err(self.bad_setting(format!(
                    "endpoint {endpoint} is not encrypted; set AWS_ALLOW_HTTP=true to allow that"
                )));
            }
        }
        let store = builder
            .build()
            .map_err(|e| self.bad_setting(e.to_string()))?;
        self.opened(Arc::new(store))
    }

    fn gcs(&self) -> Result<Opened, OpenError> {
        let timeout = GoogleConfigKey::Client(ClientConfigKey::Timeout);
        let store = self
            .apply(
                GoogleCloudStorageBuilder::from_env(),
                timeout,
                GoogleCloudStorageBuilder::with_config,
            )?
            .with_bucket_name(self.bucket()?)
            .with_retry(no_retry())
            .with_http_connector(self.connector())
            .build()
            .map_err(|e| self.bad_setting(e.to_string()))?;
        self.opened(Arc::new(store))
    }

    fn azure(&self) -> Result<Opened, OpenError> {
        let timeout = AzureConfigKey::Client(ClientConfigKey::Timeout);
        let mut builder = self.apply(
            MicrosoftAzureBuilder::from_env(),
            timeout,
            MicrosoftAzureBuilder::with_config,
        )?;
        builder = match self.url.username() {
            "" => builder.with_container_name(self.bucket()?),
            // az://CONTAINER@ACCOUNT/PREFIX
            container => builder
                .with_container_name(container)
                .with_account(self.bucket()?),
        };
        let store = builder
            .with_retry(no_retry())
            .with_http_connector(self.connector())
            .build()
            .map_err(|e| self.bad_setting(e.to_string()))?;
        self.opened(Arc::new(store))
    }
}

/// `object_store` itself must not retry: a lost answer would turn into a
/// conflict with ourselves before this crate could see it.
fn no_retry() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}
