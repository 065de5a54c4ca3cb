//! The branch that a client names.
//!
//! A client names it behind the last `@` of the user (`app@dev`) or of the database
//! (`shop@dev`), by the connection attribute `xylem_branch`, or by the name with which it
//! opens TLS (`dev.example.com`, if the gateway is told about `example.com`). Names that
//! contradict each other are an error. A client that names none gets the default branch.

use crate::refusal::Refusal;

/// Stands between the name of a branch and the moment at which a client wants to see it.
pub const MOMENT: char = '~';

/// The connection attribute that names a branch.
pub(crate) const ATTRIBUTE: &[u8] = b"xylem_branch";

/// The names that a client gives for its branch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes<'a> {
    pub user: &'a [u8],
    pub database: &'a [u8],
    /// The value of [`ATTRIBUTE`].
    pub attribute: Option<&'a [u8]>,
    /// The server's name in TLS.
    pub server_name: Option<&'a str>,
}

/// The branch, and what is left for the compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// `None`: the default one.
    pub branch: Option<String>,
    pub user: Vec<u8>,
    pub database: Vec<u8>,
}

/// Finds the branch. `domain` is the part of the server's name behind that of a branch.
///
/// # Errors
/// When two names contradict each other, or one is no text.
pub(crate) fn route(wishes: &Wishes<'_>, domain: Option<&str>) -> Result<Route, Refusal> {
    let (user, by_user) = split(wishes.user);
    let (database, by_database) = split(wishes.database);
    let by_name = wishes.server_name.zip(domain);
    let by_name = by_name.and_then(|(name, domain)| label(name, domain));
    let mut branch: Option<(&str, String)> = None;
    for (place, name) in [
        ("user", by_user),
        ("database", by_database),
        ("connection attribute", wishes.attribute),
        ("server name of TLS", by_name.map(str::as_bytes)),
    ] {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            continue;
        };
        let name = std::str::from_utf8(name)
            .map_err(|_| Refusal::no_branch(format!("The branch in the {place} is not UTF-8")))?;
        match &branch {
            Some((other, known)) if known != name => {
                return Err(Refusal::no_branch(format!(
                    "The {other} names branch '{known}', and the {place} names branch '{name}'"
                )));
            }
            Some(_) => {}
            None => branch = Some((place, name.to_owned())),
        }
    }
    Ok(Route {
        branch: branch.map(|(_, name)| name),
        user: user.to_vec(),
        database: database.to_vec(),
    })
}

/// The branch in the name of one, or in that of a moment of it.
pub(crate) fn branch_of(name: &str) -> &str {
    name.split_once(MOMENT).map_or(name, |(branch, _)| branch)
}

/// `name`, and what is behind its last `@`.
pub(crate) fn split(name: &[u8]) -> (&[u8], Option<&[u8]>) {
    match name.iter().rposition(|&byte| byte == b'@') {
        Some(at) => (&name[..at], Some(&name[at + 1..])),
        None => (name, None),
    }
}

/// The branch in a server's name: what stands before `.domain`.
fn label<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let name = name.trim_end_matches('.');
    let at = name.len().checked_sub(domain.len())?.checked_sub(1)?;
    let (label, rest) = name.split_at_checked(at)?;
    let behind = rest.strip_prefix('.')?;
    behind.eq_ignore_ascii_case(domain).then_some(label)
}
