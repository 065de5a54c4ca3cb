//! A project's keys, in a directory of their own:
//!
//! | file | content |
//! |---|---|
//! | `project` | The project's id in tokens, 32 hexadecimal digits. |
//! | `N.pem` | A private key; N counts from 1, and the largest signs. |
//! | `issued` | A line of JSON for each token that was made by hand. |
//! | `revoked` | The id of a token that is refused in each line. |
//!
//! All are for their owner only. A file is replaced as a whole, so that a server that
//! reads the directory at the same time sees its old or its new content.

use crate::claims::{Claims, RightOn};
use crate::error::{Refused, RingError};
use crate::issued::Issued;
use crate::key::{self, Key};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use std::collections::HashSet;
use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::SystemTime;
use xylem_ambient::{Clock, Entropy};

const PROJECT: &str = "project";
const ISSUED: &str = "issued";
const REVOKED: &str = "revoked";

/// How far the clocks of the one that made a token and the one that reads it may differ.
const LEEWAY_S: u64 = 30;

/// A project's keys, as they were when they were read.
pub struct Ring {
    project: String,
    /// The newest one first.
    keys: Vec<Key>,
    revoked: HashSet<String>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}

/// Tells whether the files of a ring have changed: their names, lengths and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<(String, u64, Option<SystemTime>)>);

impl Ring {
    /// Whether there is a ring in the directory `dir`.
    pub fn exists(dir: &Path) -> bool {
        dir.join(PROJECT).exists()
    }

    /// Makes the directory `dir` with a first key.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(dir: &Path, entropy: &Entropy) -> Result<(), RingError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(RingError::io("make", dir))?;
        if numbers(dir)?.is_empty() {
            Ring::add_key(dir, entropy)?;
        }
        // Last: what makes the ring one.
        let id = random(dir, entropy)?;
        replace(&dir.join(PROJECT), id.as_bytes())
    }

    /// Reads the ring in the directory `dir`.
    ///
    /// # Errors
    /// When a file cannot be read, or there is no key.
    pub fn open(dir: &Path) -> Result<Ring, RingError> {
        let path = dir.join(PROJECT);
        let project = std::fs::read_to_string(&path).map_err(RingError::io("read", &path))?;
        let mut numbers = numbers(dir)?;
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let keys: Vec<Key> = numbers
            .into_iter()
            .map(|number| key::read(&dir.join(format!("{number}.pem"))))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(RingError::Empty(dir.to_owned()));
        }
        Ok(Ring {
            project: project.trim().to_owned(),
            keys,
            revoked: lines(&dir.join(REVOKED))?.into_iter().collect(),
        })
    }

    /// The present state of the files in `dir`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn stamp(dir: &Path) -> Result<Stamp, RingError> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(RingError::io("read", dir))? {
            let entry = entry.map_err(RingError::io("read", dir))?;
            // It may have been replaced since.
            let meta = entry.metadata().ok();
            files.push((
                entry.file_name().to_string_lossy().into_owned(),
                meta.as_ref().map_or(0, std::fs::Metadata::len),
                meta.and_then(|meta| meta.modified().ok()),
            ));
        }
        files.sort();
        Ok(Stamp(files))
    }

    /// Adds a key, which signs from now on. Tokens of older keys stay valid.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_key(dir: &Path, entropy: &Entropy) -> Result<(), RingError> {
        let next = numbers(dir)?.into_iter().max().unwrap_or(0) + 1;
        let path = dir.join(format!("{next}.pem"));
        let text = key::generate(entropy).map_err(RingError::io("write", &path))?;
        replace(&path, text.as_bytes())
    }

    /// Removes all keys but the newest, and with them what they have signed. Returns how
    /// many there were.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn drop_old_keys(dir: &Path) -> Result<usize, RingError> {
        let mut numbers = numbers(dir)?;
        numbers.sort_unstable();
        numbers.pop();
        for number in &numbers {
            let path = dir.join(format!("{number}.pem"));
            std::fs::remove_file(&path).map_err(RingError::io("remove", &path))?;
        }
        // A key that leaked must not come back with the power.
        std::fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(RingError::io("sync", dir))?;
        Ok(numbers.len())
    }

    /// The project's id in tokens.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The claims of a new token.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn claims(
        &self,
        name: &str,
        rights: Vec<RightOn>,
        clock: &Clock,
        entropy: &Entropy,
    ) -> Result<Claims, RingError> {
        let id = entropy
            .next()
            .map_err(|error| RingError::Sign(error.to_string()))?;
        Ok(Claims {
            project: self.project.clone(),
            jti: format!("{id:032x}")[..16].to_owned(),
            sub: name.to_owned(),
            iat: seconds(clock),
            exp: None,
            rights,
            epoch: None,
            parent: None,
        })
    }

    /// The token with these claims, signed by the newest key.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign(&self, claims: &Claims) -> Result<String, RingError> {
        let Some(key) = self.keys.first() else {
            return Err(RingError::Sign("there is no key".to_owned()));
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(key.id.clone());
        jsonwebtoken::encode(&header, claims, &key.signs)
            .map_err(|error| RingError::Sign(error.to_string()))
    }

    /// The claims of a token, if it is valid now.
    ///
    /// # Errors
    /// When it is not.
    pub fn verify(&self, token: &str, clock: &Clock) -> Result<Claims, Refused> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refused::Malformed)?;
        if header.alg != Algorithm::EdDSA {
            return Err(Refused::Malformed);
        }
        let key = self
            .keys
            .iter()
            .find(|key| header.kid.as_deref() == Some(&key.id))
            .ok_or(Refused::UnknownKey)?;
        let mut how = Validation::new(Algorithm::EdDSA);
        // Expiry is checked below, by our clock.
        how.required_spec_claims.clear();
        how.validate_exp = false;
        how.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.verifies, &how)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => Refused::Signature,
                _ => Refused::Malformed,
            })?
            .claims;
        self.check(&claims, clock)?;
        Ok(claims)
    }

    /// Checks claims whose signature was verified before.
    ///
    /// # Errors
    /// When they are not valid now.
    pub fn check(&self, claims: &Claims, clock: &Clock) -> Result<(), Refused> {
        if claims.project != self.project {
            return Err(Refused::OtherProject);
        }
        let revoked = |id: &String| self.revoked.contains(id);
        if revoked(&claims.jti) || claims.parent.as_ref().is_some_and(revoked) {
            return Err(Refused::Revoked);
        }
        match claims.exp {
            Some(end) if end.saturating_add(LEEWAY_S) <= seconds(clock) => Err(Refused::Expired {
                seconds: seconds(clock) - end,
            }),
            _ => Ok(()),
        }
    }

    /// Whether a token is refused before its time: it was revoked, or its key is gone.
    pub fn is_revoked(&self, issued: &Issued) -> bool {
        self.revoked.contains(&issued.id) || !self.keys.iter().any(|key| key.id == issued.key)
    }

    /// The record of a token with these claims that [`Ring::sign`] makes now.
    pub fn record_of(&self, claims: &Claims) -> Issued {
        let key = self.keys.first().map(|key| key.id.clone());
        Issued {
            id: claims.jti.clone(),
            name: claims.sub.clone(),
            rights: claims.rights.clone(),
            created: claims.iat,
            expires: claims.exp,
            key: key.unwrap_or_default(),
        }
    }

    /// Notes a token that was made, so that it can be listed.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub fn record(dir: &Path, issued: &Issued) -> Result<(), RingError> {
        let path = dir.join(ISSUED);
        let line =
            serde_json::to_string(issued).map_err(|error| RingError::content(&path, error))?;
        append(&path, line)
    }

    /// The tokens that were made, the oldest one first.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn issued(dir: &Path) -> Result<Vec<Issued>, RingError> {
        let path = dir.join(ISSUED);
        lines(&path)?
            .iter()
            .map(|line| {
                serde_json::from_str(line).map_err(|error| RingError::content(&path, error))
            })
            .collect()
    }

    /// Revokes the token with this id. A server notices within a second.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub fn revoke(dir: &Path, id: &str) -> Result<(), RingError> {
        append(&dir.join(REVOKED), id.to_owned())
    }
}

fn seconds(clock: &Clock) -> u64 {
    clock.now_us() / 1_000_000
}

/// The numbers of the keys in `dir`.
fn numbers(dir: &Path) -> Result<Vec<u64>, RingError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(RingError::io("read", dir))? {
        let name = entry.map_err(RingError::io("read", dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".pem"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(numbers)
}

fn random(dir: &Path, entropy: &Entropy) -> Result<String, RingError> {
    let number = entropy.next().map_err(RingError::io("write", dir))?;
    Ok(format!("{number:032x}"))
}

/// The lines of a file that need not be there.
fn lines(path: &Path) -> Result<Vec<String>, RingError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(RingError::io("read", path)(error)),
    }
}

/// Adds a line to a file. Callers hold a lock of their own.
fn append(path: &Path, line: String) -> Result<(), RingError> {
    let mut all = lines(path)?;
    if !all.contains(&line) {
        all.push(line);
    }
    replace(path, (all.join("\n") + "\n").as_bytes())
}

/// Replaces a file by one with this content, durably.
fn replace(path: &Path, content: &[u8]) -> Result<(), RingError> {
    xylem_durable::replace(path, content, xylem_durable::SECRET)
        .map_err(RingError::io("write", path))
}
