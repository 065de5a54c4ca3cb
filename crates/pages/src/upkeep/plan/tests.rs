//! Which runs are free to be merged.

use super::*;

fn runs_of(numbers: &[u64]) -> Vec<Run> {
    let run = |number: &u64| Run {
        number: *number,
        bytes: 100,
        garbage: 0,
        start: Lsn(number * 10),
        end: Lsn(number * 10 + 9),
    };
    numbers.iter().map(run).collect()
}

#[test]
fn merges_take_whole_stretches() {
    let runs = runs_of(&[1, 4, 5, 9, 12, 13, 20]);
    let free = |taken: &[(u64, u64)]| -> Vec<(usize, usize)> {
        let all = free(&runs, taken).into_iter();
        all.map(|r| (r.start, r.end)).collect()
    };
    assert_eq!(free(&[]), [(0, 7)]);
    assert_eq!(free(&[(4, 9)]), [(0, 1), (4, 7)]);
    assert_eq!(free(&[(1, 1), (13, 20)]), [(1, 5)]);
    assert_eq!(free(&[(12, 12), (1, 4)]), [(2, 4), (5, 7)]);
    // One that has left nothing stands in nobody's way.
    assert_eq!(free(&[(7, 7)]), [(0, 7)]);
    assert_eq!(free(&[(1, 20)]), []);
}
