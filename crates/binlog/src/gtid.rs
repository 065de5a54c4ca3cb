//! Global transaction ids, and positions made of them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A global transaction id: `0-1-42`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gtid {
    /// The replication domain.
    pub domain: u32,
    /// The id of the server on which the transaction was first executed.
    pub server: u32,
    /// The number in the domain.
    pub seq: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.seq)
    }
}

/// A text that is not a GTID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadGtid(String);

impl fmt::Display for BadGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.0;
        write!(
            f,
            "{text:?} is not a GTID, which has the form DOMAIN-SERVER-SEQUENCE: 0-1-42"
        )
    }
}

impl std::error::Error for BadGtid {}

impl FromStr for Gtid {
    type Err = BadGtid;

    fn from_str(text: &str) -> Result<Gtid, BadGtid> {
        let bad = || BadGtid(text.to_owned());
        // Digits only: a number's own parser takes a sign as well.
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = text.split('-').collect();
        match parts[..] {
            [domain, server, seq] if [domain, server, seq].iter().all(|part| digits(part)) => {
                Ok(Gtid {
                    domain: domain.parse().map_err(|_| bad())?,
                    server: server.parse().map_err(|_| bad())?,
                    seq: seq.parse().map_err(|_| bad())?,
                })
            }
            _ => Err(bad()),
        }
    }
}

/// The state of a log at some place in it: the newest transaction of each server in each
/// domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    domains: BTreeMap<u32, Domain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Domain {
    /// The transaction that was written last.
    last: Gtid,
    /// The newest number of each server.
    servers: BTreeMap<u32, u64>,
}

impl Position {
    /// Adds a transaction, the newest one of its domain.
    pub fn add(&mut self, gtid: Gtid) {
        let domain = self.domains.entry(gtid.domain).or_insert_with(|| Domain {
            last: gtid,
            servers: BTreeMap::new(),
        });
        domain.last = gtid;
        let newest = domain.servers.entry(gtid.server).or_insert(gtid.seq);
        *newest = gtid.seq.max(*newest);
    }

    /// Whether the log had `gtid` before this place.
    pub fn contains(&self, gtid: Gtid) -> bool {
        let domain = self.domains.get(&gtid.domain);
        let newest = domain.and_then(|domain| domain.servers.get(&gtid.server));
        newest.is_some_and(|newest| gtid.seq <= *newest)
    }

    /// Whether there is no transaction before this place.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }
}

/// As MariaDB shows `gtid_binlog_pos`: the last transaction of each domain, by domain.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, domain) in self.domains.values().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}", domain.last)?;
        }
        Ok(())
    }
}
