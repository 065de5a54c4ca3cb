//! Places of a pool.

use super::{LOGINS_MAX, Place, Pool, SILENCE, STAYS, Silence};
use crate::branch::Handle;
use crate::conversation::{Conversation, Form};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use xylem_ambient::Clock;

async fn now_or_never(pool: &Arc<Pool>, limit: Option<usize>) -> Option<Place> {
    let place = pool.enter(limit, "main");
    tokio::time::timeout(Duration::from_millis(20), place)
        .await
        .ok()?
        .ok()
}

#[tokio::test]
async fn there_are_as_many_places_as_the_limit_says() {
    let pool = Arc::new(Pool::default());
    let first = now_or_never(&pool, Some(2)).await.unwrap();
    let _second = now_or_never(&pool, Some(2)).await.unwrap();
    assert!(now_or_never(&pool, Some(2)).await.is_none());
    // Who has given up waiting gets none.
    drop(first);
    let _third = now_or_never(&pool, Some(2)).await.unwrap();
    assert!(now_or_never(&pool, Some(2)).await.is_none());
    assert_eq!(pool.waiting(), 0);
    let _fourth = now_or_never(&pool, Some(3)).await.unwrap();
    assert!(now_or_never(&pool, None).await.is_some());
}

#[tokio::test]
async fn those_that_wait_are_served_in_their_order() {
    let pool = Arc::new(Pool::default());
    let place = now_or_never(&pool, Some(1)).await.unwrap();
    let wait = |pool: &Arc<Pool>| {
        let pool = Arc::clone(pool);
        tokio::spawn(async move { pool.enter(Some(1), "main").await.unwrap() })
    };
    let first = wait(&pool);
    while pool.waiting() < 1 {
        tokio::task::yield_now().await;
    }
    let second = wait(&pool);
    while pool.waiting() < 2 {
        tokio::task::yield_now().await;
    }
    pool.wanted().await;
    drop(place);
    let first = first.await.unwrap();
    assert!(!second.is_finished());
    // A newcomer does not overtake.
    assert!(now_or_never(&pool, Some(1)).await.is_none());
    drop(first);
    drop(second.await.unwrap());
    assert!(now_or_never(&pool, Some(1)).await.is_some());
}

#[tokio::test]
async fn a_limit_that_is_raised_lets_those_in_that_wait() {
    let pool = Arc::new(Pool::default());
    let _place = now_or_never(&pool, Some(1)).await.unwrap();
    let waits = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { pool.enter(Some(1), "main").await })
    };
    while pool.waiting() < 1 {
        tokio::task::yield_now().await;
    }
    pool.set_limit(None);
    waits.await.unwrap().unwrap();
}

#[tokio::test]
async fn strangers_take_no_places() {
    let pool = Arc::new(Pool::default());
    let log_in = || pool.log_in(Some(1), "main");
    let mut logins = Vec::new();
    for _ in 0..LOGINS_MAX {
        logins.push(log_in().await.unwrap());
    }
    let mut next = std::pin::pin!(log_in());
    assert!(futures::poll!(&mut next).is_pending());
    assert_eq!(pool.waiting(), 0, "no session has to leave for them");
    let _place = now_or_never(&pool, Some(1)).await.unwrap();
    logins.pop();
    assert!(next.await.unwrap().is_of_pool());
    // Without a limit nobody waits.
    assert!(!pool.log_in(None, "main").await.unwrap().is_of_pool());
}

#[tokio::test]
async fn the_silence_of_a_session_ends_when_it_speaks() {
    let clock = Clock::system();
    let pool = Arc::new(Pool::default());
    let handle = Arc::new(Handle::new(
        "1".to_owned(),
        Conversation::login(Form::default()),
    ));
    let seen = |spoken| HashMap::from([(7, (Arc::clone(&handle), spoken))]);
    let mut silence = Silence::default();
    let first = clock.instant();
    let later = first + SILENCE;
    silence.look(&pool, &seen(1), first);
    assert_eq!(
        silence.since(7, later),
        None,
        "nothing is noted without a limit"
    );
    pool.set_limit(Some(1));
    silence.look(&pool, &seen(1), first);
    silence.look(&pool, &seen(1), later);
    assert_eq!(silence.since(7, later), Some(first));
    // It has just spoken.
    silence.look(&pool, &seen(2), later);
    assert_eq!(silence.since(7, later), None);
    assert_eq!(silence.since(7, later + SILENCE), Some(later));
    // It cannot leave as it is, and may be able to later.
    silence.stays(7, later);
    silence.look(&pool, &seen(2), later);
    assert_eq!(silence.since(7, later + SILENCE), None);
    assert_eq!(silence.since(7, later + STAYS), Some(later));
    silence.look(&pool, &seen(3), later);
    assert_eq!(silence.since(7, later + SILENCE), Some(later));
    silence.look(&pool, &HashMap::new(), later);
    assert_eq!(silence.since(7, later + SILENCE), None);
}
