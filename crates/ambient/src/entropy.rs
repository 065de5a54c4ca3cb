//! Random numbers. They tell one writer's objects from another's, and spread
//! the retries of clients that failed at the same time.

use std::fmt;
use std::io;
use std::sync::Arc;

/// A source of random numbers. Clones share one source.
#[derive(Clone)]
pub struct Entropy(Arc<dyn Fn() -> io::Result<u128> + Send + Sync>);

impl Entropy {
    /// A source whose numbers are what `next` returns.
    pub fn new(next: impl Fn() -> io::Result<u128> + Send + Sync + 'static) -> Entropy {
        Entropy(Arc::new(next))
    }

    /// The system's source, `getrandom(2)`.
    pub fn system() -> Entropy {
        Entropy::new(|| {
            let mut bytes = [0; 16];
            // getrandom(2) never returns a part of a request of up to 256 bytes.
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
            Ok(u128::from_le_bytes(bytes))
        })
    }

    /// The next number.
    ///
    /// # Errors
    /// When the source fails.
    pub fn next(&self) -> io::Result<u128> {
        (self.0)()
    }
}

impl Default for Entropy {
    fn default() -> Entropy {
        Entropy::system()
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}
