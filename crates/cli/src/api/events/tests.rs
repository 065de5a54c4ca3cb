use super::*;
use crate::tests::kit::api_of;
use axum::response::IntoResponse;

fn branch(name: &str, before: Option<&str>) -> BranchEvent {
    BranchEvent {
        happened: Happened::Changed,
        name: name.to_owned(),
        renamed_from: before.map(str::to_owned),
        id: "00".to_owned(),
        state: "open".to_owned(),
        suspend_after: None,
        pool_size: None,
        moments: false,
    }
}

/// The names of the events of a stream up to its end.
async fn heard(response: axum::response::Response) -> Vec<String> {
    let body = axum::body::to_bytes(response.into_body(), 1 << 20);
    // A stream that goes on has no end to wait for.
    let body = tokio::time::timeout(Duration::from_secs(5), body).await;
    let body = body.expect("the stream has not ended").unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| {
        let event: serde_json::Value = serde_json::from_str(data).unwrap();
        event["name"].as_str().unwrap_or_default().to_owned()
    })
    .collect()
}

/// A listener is there, and `watch` has looked.
async fn listening(api: &Api, caller: &Caller) -> axum::response::Response {
    let watching = tokio::spawn(watch(api.clone()));
    let response = stream(api.clone(), caller.clone(), None).await.unwrap();
    watching.abort();
    response.into_response()
}

#[tokio::test]
async fn a_listener_that_does_not_keep_up_is_let_go() {
    let (_dir, api, caller) = api_of("*");
    // It keeps up, as long as no more wait for it than there is room for.
    let quick = listening(&api, &caller).await;
    for number in 0..BEHIND_MAX {
        api.events
            .tell(Data::Branch(branch(&format!("b{number}"), None)));
    }
    let slow = listening(&api, &caller).await;
    for number in 0..=BEHIND_MAX {
        api.events
            .tell(Data::Branch(branch(&format!("c{number}"), None)));
    }
    // What it is told is whole up to an event, after which the stream ends: none is left out.
    assert_eq!(heard(slow).await, Vec::<String>::new());
    assert_eq!(heard(quick).await, Vec::<String>::new());
    assert!(!api.events.is_listened_to());
    // One that reads gets all that there is room for.
    let reads = listening(&api, &caller).await;
    for number in 0..BEHIND_MAX {
        api.events
            .tell(Data::Branch(branch(&format!("d{number}"), None)));
    }
    let stopping = api.stopping.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stopping.cancel();
    });
    assert_eq!(heard(reads).await.len(), BEHIND_MAX);
}

#[test]
fn a_branch_that_leaves_the_reach_of_a_token_is_removed_for_it() {
    let told = |name: &str, before: Option<&str>| {
        let may_read = |name: &str| name.starts_with("ci/");
        branch(name, before).told_to(may_read)
    };
    let gone = told("secret", Some("ci/1"));
    assert_eq!(
        (gone.happened, gone.name.as_str(), gone.renamed_from),
        (Happened::Removed, "ci/1", None)
    );
    let came = told("ci/1", Some("secret"));
    assert_eq!(
        (came.happened, came.name.as_str(), came.renamed_from),
        (Happened::Created, "ci/1", None)
    );
    let both = told("ci/2", Some("ci/1"));
    assert_eq!(
        (
            both.happened,
            both.name.as_str(),
            both.renamed_from.as_deref()
        ),
        (Happened::Changed, "ci/2", Some("ci/1"))
    );
}
