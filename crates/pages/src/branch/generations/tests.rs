//! Tablespaces that share a counter.

use super::*;

#[test]
fn all_that_change_are_odd_meanwhile_whatever_slots_they_share() {
    let g = Generations::new();
    let spaces = [5, 261, 6, 5 + 512, 6].map(SpaceId);
    let before = spaces.map(|s| g.of(s));
    let other = g.of(SpaceId(7));
    let changing = g.begin(&spaces);
    assert!(spaces.iter().all(|s| !g.of(*s).is_multiple_of(2)));
    g.end(changing);
    for (space, before) in spaces.iter().zip(before) {
        assert!(
            g.of(*space).is_multiple_of(2) && g.of(*space) > before,
            "{space}"
        );
    }
    assert_eq!(g.of(SpaceId(7)), other);
    g.end(g.begin(&[]));
}
