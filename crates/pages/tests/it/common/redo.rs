//! Redo made by hand: records, mtrs.

use xylem_redo::varint;
use xylem_types::{Lsn, PageId};

/// An mtr being written.
#[derive(Default)]
pub struct MtrBuilder {
    bytes: Vec<u8>,
}

impl MtrBuilder {
    fn record(&mut self, kind: u8, fields: &[u8]) {
        if fields.len() < 16 {
            self.bytes.push(kind | fields.len() as u8);
        } else {
            // The length counts its own bytes.
            let mut add = fields.len() - 15;
            loop {
                let mut len = Vec::new();
                varint::encode(&mut len, add as u32);
                if add == fields.len() + len.len() - 15 {
                    self.bytes.push(kind);
                    self.bytes.extend_from_slice(&len);
                    break;
                }
                add = fields.len() + len.len() - 15;
            }
        }
        self.bytes.extend_from_slice(fields);
    }

    fn page_record(&mut self, kind: u8, page: PageId, rest: &[u8]) {
        let mut fields = Vec::new();
        varint::encode(&mut fields, page.space.0);
        varint::encode(&mut fields, page.page.0);
        fields.extend_from_slice(rest);
        self.record(kind, &fields);
    }

    pub fn init(&mut self, page: PageId) -> &mut Self {
        self.page_record(0x10, page, &[]);
        self
    }

    pub fn free(&mut self, page: PageId) -> &mut Self {
        self.page_record(0x00, page, &[]);
        self
    }

    pub fn write(&mut self, page: PageId, offset: u32, data: &[u8]) -> &mut Self {
        let mut rest = Vec::new();
        varint::encode(&mut rest, offset);
        rest.extend_from_slice(data);
        self.page_record(0x30, page, &rest);
        self
    }

    pub fn memset(&mut self, page: PageId, offset: u32, len: u32, byte: u8) -> &mut Self {
        let mut rest = Vec::new();
        varint::encode(&mut rest, offset);
        varint::encode(&mut rest, len);
        rest.push(byte);
        self.page_record(0x40, page, &rest);
        self
    }

    pub fn trim(&mut self, space: u32, pages: u32) -> &mut Self {
        self.page_record(0x20, PageId::new(space, pages), &[10]);
        self
    }

    /// Page 0 with its size and flags, as `fsp_header_init()` writes it.
    pub fn header(&mut self, space: u32, pages: u32, flags: u32) -> &mut Self {
        let page = PageId::new(space, 0);
        self.init(page)
            .size(space, pages)
            .write(page, 38 + 16, &flags.to_be_bytes())
    }

    pub fn size(&mut self, space: u32, pages: u32) -> &mut Self {
        self.write(PageId::new(space, 0), 38 + 8, &pages.to_be_bytes())
    }

    fn file(&mut self, kind: u8, space: u32, name: &[u8]) -> &mut Self {
        let mut fields = Vec::new();
        varint::encode(&mut fields, space);
        fields.push(0);
        fields.extend_from_slice(name);
        self.record(kind, &fields);
        self
    }

    pub fn create(&mut self, space: u32, name: &str) -> &mut Self {
        self.file(0x80, space, name.as_bytes())
    }

    pub fn delete(&mut self, space: u32, name: &str) -> &mut Self {
        self.file(0x90, space, name.as_bytes())
    }

    pub fn modify(&mut self, space: u32, name: &str) -> &mut Self {
        self.file(0xb0, space, name.as_bytes())
    }

    pub fn rename(&mut self, space: u32, old: &str, new: &str) -> &mut Self {
        self.file(0xa0, space, format!("{old}\0{new}").as_bytes())
    }

    /// The mtr's bytes.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = self.bytes.clone();
        out.push(0);
        out.extend_from_slice(&crc32c::crc32c(&self.bytes).to_be_bytes());
        out
    }
}

/// An mtr.
pub fn mtr(build: impl FnOnce(&mut MtrBuilder)) -> Vec<u8> {
    let mut m = MtrBuilder::default();
    build(&mut m);
    m.finish()
}

/// The LSN `bytes` after `lsn`.
pub fn after(lsn: Lsn, bytes: &[u8]) -> Lsn {
    Lsn(lsn.0 + bytes.len() as u64)
}
