//! The API without a project: its table of routes, its problem documents, its limits.

use crate::api::error::{PROBLEM, Problem, document};
use crate::api::request::moment;
use crate::api::routes::{Need, ROUTES, split};
use crate::api::serve::check_address;
use crate::app::App;
use crate::args::Global;
use crate::failure::{Failure, Kind, describe, exit_status, kind};
use crate::moment::Moment;
use crate::remote::{Remote, address, path};
use crate::tests::kit::{clock, entropy, now};
use axum::body::to_bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn a_project_here_and_a_server_elsewhere_contradict_each_other() {
    let global = Global {
        dir: Some("there".into()),
        server: Some("https://db.example.com:3380".to_owned()),
        ..Global::default()
    };
    let error = App::new(&global, clock(), entropy()).unwrap_err();
    assert_eq!(exit_status(&error), 2);
    assert!(describe(&error).contains("XYLEM_SERVER"), "{error:#}");
}

#[test]
fn each_route_has_a_right_and_is_described() {
    let document = serde_json::to_value(split().1).unwrap();
    let mut served = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, call) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            let text = call["summary"].as_str().unwrap_or_default();
            assert!(text.len() > 5, "{method} {path} has no summary");
            assert!(call["operationId"].is_string(), "{method} {path}");
            let has = |status: &str| call["responses"].get(status).is_some();
            let open = path == "/healthz";
            assert!(open || has("4XX"), "{method} {path}");
            let wait = call["parameters"].to_string().contains("\"wait\"");
            assert_eq!(
                method != "GET",
                has("202") && wait && method != "GET",
                "{method} {path}"
            );
            served.insert((method, path.clone()));
        }
    }
    let known = ROUTES.iter();
    let known = known.map(|(method, path, _)| (method.to_string(), path.to_string()));
    assert_eq!(known.collect::<BTreeSet<_>>(), served);
    let open = ROUTES.iter().filter(|(_, _, need)| *need == Need::Nothing);
    assert_eq!(open.count(), 1);
    // Nothing changes by a right to look.
    for (method, path, need) in ROUTES {
        let looks = matches!(need, Need::Token | Need::Nothing);
        assert!(*method == "GET" || !looks, "{method} {path}");
    }
    assert_eq!(
        document["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    for name in ["Problem", "BranchEvent", "ComputeEvent", "OperationReport"] {
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name}"
        );
    }
}

async fn parts(response: Response) -> (StatusCode, String, Value) {
    let status = response.status();
    let kind = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, kind, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn errors_are_problems_there_and_errors_here_again() {
    let kinds = [
        (Kind::Failed, 500),
        (Kind::Invalid, 422),
        (Kind::NotFound, 404),
        (Kind::Conflict, 409),
        (Kind::Unauthenticated, 401),
        (Kind::Denied, 403),
        (Kind::Unavailable, 503),
    ];
    for (of, status) in kinds {
        for usage in [false, true] {
            let error = match usage {
                true => Failure::usage_of(of, "it failed", "do this"),
                false => Failure::of(of, "it failed", "do this"),
            };
            let error = error.context("cannot do it");
            let problem = Problem::new(&error);
            let (got, kind_of, body) = parts(problem.clone().into_response()).await;
            assert_eq!((got.as_u16(), kind_of.as_str()), (status, PROBLEM));
            assert_eq!(body["status"], status);
            assert_eq!(body["detail"], "cannot do it: it failed");
            assert_eq!(body["hint"], "do this");
            let back: Problem = serde_json::from_value(body).unwrap();
            assert_eq!(back, problem);
            let back = back.into_error();
            assert_eq!(describe(&back), describe(&error));
            assert_eq!(exit_status(&back), exit_status(&error));
            assert_eq!(kind(&back), of);
        }
    }
}

#[tokio::test]
async fn what_the_framework_refuses_becomes_a_problem() {
    let plain = (StatusCode::BAD_REQUEST, [("x-kept", "1")], "no JSON").into_response();
    let response = document(plain).await;
    assert_eq!(response.headers()["x-kept"], "1");
    let (status, kind, body) = parts(response).await;
    assert_eq!((status, kind.as_str()), (StatusCode::BAD_REQUEST, PROBLEM));
    assert_eq!(body["detail"], "no JSON");
    let (_, _, body) = parts(document(StatusCode::NOT_FOUND.into_response()).await).await;
    assert_eq!(body["title"], "Not Found");
    // What is no error, or one already, stays.
    let ok = document((StatusCode::OK, "fine").into_response()).await;
    assert_eq!(to_bytes(ok.into_body(), 10).await.unwrap(), "fine");
}

#[test]
fn moments_in_requests_have_an_offset_from_utc() {
    let at = |text: &str| moment(text, now());
    assert_eq!(at("5").unwrap(), Moment::Lsn(5));
    let time = "2026-11-22T14:05:00Z".parse().unwrap();
    assert_eq!(at("2026-11-22T15:05:00+01:00").unwrap(), Moment::Time(time));
    assert!(matches!(at("5 minutes ago").unwrap(), Moment::Time(_)));
    for text in ["14:05", "2026-11-22 14:05", "yesterday", ""] {
        assert!(at(text).is_err(), "{text}");
    }
}

#[test]
fn names_in_paths_are_escaped() {
    assert_eq!(
        path(&["branches", "feature/login"]),
        "/v1/branches/feature%2Flogin"
    );
    assert_eq!(
        path(&["computes", "main@1", "stop"]),
        "/v1/computes/main%401/stop"
    );
    assert_eq!(
        path(&["tokens", "../a?b#c%ä"]),
        "/v1/tokens/..%2Fa%3Fb%23c%25%C3%A4"
    );
}

#[test]
fn a_token_goes_to_no_server_in_the_clear() {
    for good in [
        "https://db.example.com:3380",
        "https://10.0.0.1",
        "http://localhost:3380",
        "http://127.0.0.1:3380",
        "http://[::1]:3380/",
    ] {
        address(good).unwrap();
    }
    for bad in [
        "http://db.example.com",
        "http://10.0.0.1:3380",
        "http://localhost.example.com",
        "ftp://localhost",
        "https://me:secret@localhost",
        "https://localhost/v1",
        "https://localhost/?x",
        "localhost:3380",
        "nonsense",
    ] {
        let error = address(bad).unwrap_err();
        assert_eq!(exit_status(&error), 2, "{bad}");
    }
    let listen = |address: &str, tls, allow| check_address(address.parse().unwrap(), tls, allow);
    listen("0.0.0.0:1", true, false).unwrap();
    listen("127.0.0.1:1", false, false).unwrap();
    listen("[::1]:1", false, false).unwrap();
    listen("0.0.0.0:1", false, true).unwrap();
    assert!(listen("0.0.0.0:1", false, false).is_err());
    assert!(listen("10.0.0.1:1", false, false).is_err());
}

#[test]
fn a_server_elsewhere_needs_a_token_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "abc\n").unwrap();
    let global = |server: &str, file: Option<&std::path::Path>| Global {
        server: Some(server.to_owned()),
        token_file: file.map(Into::into),
        ..Global::default()
    };
    let app = |global: &Global| App::new(global, clock(), entropy());
    let found = app(&global("https://localhost:1", Some(&file))).unwrap();
    let shown = format!("{found:?}");
    assert!(!shown.contains("abc"), "{shown}");
    assert_eq!(
        found.command("status"),
        "xylem --server https://localhost:1 status"
    );
    assert_eq!(
        exit_status(&app(&global("https://localhost:1", None)).unwrap_err()),
        2
    );
    assert!(
        Remote::find(&global("", None), &entropy())
            .unwrap()
            .is_none()
    );
    let missing = dir.path().join("nothing");
    app(&global("https://localhost:1", Some(&missing))).unwrap_err();
    let problem: Problem = serde_json::from_value(json!({
        "type": "about:blank", "title": "x", "status": 500, "detail": "y"
    }))
    .unwrap();
    assert_eq!(kind(&problem.into_error()), Kind::Failed);
}
