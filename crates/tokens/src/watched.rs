//! A ring of keys that is read anew when its files change, for programs that verify the
//! tokens of many callers while keys are added and tokens are revoked.

use crate::claims::Claims;
use crate::error::{Refused, RingError};
use crate::ring::{Ring, Stamp};
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_ambient::Clock;

/// How often the files of the ring are looked at, so how long a token that was revoked is
/// still accepted.
const LOOK: Duration = Duration::from_secs(1);

/// How often the files are also looked at in that time because a token names a key that is
/// not known. Whoever has no token can cause that.
const LOOKS_FOR_KEYS_MAX: u32 = 20;

/// The number of tokens whose signature need not be verified again.
const VERIFIED_MAX: usize = 256;

/// The longest token that is looked at, in bytes. Ours have some 500.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// The ring in a directory, as it is now.
pub struct Watched {
    dir: PathBuf,
    current: RwLock<Arc<Read>>,
    looked: Mutex<Looked>,
    /// Claims whose signatures were verified, by token, with the number of the ring that
    /// did so: what an earlier one has verified says nothing about the present one.
    verified: Cache<String, (u64, Arc<Claims>)>,
    clock: Clock,
}

/// The ring as it was read for the `number`th time.
struct Read {
    number: u64,
    ring: Ring,
}

struct Looked {
    at: Instant,
    stamp: Stamp,
    /// Since then, for a key.
    for_keys: u32,
    /// Why the ring could not be read the last time; it is reported once.
    fault: String,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Watched {
    /// Reads the ring in `dir`.
    ///
    /// # Errors
    /// When it cannot be read. Later failures are logged, and what was read before stays
    /// in force.
    pub fn open(dir: &Path, clock: Clock) -> Result<Watched, RingError> {
        // Before the files are read: what changes meanwhile is read again.
        let stamp = Ring::stamp(dir)?;
        let ring = Ring::open(dir)?;
        Ok(Watched {
            current: RwLock::new(Arc::new(Read { number: 0, ring })),
            looked: Mutex::new(Looked {
                at: clock.instant(),
                stamp,
                for_keys: 0,
                fault: String::new(),
            }),
            verified: Cache::new(VERIFIED_MAX),
            clock,
            dir: dir.to_owned(),
        })
    }

    /// Calls `use_it` with the ring as it is now.
    pub fn with_ring<T>(&self, use_it: impl FnOnce(&Ring) -> T) -> T {
        use_it(&self.current().ring)
    }

    /// The claims of a token that is valid now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn claims(&self, token: &[u8]) -> Result<Arc<Claims>, Refused> {
        let token = std::str::from_utf8(token).map_err(|_| Refused::Malformed)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::Malformed);
        }
        let mut current = self.current();
        if let Some((number, claims)) = self.verified.get(token)
            && number == current.number
        {
            // All but the signature.
            current.ring.check(&claims, &self.clock)?;
            return Ok(claims);
        }
        let claims = match current.ring.verify(token, &self.clock) {
            // The key may be new.
            Err(Refused::UnknownKey) => {
                current = self.current_for_key();
                current.ring.verify(token, &self.clock)?
            }
            verified => verified?,
        };
        let claims = Arc::new(claims);
        let verified = (current.number, Arc::clone(&claims));
        self.verified.insert(token.to_owned(), verified);
        Ok(claims)
    }

    /// The ring, at most [`LOOK`] old. One caller looks at the files; others go on with
    /// what is there.
    fn current(&self) -> Arc<Read> {
        if let Some(mut looked) = self.looked.try_lock()
            && self.clock.since(looked.at) >= LOOK
        {
            looked.at = self.clock.instant();
            looked.for_keys = 0;
            self.look(&mut looked);
        }
        Arc::clone(&self.current.read())
    }

    /// The ring, if somebody has looked since a key was not found in it.
    fn current_for_key(&self) -> Arc<Read> {
        if let Some(mut looked) = self.looked.try_lock()
            && looked.for_keys < LOOKS_FOR_KEYS_MAX
        {
            looked.for_keys += 1;
            self.look(&mut looked);
        }
        Arc::clone(&self.current.read())
    }

    /// Reads the ring anew if its files have changed.
    fn look(&self, looked: &mut Looked) {
        let read = Ring::stamp(&self.dir).and_then(|stamp| {
            if stamp == looked.stamp {
                return Ok(None);
            }
            Ok(Some((Ring::open(&self.dir)?, stamp)))
        });
        let fault = read.as_ref().err().map(ToString::to_string);
        let fault = fault.unwrap_or_default();
        let new_fault = fault != looked.fault;
        looked.fault = fault;
        match read {
            Ok(None) => {}
            Ok(Some((ring, stamp))) => {
                let mut current = self.current.write();
                let number = current.number + 1;
                *current = Arc::new(Read { number, ring });
                looked.stamp = stamp;
                tracing::info!(dir = %self.dir.display(), "read the keys of tokens anew");
            }
            Err(error) if new_fault => {
                tracing::error!(%error, "cannot read the keys of tokens; those read before stay in force");
            }
            Err(_) => {}
        }
    }
}
