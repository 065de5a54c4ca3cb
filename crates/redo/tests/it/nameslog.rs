//! A log file that names the files of tablespaces can be read back.
#![allow(clippy::unwrap_used)]

use xylem_redo::{
    FileEvent, MtrItem, ParseStep, START_OFFSET, log_file_naming, parse_mtr, read_log_file_header,
};
use xylem_types::{Lsn, SpaceId};

#[test]
fn names_and_then_the_checkpoint() {
    // Lengths around those at which a record's length takes one more byte.
    let names: Vec<(SpaceId, String)> = [1, 5, 6, 7, 8, 9, 120, 135, 136, 137, 138, 139, 140, 400]
        .into_iter()
        .zip(3..)
        .map(|(len, id)| (SpaceId(id * id * id * 1000), "n".repeat(len) + ".ibd"))
        .collect();
    let start = Lsn(987_654_321);
    let given = names.iter().map(|(id, name)| (*id, name.as_str()));
    let file = log_file_naming(start, given, 4 << 20).unwrap();
    let header = read_log_file_header(&file).unwrap();
    assert_eq!(
        (
            header.first_lsn,
            header.checkpoint_lsn,
            header.checkpoint_end_lsn
        ),
        (start, start, start)
    );
    let mut redo = &file[START_OFFSET as usize..];
    let mut lsn = start;
    let mut seen = Vec::new();
    while !redo.is_empty() {
        let Ok(ParseStep::Mtr(mtr)) = parse_mtr(redo, lsn) else {
            panic!("at {lsn}")
        };
        assert_eq!(mtr.end_byte(), 1);
        for item in mtr.items() {
            match item.unwrap() {
                MtrItem::File(FileEvent::Modify { space, name }) => {
                    seen.push((space, String::from_utf8(name.to_vec()).unwrap()));
                }
                MtrItem::File(FileEvent::Checkpoint { lsn }) => assert_eq!(lsn, start),
                other => panic!("{other:?}"),
            }
        }
        redo = &redo[mtr.size()..];
        lsn = mtr.end_lsn();
    }
    let want: Vec<_> = names
        .into_iter()
        .map(|(id, name)| (id, format!("./{name}")))
        .collect();
    assert_eq!(seen, want);
}

#[test]
fn what_does_not_fit_is_not_cut() {
    let names = vec![(SpaceId(7), "d/t.ibd"); 1000];
    assert!(log_file_naming(Lsn(20_000), names, 16 << 10).is_none());
}
