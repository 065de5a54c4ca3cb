//! The line of a WAL's objects, read by the letter of
//! `docs/formats/wal-objects.md` and by nothing of the crate: what is in the
//! line, what is void, what is a claim.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of an object's header, and of a claim.
pub const HEADER: usize = 96;
/// Bytes of an entry's header.
const ENTRY: usize = 60;

/// An entry: epoch, kind, number, LSN, payload.
pub type Told = (u64, u8, u64, u64, Vec<u8>);

/// All objects of a WAL, by number and generation.
pub struct Objects {
    pub all: BTreeMap<(u64, u64), Vec<u8>>,
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Objects {
    pub async fn read(store: &Arc<dyn ObjectStore>, prefix: &Path) -> Objects {
        let listed: Vec<_> = store.list(Some(prefix)).try_collect().await.unwrap();
        let mut all = BTreeMap::new();
        for meta in listed {
            let path = meta.location.to_string();
            let mut parts = path.rsplit('/');
            let (name, folder) = (parts.next().unwrap(), parts.next().unwrap());
            let (number, generation) = name.split_once('-').unwrap();
            assert_eq!((number.len(), generation.len(), folder.len()), (12, 8, 10));
            let number = u64::from_str_radix(number, 16).unwrap();
            let generation = u64::from_str_radix(generation, 16).unwrap();
            assert_eq!(u64::from_str_radix(folder, 16).unwrap(), number / 512);
            // Trimmed meanwhile, maybe.
            let Ok(bytes) = store.get(&meta.location).await else {
                continue;
            };
            let bytes = bytes.bytes().await.unwrap().to_vec();
            assert_eq!(&bytes[..8], b"XYLEMOBJ");
            assert_eq!(u32_at(&bytes, 8), 1);
            assert_eq!(
                (u64_at(&bytes, 16), u64_at(&bytes, 24)),
                (number, generation)
            );
            assert_eq!(u32_at(&bytes, 88), crc32c::crc32c(&bytes[..88]));
            assert_eq!(bytes.len() as u64, HEADER as u64 + u64_at(&bytes, 72));
            all.insert((number, generation), bytes);
        }
        Objects { all }
    }

    fn is_claim(bytes: &[u8]) -> bool {
        let claim = u32_at(bytes, 12) == 2;
        assert_eq!(claim, bytes.len() == HEADER);
        claim
    }

    /// The names of the objects of entries that are in the line, from `number`
    /// of `generation` on.
    pub fn line(&self, mut number: u64, mut generation: u64) -> Vec<(u64, u64)> {
        let mut line = Vec::new();
        while let Some(bytes) = self.all.get(&(number, generation)) {
            if Objects::is_claim(bytes) {
                generation += 1;
            } else {
                line.push((number, generation));
                number += 1;
            }
        }
        line
    }

    /// Objects of entries that are not in the line.
    pub fn void(&self) -> Vec<(u64, u64)> {
        let line = self.line(0, 0);
        let entries = self.all.iter().filter(|(_, b)| !Objects::is_claim(b));
        entries
            .map(|(name, _)| *name)
            .filter(|name| !line.contains(name))
            .collect()
    }

    pub fn claims(&self) -> usize {
        self.all.values().filter(|b| Objects::is_claim(b)).count()
    }

    /// The entries of the line of a WAL that was never trimmed.
    pub fn entries(&self) -> Vec<Told> {
        let mut out = Vec::new();
        let mut time = 0;
        for name in self.line(0, 0) {
            let bytes = &self.all[&name];
            let salt = &bytes[32..40];
            let (mut at, mut count) = (HEADER, 0);
            while at < bytes.len() {
                let header = &bytes[at..at + ENTRY];
                let crc = crc32c::crc32c_append(crc32c::crc32c(salt), &header[4..]);
                assert_eq!(u32_at(header, 0), crc);
                let length = u32_at(header, 8) as usize;
                let payload = &bytes[at + ENTRY..at + ENTRY + length];
                assert_eq!(u32_at(header, 4), crc32c::crc32c(payload));
                assert_eq!(u64_at(header, 16), (name.0 << 16) + count);
                assert!(u64_at(header, 48) >= time, "times do not go back");
                time = u64_at(header, 48);
                out.push((
                    u64_at(header, 24),
                    header[56],
                    u64_at(header, 32),
                    u64_at(header, 40),
                    payload.to_vec(),
                ));
                at += ENTRY + length;
                count += 1;
            }
            assert_eq!(u64::from(u32_at(bytes, 80)), count);
        }
        out
    }
}
