//! Which storage engine a table definition (`.frm`) names.
//!
//! Source: `TABLE_SHARE::init_from_binary_frm_image()` in `sql/table.cc`,
//! `enum legacy_db_type` in `sql/handler.h`, `extra2_frm_value_type` in
//! `sql/unireg.h`.

#[cfg(test)]
mod tests;

/// The definition in a `.frm` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// A view.
    View,
    /// A table; for a partitioned one, the engine of its partitions.
    Table(String),
    /// It cannot be understood.
    Unknown,
}

const HEADER: usize = 64;
/// `DB_TYPE_PARTITION_DB`.
const PARTITIONED: u8 = 20;
/// `DB_TYPE_FIRST_DYNAMIC`: numbers from here on say nothing.
const DYNAMIC: u8 = 45;
/// `EXTRA2_DEFAULT_PART_ENGINE`.
const PART_ENGINE: u8 = 1;

/// Reads a `.frm` file.
pub fn definition(frm: &[u8]) -> Definition {
    if frm.starts_with(b"TYPE=VIEW") {
        return Definition::View;
    }
    if !frm.starts_with(&[0xfe, 1]) {
        return Definition::Unknown;
    }
    match engine(frm) {
        Some(name) => Definition::Table(name),
        None => Definition::Unknown,
    }
}

fn engine(frm: &[u8]) -> Option<String> {
    let number = *frm.get(3)?;
    let named = name(frm);
    let partitioned = number == PARTITIONED
        || named
            .as_deref()
            .is_some_and(|n| n.eq_ignore_ascii_case("partition"));
    if partitioned {
        return part_engine(frm).or_else(|| legacy(*frm.get(61)?));
    }
    named.or_else(|| legacy(number))
}

/// The name that stands behind the default row.
fn name(frm: &[u8]) -> Option<String> {
    let segment = u32le(frm, 55)?;
    let defaults = match u16le(frm, 14)? {
        0xffff => u32le(frm, 47)?,
        short => short,
    };
    let mut at = u16le(frm, 6)?
        .checked_add(defaults)?
        .checked_add(u16le(frm, 16)?)?;
    let end = at.checked_add(segment)?;
    // The connection string comes first.
    at = at.checked_add(u16le(frm, at)?)?.checked_add(2)?;
    if at.checked_add(2)? >= end {
        return None;
    }
    let len = u16le(frm, at)?;
    text(frm.get(at + 2..(at + 2).checked_add(len)?)?)
}

/// The name among the "extra2" values: type, length (1 byte, or 0 and 2
/// bytes), value.
fn part_engine(frm: &[u8]) -> Option<String> {
    let len = u16le(frm, 4)?;
    let mut rest = frm.get(HEADER..HEADER.checked_add(len)?)?;
    // A file of MySQL has other things there.
    if rest.first() == Some(&b'/') {
        return None;
    }
    while let [kind, short, tail @ ..] = rest {
        let (len, tail) = match (short, tail) {
            (0, [a, b, tail @ ..]) => (usize::from(u16::from_le_bytes([*a, *b])), tail),
            (len, tail) => (usize::from(*len), tail),
        };
        let (value, next) = tail.split_at_checked(len)?;
        if *kind == PART_ENGINE {
            return text(value);
        }
        rest = next;
    }
    None
}

fn legacy(number: u8) -> Option<String> {
    let name = match number {
        6 => "MEMORY",
        9 => "MyISAM",
        10 => "MRG_MyISAM",
        12 => "InnoDB",
        16 => "ARCHIVE",
        17 => "CSV",
        18 => "FEDERATED",
        19 => "BLACKHOLE",
        28 => "PERFORMANCE_SCHEMA",
        41 => "S3",
        42 => "Aria",
        43 => "TokuDB",
        44 => "SEQUENCE",
        0 | DYNAMIC.. => return None,
        other => return Some(format!("engine number {other}")),
    };
    Some(name.to_owned())
}

fn text(bytes: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(bytes).ok()?;
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())).then(|| name.to_owned())
}

fn u16le(b: &[u8], at: usize) -> Option<usize> {
    let s = b.get(at..at.checked_add(2)?)?;
    Some(usize::from(u16::from_le_bytes(s.try_into().ok()?)))
}

fn u32le(b: &[u8], at: usize) -> Option<usize> {
    let s = b.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(s.try_into().ok()?)).ok()
}
