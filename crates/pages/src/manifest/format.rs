//! The bytes of a manifest. See docs/formats/manifest.md.

use super::record::{BranchPoint, Edit, Merging, Resume};
use super::version::Manifest;
use crate::layer::codec::{Dec, put_bytes, put_varint};
use crate::layer::format::LayerMeta;
use xylem_types::{BranchId, Lsn};
use xylem_wal::Position;

const MAGIC: &[u8; 8] = b"XYMANIF\x01";
/// Format version of a manifest with at most one merge under way.
const VERSION: u16 = 3;
/// Format version of a manifest with more merges: servers that run one at a time
/// refuse it.
const VERSION_MERGES: u16 = 4;
const HEADER: usize = 64;
pub(super) const PREFIX: &str = "manifest-";

pub(crate) fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

/// The number of the manifest that a file of this name holds.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX).filter(|d| d.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The number of the newest manifest in a list of files.
pub(crate) fn newest_of(list: &[(String, u64)]) -> Option<u64> {
    list.iter().filter_map(|(n, _)| number_of(n)).max()
}

/// One manifest file.
pub(crate) struct Parsed {
    pub(crate) snapshot: bool,
    pub(crate) writer: u128,
    pub(crate) branch_point: Option<BranchPoint>,
    pub(crate) next_layer: u64,
    pub(crate) edit: Edit,
}

pub(crate) fn parse(raw: &[u8], branch: BranchId, number: u64) -> Result<Parsed, String> {
    let head = raw.get(..HEADER).ok_or("too short")?;
    let mut d = Dec(head);
    if d.take(8) != Some(MAGIC) {
        return Err("not a manifest".into());
    }
    let crc = raw.get(60..64).map(|b| Dec(b).u32());
    if crc.flatten() != raw.get(..60).map(crc32c::crc32c) {
        return Err("its header fails its CRC-32C".into());
    }
    let version = d.u16().unwrap_or(0);
    if version != VERSION && version != VERSION_MERGES {
        return Err(format!("format version {version} is not known"));
    }
    let kind = d.u8();
    d.take(5);
    if d.u128() != Some(branch.0) {
        return Err("it is another branch's".into());
    }
    if d.u64() != Some(number) {
        return Err("it has another number inside".into());
    }
    let body = raw.get(HEADER..).unwrap_or_default();
    if d.u64() != Some(body.len() as u64) || d.u32() != Some(crc32c::crc32c(body)) {
        return Err("its body fails its CRC-32C".into());
    }
    let snapshot = kind == Some(0);
    let many = version == VERSION_MERGES;
    parse_body(body, snapshot, many).ok_or_else(|| "its body is malformed".into())
}

/// With `many` there may be several merges.
fn parse_body(body: &[u8], snapshot: bool, many: bool) -> Option<Parsed> {
    let mut d = Dec(body);
    let writer = d.u128()?;
    let flags = d.u8()?;
    if flags & !7 != 0 {
        return None;
    }
    let oldest = Lsn(d.varint()?);
    let resume = Resume {
        position: Position(d.varint()?),
        lsn: Lsn(d.varint()?),
        operations: Position(d.varint()?),
        begun: flags & 1 != 0,
    };
    let branch_point = match flags & 4 != 0 {
        true => Some(BranchPoint {
            parent: BranchId(d.u128()?),
            lsn: Lsn(d.varint()?),
            position: Position(d.varint()?),
        }),
        false => None,
    };
    let next_layer = d.varint()?;
    let mut edit = Edit {
        resume,
        oldest: (flags & 2 != 0).then_some(oldest),
        ..Edit::default()
    };
    for _ in 0..d.varint()? {
        edit.remove.push(d.varint()?);
    }
    for _ in 0..d.varint()? {
        edit.narrow.push((d.varint()?, d.bytes()?.to_vec()));
    }
    for _ in 0..d.varint()? {
        edit.add.push(LayerMeta::decode(&mut d)?);
    }
    let mut inputs = d.varint()?;
    while inputs > 0 {
        edit.merging.push(Merging::decode(inputs, &mut d)?);
        inputs = if many { d.varint()? } else { 0 };
    }
    d.is_empty().then_some(Parsed {
        snapshot,
        writer,
        branch_point,
        next_layer,
        edit,
    })
}

/// The manifest's bytes: with `edit` the change alone, else all of it.
pub(crate) fn render(m: &Manifest, edit: Option<&Edit>) -> Vec<u8> {
    let mut body = m.writer.to_le_bytes().to_vec();
    let bit = |set: bool, n: u8| u8::from(set) << n;
    body.push(
        bit(m.resume.begun, 0) | bit(m.oldest.is_some(), 1) | bit(m.branch_point.is_some(), 2),
    );
    put_varint(&mut body, m.oldest.unwrap_or_default().0);
    put_varint(&mut body, m.resume.position.0);
    put_varint(&mut body, m.resume.lsn.0);
    put_varint(&mut body, m.resume.operations.0);
    if let Some(point) = &m.branch_point {
        body.extend_from_slice(&point.parent.0.to_le_bytes());
        put_varint(&mut body, point.lsn.0);
        put_varint(&mut body, point.position.0);
    }
    put_varint(&mut body, m.next_layer);
    let none = Edit::default();
    let change = edit.unwrap_or(&none);
    put_varint(&mut body, change.remove.len() as u64);
    for n in &change.remove {
        put_varint(&mut body, *n);
    }
    put_varint(&mut body, change.narrow.len() as u64);
    for (n, key) in &change.narrow {
        put_varint(&mut body, *n);
        put_bytes(&mut body, key);
    }
    let add = edit.map_or(&m.layers, |e| &e.add);
    put_varint(&mut body, add.len() as u64);
    for l in add {
        l.encode(&mut body);
    }
    for job in &m.merging {
        job.encode(&mut body);
    }
    let many = m.merging.len() > 1;
    if many || m.merging.is_empty() {
        put_varint(&mut body, 0);
    }
    let version = if many { VERSION_MERGES } else { VERSION };
    let mut out = vec![0u8; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&version.to_le_bytes());
    out[10] = u8::from(edit.is_some());
    out[16..32].copy_from_slice(&m.branch.0.to_le_bytes());
    out[32..40].copy_from_slice(&m.number.to_le_bytes());
    out[40..48].copy_from_slice(&(body.len() as u64).to_le_bytes());
    out[48..52].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    let crc = crc32c::crc32c(&out[..60]);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    out
}
