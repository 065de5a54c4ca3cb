//! Rows: every layer in one, none that share keys in the same, newer ones
//! behind older ones.

use super::*;
use crate::layer::format::{LayerKind, LayerMeta};
use crate::place::{Files, LocalFiles};
use xylem_types::BranchId;

fn layer(files: &Arc<dyn Files>, number: u64, run: u64, keys: (u8, u8)) -> Arc<LayerFile> {
    let meta = LayerMeta {
        number,
        name: number.to_string(),
        kind: LayerKind::Delta,
        bytes: 1,
        start: Lsn(run * 10),
        end: Lsn(run * 10 + 9),
        first_key: vec![1, keys.0],
        last_key: vec![1, keys.1],
        keys: 1,
        tags: 2,
        run,
        old_bytes: 0,
        raw_bytes: 4,
        held: vec![(Lsn(3), 4)],
    };
    Arc::new(LayerFile::new(meta, BranchId(1), number, Arc::clone(files)))
}

/// The numbers of the layers in each row.
fn numbers(list: &LayerList) -> Vec<Vec<u64>> {
    let of = |row: &Arc<Row>| row.layers().iter().map(|l| l.meta.number).collect();
    list.rows().iter().map(of).collect()
}

#[test]
fn layers_of_a_run_stand_in_rows() {
    let dir = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(LocalFiles::open(dir.path(), None).unwrap());
    let all = vec![
        // A flush with its images.
        layer(&files, 1, 1, (0, 99)),
        layer(&files, 2, 1, (10, 20)),
        // What a merge left, out of the order of keys.
        layer(&files, 5, 4, (50, 59)),
        layer(&files, 6, 4, (0, 9)),
        layer(&files, 7, 4, (60, 99)),
        // A merge under way: a flush's layers with what stands before them.
        layer(&files, 10, 10, (40, 99)),
        layer(&files, 11, 10, (50, 60)),
        layer(&files, 12, 10, (0, 20)),
        layer(&files, 13, 10, (21, 39)),
    ];
    let list = LayerList::new(all.clone(), &LayerList::default());
    assert_eq!(
        numbers(&list),
        [vec![1], vec![2], vec![6, 5, 7], vec![12, 13, 10], vec![11]]
    );
    let found = |row: usize, key: u8| {
        let found = list.rows()[row].find(&[1, key]);
        found.map(|l| l.meta.number)
    };
    assert_eq!(found(2, 5), Some(6));
    assert_eq!(found(2, 55), Some(5));
    assert_eq!(found(2, 99), Some(7));
    assert_eq!(found(2, 20), None);
    assert_eq!(found(4, 61), None);
    let within = |after: u8, end: u8| -> Vec<u64> {
        let (after, end) = ([1, after], [1, end]);
        let row = &list.rows()[3];
        row.within(&after, &end).map(|l| l.meta.number).collect()
    };
    assert_eq!(within(0, 99), [12, 13, 10]);
    assert_eq!(within(20, 40), [13]);
    assert_eq!(within(39, 41), [10]);

    // What did not change stays where it is.
    let mut next = all;
    next.remove(4);
    next.push(layer(&files, 20, 20, (0, 9)));
    let after = LayerList::new(next, &list);
    assert_eq!(
        numbers(&after)[2..],
        [vec![6, 5], vec![12, 13, 10], vec![11], vec![20]]
    );
    for n in [0, 1, 3, 4] {
        assert!(Arc::ptr_eq(&list.rows()[n], &after.rows()[n]), "row {n}");
    }
}
