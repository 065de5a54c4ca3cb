//! The API without a project: its table of routes, its problem documents, its limits.

use crate::api::error::{PROBLEM, Problem, document};
use crate::api::files::Files;
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
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

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

/// Each parameter is there once, and a client that leaves one out does not send `null`.
#[test]
fn parameters_are_there_once_and_are_not_null() {
    let document = serde_json::to_value(split().1).unwrap();
    let mut wrong = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, call) in methods.as_object().unwrap() {
            let mut seen = BTreeSet::new();
            for parameter in call["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                if !seen.insert((name, parameter["in"].as_str().unwrap())) {
                    wrong.push(format!("{method} {path}: {name} twice"));
                }
                if parameter["schema"].to_string().contains("null") {
                    wrong.push(format!("{method} {path}: {name} may be null"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let change = &document["components"]["schemas"]["ChangeBranch"];
    assert_eq!(change["minProperties"], 1, "{change}");
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
        "https://me:secret@localhost:99999",
        "me:secret@localhost",
        "https://me:sec@ret@localhost/v1",
        "https://localhost/v1",
        "https://localhost/?x",
        "localhost:3380",
        "nonsense",
    ] {
        let error = address(bad).unwrap_err();
        assert_eq!(exit_status(&error), 2, "{bad}");
        let said = describe(&error);
        assert!(!said.contains("sec") && !said.contains("me:"), "{said}");
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
        Remote::find(&global("", None), &clock(), &entropy())
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

/// Reads a request, and says its head.
async fn head(stream: &mut tokio::net::TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap() == 0 {
            break;
        }
        read.extend(byte);
    }
    String::from_utf8(read).unwrap().to_lowercase()
}

#[tokio::test]
async fn a_change_whose_connection_breaks_is_sent_again_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "abc").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let global = Global {
        server: Some(format!("http://{}", listener.local_addr().unwrap())),
        token_file: Some(file),
        ..Global::default()
    };
    let app = App::new(&global, clock(), entropy()).unwrap();
    let remote = app.remote.clone().unwrap();
    let serve = async {
        let mut keys = Vec::new();
        for round in 0..4 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head(&mut stream).await;
            let key = head
                .lines()
                .find(|line| line.starts_with("idempotency-key: "));
            keys.push(key.map(str::to_owned));
            let answer = match round {
                // Nothing; half a head; half a body.
                0 => "",
                1 => "HTTP/1.1 200",
                2 => "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"na",
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        keys
    };
    let asked = remote.change::<(), Value>(&app, reqwest::Method::DELETE, "/v1/x", None);
    let (keys, answer) = tokio::join!(serve, asked);
    assert_eq!(answer.unwrap(), json!({}));
    assert!(keys.iter().all(Option::is_some), "{keys:?}");
    assert_eq!(keys.into_iter().collect::<BTreeSet<_>>().len(), 1);
    // A server that is never there is given up.
    drop(listener);
    let given_up = tokio::time::timeout(Duration::from_secs(30), remote.get::<Value>("/v1/x"));
    let error = given_up.await.unwrap().unwrap_err();
    assert_eq!(kind(&error), Kind::Unavailable);
}

#[test]
fn files_are_those_of_the_allowed_directories() {
    let dir = tempfile::tempdir().unwrap();
    let dir = std::fs::canonicalize(dir.path()).unwrap();
    let make = |name: &str| {
        std::fs::create_dir_all(dir.join(name)).unwrap();
        dir.join(name)
    };
    let (allowed, state) = (make("allowed"), make("allowed/state"));
    let data = make("allowed/data");
    let (outside, other) = (make("outside"), make("allowed-too"));
    std::os::unix::fs::symlink(&allowed, dir.join("by-link")).unwrap();
    std::os::unix::fs::symlink(&outside, allowed.join("out")).unwrap();
    std::os::unix::fs::symlink(&data, allowed.join("in")).unwrap();
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let files = Files::open(&[dir.join("by-link")], &state).unwrap();
    let source = |path: PathBuf| files.source("datadir", &text(path)).map_err(|p| p.status);
    let target = |path: PathBuf| files.target("dir", &text(path)).map_err(|p| p.status);
    // By its name, by its path without links, and by a link within.
    assert_eq!(source(dir.join("by-link/data")), Ok(data.clone()));
    assert_eq!(source(data.clone()), Ok(data.clone()));
    assert_eq!(source(allowed.join("in")), Ok(data.clone()));
    assert_eq!(target(dir.join("by-link/new")), Ok(allowed.join("new")));
    for wrong in [
        allowed.join("out"),
        allowed.join("data/../../outside"),
        allowed.join("nothing"),
        outside.clone(),
        other.clone(),
        state.clone(),
        PathBuf::from("data"),
    ] {
        assert_eq!(source(wrong.clone()), Err(422), "{}", wrong.display());
        let inside = wrong.join("new");
        assert_eq!(target(inside), Err(422), "{}", wrong.display());
    }
    assert_eq!(target(allowed.clone()), Err(422));
    // A link within that leads to a directory with a link that leads out.
    let stash = make("allowed/stash");
    std::os::unix::fs::symlink(&outside, stash.join("far")).unwrap();
    let link = data.join("near");
    std::os::unix::fs::symlink(&stash, &link).unwrap();
    assert_eq!(source(data.clone()), Err(422));
    std::fs::remove_file(stash.join("far")).unwrap();
    // One that leads back is no loop.
    std::os::unix::fs::symlink(&data, stash.join("back")).unwrap();
    assert_eq!(source(data.clone()), Ok(data.clone()));
    // The state directory below the one that is imported.
    assert_eq!(source(allowed.clone()), Err(422));
    // What an import would wait for.
    let socket = std::os::unix::net::UnixListener::bind(data.join("a.sock")).unwrap();
    assert_eq!(source(data.clone()), Err(422));
    drop(socket);
    std::fs::remove_file(data.join("a.sock")).unwrap();
    assert_eq!(source(data.clone()), Ok(data.clone()));
    // Links below the directory, at any depth.
    make("allowed/data/shop");
    std::os::unix::fs::symlink(&outside, data.join("shop/far")).unwrap();
    assert_eq!(source(data.clone()), Err(422));
    // Without a directory nothing is allowed.
    let none = Files::open(&[], &state).unwrap();
    assert_eq!(none.source("datadir", "/").unwrap_err().status, 409);
    assert_eq!(none.target("dir", "/x").unwrap_err().status, 409);
    Files::open(&[dir.join("missing")], &state).unwrap_err();
}
