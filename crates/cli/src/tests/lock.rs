//! Locks of a state directory.

use super::kit::state;
use crate::compute::name::ComputeName;
use crate::failure::{Kind, describe, kind};
use crate::state::StateDir;
use std::time::Duration;

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(20);

fn name(text: &str) -> ComputeName {
    ComputeName::parse(text).unwrap()
}

/// The error of a lock that another one holds.
fn refused<T: std::fmt::Debug>(lock: anyhow::Result<T>) -> String {
    let error = lock.unwrap_err();
    assert_eq!(kind(&error), Kind::Conflict);
    describe(&error)
}

#[tokio::test]
async fn a_command_that_has_the_project_alone_keeps_all_others_out() {
    let (_dir, state) = state();
    let lock = state.lock(NOW).await.unwrap();
    for text in [
        refused(state.lock(Duration::from_millis(30)).await),
        refused(state.share(Duration::from_millis(30)).await),
    ] {
        let pid = format!("pid {}", std::process::id());
        assert!(text.contains(&pid), "{text}");
    }
    drop(lock);
    drop(state.share(NOW).await.unwrap());
    state.lock(NOW).await.unwrap();
}

#[tokio::test]
async fn computes_are_locked_one_by_one() {
    let (_dir, state) = state();
    let (one, other) = (
        state.share(NOW).await.unwrap(),
        state.share(NOW).await.unwrap(),
    );
    let main = one.compute(&name("main")).await.unwrap();
    let _dev = other.compute(&name("dev")).await.unwrap();
    let text = refused(other.compute(&name("main")).await);
    assert!(
        text.contains(&format!("pid {}", std::process::id())),
        "{text}"
    );
    refused(state.lock(Duration::from_millis(30)).await);
    drop(main);
    drop(other.compute(&name("main")).await.unwrap());
}

/// Takes a share again as soon as it has given the last one back, as starts do that follow
/// each other.
async fn share_on_and_on(state: &StateDir) {
    loop {
        let _share = state.share(LONG).await.unwrap();
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[tokio::test]
async fn starts_that_follow_each_other_do_not_keep_a_change_out() {
    let (_dir, state) = state();
    tokio::select! {
        () = share_on_and_on(&state) => {}
        () = share_on_and_on(&state) => {}
        () = share_on_and_on(&state) => {}
        lock = state.lock(LONG) => {
            lock.unwrap();
        }
    }
}

#[tokio::test]
async fn a_change_that_waits_for_a_hanging_start_lets_others_begin() {
    let (_dir, state) = state();
    let hanging = state.share(NOW).await.unwrap();
    let waits = tokio::spawn({
        let state = state.clone();
        async move { state.lock(LONG).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    state.share(Duration::from_secs(10)).await.unwrap();
    assert!(!waits.is_finished());
    drop(hanging);
    waits.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lock_whose_file_was_removed_is_no_lock() {
    let (_dir, state) = state();
    let share = state.share(LONG).await.unwrap();
    let first = share.compute(&name("main@1")).await.unwrap();
    let waits = tokio::spawn({
        let state = state.clone();
        async move {
            let share = state.share(LONG).await.unwrap();
            share.compute(&name("main@1")).await
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    state.forget_lock(&name("main@1"));
    drop(first);
    let _second = waits.await.unwrap().unwrap();
    let third = state.share(Duration::from_millis(30)).await.unwrap();
    refused(third.compute(&name("main@1")).await);
}
