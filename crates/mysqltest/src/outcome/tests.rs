use super::*;

const SAID: &str = "\
innodb.alter_copy 'innodb,log'           w1 [ pass ]   1453
innodb.alter_crash                       w2 [ skipped ]  Requires debug
innodb.autoinc_persist                   w1 [ retry-fail ]
innodb.autoinc_persist                   w1 [ retry-pass ]   12
innodb.fails                             w1 [ fail ]
innodb.fails                             w1 [ retry-fail ]
innodb.ours                              w2 [ disabled ]  inspects files
innodb.theirs                               [ disabled ]  MDEV-1
worker[1] Using MTR_BUILD_THREAD 300 [ pass ] no
";

fn outcomes() -> Outcomes {
    let mut outcomes = Outcomes::default();
    for line in SAID.lines() {
        outcomes.take(line, |name| name == "innodb.ours");
    }
    outcomes
}

#[test]
fn reads_what_the_runner_says() {
    let outcomes = outcomes();
    let got: Vec<_> = outcomes.0.iter().map(|(n, o)| (n.as_str(), *o)).collect();
    assert_eq!(
        got,
        [
            ("innodb.alter_copy 'innodb,log'", Outcome::Passed),
            ("innodb.alter_crash", Outcome::Skipped),
            ("innodb.autoinc_persist", Outcome::Passed),
            ("innodb.fails", Outcome::Failed),
            ("innodb.ours", Outcome::Excluded),
            ("innodb.theirs", Outcome::Disabled),
        ]
    );
}

#[test]
fn keeps_what_it_read() {
    assert_eq!(Outcomes::parse(&outcomes().render()), outcomes());
}
