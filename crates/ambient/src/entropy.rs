//! Where random numbers come from: what tells one writer's objects from
//! another's, and keeps those who failed together from coming back together.

use std::fmt;
use std::io;
use std::sync::Arc;

/// A source of random numbers. Clones are the same source.
#[derive(Clone)]
pub struct Entropy(Arc<dyn Fn() -> io::Result<u128> + Send + Sync>);

impl Entropy {
    /// A source that says what `next` returns.
    pub fn new(next: impl Fn() -> io::Result<u128> + Send + Sync + 'static) -> Entropy {
        Entropy(Arc::new(next))
    }

    /// The system's.
    pub fn system() -> Entropy {
        Entropy::new(|| {
            let mut bytes = [0; 16];
            // Requests of up to 256 bytes are answered whole or not at all.
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
            Ok(u128::from_le_bytes(bytes))
        })
    }

    /// The next number.
    ///
    /// # Errors
    /// What the system says.
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
