use super::*;
use crate::tests::kit::{clock, now};

fn operation(id: usize, by: &str, ended: Option<Timestamp>) -> Arc<Operation> {
    let outcome = Outcome {
        status: StatusCode::OK,
        location: None,
        body: Value::Null,
    };
    let state = watch::Sender::new(Progress {
        text: None,
        ended: ended.map(|at| (at, Ok(outcome))),
    });
    Arc::new(Operation {
        id: id.to_string(),
        call: "POST /v1/branches".to_owned(),
        on: On::Project("x".to_owned()),
        by: by.to_owned(),
        key: None,
        began: now(),
        began_at: clock().instant(),
        state,
        cancel: None,
    })
}

fn ids(kept: &Kept) -> Vec<usize> {
    let all = kept.operations.iter();
    all.map(|operation| operation.id.parse().unwrap()).collect()
}

#[test]
fn an_outcome_is_known_for_an_hour() {
    let (hour, second) = (KEPT, Duration::from_secs(1));
    let mut kept = Kept::new(clock().instant());
    let ended = [Some(now() - hour - second), Some(now() - hour), None];
    for (id, ended) in ended.into_iter().enumerate() {
        kept.operations.push_back(operation(id, "a", ended));
    }
    kept.forget(now());
    assert_eq!(ids(&kept), [1, 2]);
    // One that goes on is known, however long.
    kept.forget(now() + hour + second);
    assert_eq!(ids(&kept), [2]);
}

#[test]
fn the_newest_outcomes_are_kept() {
    let mut kept = Kept::new(clock().instant());
    kept.operations.push_back(operation(0, "a", None));
    for id in 1..KEPT_MAX + 3 {
        kept.operations.push_back(operation(id, "a", Some(now())));
    }
    kept.forget(now());
    assert_eq!(kept.operations.len(), KEPT_MAX);
    // The one that goes on stays, and the oldest of the others go.
    assert_eq!(ids(&kept)[..2], [0, 4]);
}

#[test]
fn one_token_does_not_push_out_the_others_operations() {
    let mut kept = Kept::new(clock().instant());
    kept.operations.push_back(operation(0, "a", Some(now())));
    kept.operations.push_back(operation(1, "b", None));
    for id in 2..KEPT_OF_ONE_MAX + 5 {
        kept.operations.push_back(operation(id, "b", Some(now())));
        kept.forget_of("b");
    }
    let of = |by: &str| kept.operations.iter().filter(|one| one.by == by).count();
    assert_eq!((of("a"), of("b")), (1, KEPT_OF_ONE_MAX));
    assert_eq!(ids(&kept)[..3], [0, 1, 6]);
}

#[test]
fn a_request_from_before_what_is_known_may_have_been_executed() {
    let began = clock().instant();
    let at = |seconds| began + Duration::from_secs(seconds);
    let mut kept = Kept::new(began);
    let ago = Duration::from_secs;
    assert!(!kept.may_miss(ago(100), at(200)));
    // It may have been on its way when this process began.
    assert!(kept.may_miss(ago(171), at(200)));
    assert!(kept.may_miss(ago(3600), at(200)));
    // Nor is anything from before an operation known that was forgotten.
    for (id, seconds) in [(0, 20), (1, 150)] {
        let mut one = operation(id, "a", Some(now()));
        Arc::get_mut(&mut one).unwrap().began_at = at(seconds);
        kept.operations.push_back(one);
    }
    kept.remove(0);
    assert!(!kept.may_miss(ago(100), at(200)));
    kept.forget(now() + 2 * KEPT);
    assert!(ids(&kept).is_empty());
    assert!(kept.may_miss(ago(100), at(200)));
    assert!(!kept.may_miss(ago(10), at(200)));
}
