//! The HTTP API of a project: who may do what, problem documents, operations.

use anyhow::{Context, Result, bail, ensure};
use reqwest::header::{HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use xylem_ambient::{Clock, Entropy};
use xylem_e2e::{Project, wait_until};
use xylem_tokens::{Right, RightOn, Ring};

/// A caller of the API.
pub struct Caller {
    pub runtime: Runtime,
    pub client: reqwest::Client,
    pub base: String,
    token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

/// The address of a project's API.
pub fn address(project: &Project) -> Result<String> {
    let status = project.json(&["status"])?;
    let port = status["api"]["port"].as_u64().context("no API")?;
    Ok(format!("https://localhost:{port}"))
}

impl Caller {
    /// A caller with `token`.
    pub fn new(project: &Project, token: Option<&str>) -> Result<Caller> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = std::fs::read(project.dir().join("tls/ca.pem"))?;
        Ok(Caller {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            client: reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?)
                .build()?,
            base: address(project)?,
            token: token.map(str::to_owned),
        })
    }

    /// The owner.
    pub fn owner(project: &Project) -> Result<Caller> {
        let token = project.token()?.context("no token")?;
        Caller::new(project, Some(&token))
    }

    /// The bearer of a new token.
    pub fn with_rights(project: &Project, name: &str, rights: &[&str]) -> Result<Caller> {
        let args = [&["token", "create", name], rights].concat();
        let token = project.xylem(&args)?;
        Caller::new(project, Some(token.trim()))
    }

    pub fn request(&self, method: &str, path: &str) -> Result<reqwest::RequestBuilder> {
        let method = Method::from_bytes(method.as_bytes())?;
        let request = self.client.request(method, format!("{}{path}", self.base));
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    pub fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        self.runtime.block_on(async {
            let response = request.send().await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.bytes().await?;
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            Ok(Answer {
                status,
                headers,
                body,
            })
        })
    }

    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let request = self.request(method, path)?;
        self.send(match body {
            Some(body) => request.json(body),
            None => request,
        })
    }

    /// The document of a call that succeeds.
    pub fn ok(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.call(method, path, body)?;
        ensure!(answer.status < 300, "{method} {path}: {answer:?}");
        Ok(answer.body)
    }
}

impl Answer {
    /// Checks that it is a problem document with this status.
    pub fn is_problem(&self, status: u16) -> Result<&str> {
        let kind = self.headers.get("content-type").context("no type")?;
        ensure!(
            self.status == status
                && self.body["status"] == status
                && kind == "application/problem+json"
                && self.body["type"]
                    .as_str()
                    .is_some_and(|t| t.starts_with("urn:xylem:problem:"))
                && self.body["title"].is_string(),
            "wanted {status}: {self:?}"
        );
        self.body["detail"].as_str().context("no detail")
    }
}

/// A project with an API and the branches `main` and `dev`.
pub fn project() -> Result<Project> {
    let project = Project::new()?.with_api();
    project.up_in_place("16MiB")?;
    project.xylem(&["branch", "create", "dev"])?;
    Ok(project)
}

/// A route with the least right that it needs; the branch is `dev`.
const ROUTES: &[(&str, &str, &str)] = &[
    ("GET", "/v1/openapi.json", "token"),
    ("GET", "/v1/metrics", "project"),
    ("GET", "/v1/status", "token"),
    ("GET", "/v1/events", "token"),
    ("GET", "/v1/operations", "token"),
    ("GET", "/v1/operations/{id}", "token"),
    ("DELETE", "/v1/operations/{id}", "token"),
    ("GET", "/v1/branches", "token"),
    ("POST", "/v1/branches", "admin"),
    ("GET", "/v1/branches/{name}", "read"),
    ("PATCH", "/v1/branches/{name}", "admin"),
    ("DELETE", "/v1/branches/{name}", "admin"),
    ("GET", "/v1/branches/{name}/moments", "read"),
    ("POST", "/v1/branches/{name}/restore", "admin"),
    ("POST", "/v1/branches/{name}/reopen", "admin"),
    ("POST", "/v1/branches/{name}/exports", "project"),
    ("POST", "/v1/imports", "project"),
    ("GET", "/v1/computes", "token"),
    ("GET", "/v1/computes/{name}", "read"),
    ("DELETE", "/v1/computes/{name}", "write"),
    ("POST", "/v1/computes/{name}/start", "write"),
    ("POST", "/v1/computes/{name}/stop", "write"),
    ("POST", "/v1/computes/{name}/kill", "write"),
    ("GET", "/v1/tokens", "project"),
    ("POST", "/v1/tokens", "project"),
    ("POST", "/v1/tokens/rotate", "project"),
    ("GET", "/v1/tokens/{id}", "project"),
    ("DELETE", "/v1/tokens/{id}", "project"),
];

/// A body with which the request would do something.
fn body_of(method: &str, path: &str, name: &str) -> Option<Value> {
    match (method, path) {
        ("POST", "/v1/branches") => Some(json!({ "name": name, "from": name })),
        ("PATCH", "/v1/branches/{name}") => Some(json!({ "suspend_after": "5m" })),
        ("POST", "/v1/branches/{name}/restore") => Some(json!({ "at": "1 second ago" })),
        ("POST", "/v1/branches/{name}/exports") => Some(json!({ "dir": "/tmp/x" })),
        ("POST", "/v1/imports") => Some(json!({ "datadir": "/tmp", "branch": name })),
        ("POST", "/v1/tokens") => {
            Some(json!({ "name": "more", "rights": [{ "can": "admin", "on": "*" }] }))
        }
        _ => None,
    }
}

/// A token that the project's own keys have signed, made and ended long ago.
fn expired(project: &Project) -> Result<String> {
    let then = SystemTime::now().duration_since(UNIX_EPOCH)? - Duration::from_secs(3600);
    let then = u64::try_from(then.as_micros())?;
    signed(&project.dir().join("keys"), Clock::new(move || then), 60)
}

fn signed(keys: &Path, clock: Clock, lifetime: u64) -> Result<String> {
    let ring = Ring::open(keys)?;
    let rights = vec![RightOn {
        can: Right::Admin,
        on: "*".parse().map_err(anyhow::Error::msg)?,
    }];
    let mut claims = ring.claims("somebody", rights, &clock, &Entropy::system())?;
    claims.exp = Some(claims.iat + lifetime);
    Ok(ring.sign(&claims)?)
}

#[test]
fn each_route_needs_a_token_that_reaches_it() -> Result<()> {
    let project = project()?;
    let owner = Caller::owner(&project)?;
    // The table above has every route that there is.
    let document = owner.ok("GET", "/v1/openapi.json", None)?;
    ensure!(
        document["openapi"]
            .as_str()
            .is_some_and(|v| v.starts_with("3.1"))
    );
    let mut served = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().context("no paths")? {
        for method in methods.as_object().context("no methods")?.keys() {
            served.insert((method.to_uppercase(), path.clone()));
        }
    }
    let known = ROUTES
        .iter()
        .map(|(m, p, _)| (m.to_string(), p.to_string()));
    let mut known: BTreeSet<_> = known.collect();
    known.insert(("GET".to_owned(), "/healthz".to_owned()));
    assert_eq!(known, served, "routes: this test, the OpenAPI document");

    let other = tempfile::tempdir()?;
    Ring::create(&other.path().join("keys"), &Entropy::system())?;
    let foreign = signed(&other.path().join("keys"), Clock::system(), 3600)?;
    let revoked = Caller::with_rights(&project, "gone", &["--admin", "*"])?;
    project.xylem(&["token", "revoke", "gone"])?;
    let strangers = [
        Caller::new(&project, None)?,
        Caller::new(&project, Some(""))?,
        Caller::new(&project, Some("nonsense"))?,
        Caller::new(&project, Some(&expired(&project)?))?,
        Caller::new(&project, Some(&foreign))?,
        revoked,
    ];
    wait_until("the revocation to be read", Duration::from_secs(5), || {
        Ok(strangers[5].call("GET", "/v1/status", None)?.status == 401)
    })?;
    let compute = std::fs::read_to_string(project.dir().join("computes/main/token"))?;
    let compute = Caller::new(&project, Some(compute.trim()))?;
    let wrong = Caller::with_rights(&project, "wrong", &["--admin", "other", "--admin", "ci/*"])?;
    let reader = Caller::with_rights(&project, "reader", &["--read", "dev"])?;
    let writer = Caller::with_rights(&project, "writer", &["--write", "dev"])?;
    let admin = Caller::with_rights(&project, "admin", &["--admin", "dev"])?;
    for &(method, path, need) in ROUTES {
        let on = |name: &str| path.replace("{name}", name).replace("{id}", "00");
        let call = |caller: &Caller, name: &str| {
            caller.call(method, &on(name), body_of(method, path, name).as_ref())
        };
        for stranger in &strangers {
            let answer = call(stranger, "dev")?;
            answer
                .is_problem(401)
                .with_context(|| format!("{method} {path}"))?;
            ensure!(answer.headers.contains_key(WWW_AUTHENTICATE), "{answer:?}");
        }
        call(&compute, "dev")?.is_problem(403)?;
        if need == "token" {
            continue;
        }
        // A name that the token does not reach is refused, whether there is one or not.
        let (there, not_there) = (call(&wrong, "dev")?, call(&wrong, "nothing")?);
        there
            .is_problem(403)
            .with_context(|| format!("{method} {path}"))?;
        ensure!(there.headers.contains_key(WWW_AUTHENTICATE), "{there:?}");
        let same = there.body.to_string().replace("dev", "nothing");
        assert_eq!(same, not_there.body.to_string(), "{method} {path}");
        if need != "read" {
            call(&reader, "dev")?
                .is_problem(403)
                .with_context(|| format!("{method} {path}"))?;
        }
        if need == "admin" || need == "project" {
            call(&writer, "dev")?
                .is_problem(403)
                .with_context(|| format!("{method} {path}"))?;
        }
        if need == "project" {
            call(&admin, "dev")?
                .is_problem(403)
                .with_context(|| format!("{method} {path}"))?;
        }
    }
    // What they may do they can do.
    reader.ok("GET", "/v1/branches/dev", None)?;
    let name = reader.ok(
        "POST",
        "/v1/computes/dev/start",
        Some(&json!({"read_only": true})),
    )?;
    assert_eq!(name["name"], "dev@1");
    reader.ok("DELETE", "/v1/computes/dev@1", None)?;
    writer.ok("POST", "/v1/computes/dev/start", None)?;
    writer.ok("POST", "/v1/computes/dev/stop", None)?;
    admin.ok(
        "PATCH",
        "/v1/branches/dev",
        Some(&json!({"suspend_after": "5m"})),
    )?;
    // Nothing of other branches is told: no names of relatives, of computes, in errors.
    let all = reader.ok("GET", "/v1/branches", None)?;
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(all[0]["parent"], Value::Null, "{all}");
    for path in [
        "/v1/status",
        "/v1/computes",
        "/v1/operations",
        "/v1/branches?all=true",
    ] {
        let told = wrong.ok("GET", path, None)?.to_string();
        ensure!(
            !told.contains("\"main\"") && !told.contains("\"dev\""),
            "{path}: {told}"
        );
    }
    let mean = Caller::with_rights(&project, "mean", &["--admin", "dex", "--admin", "maim"])?;
    for (method, path) in [
        ("GET", "/v1/branches/dex"),
        ("DELETE", "/v1/branches/dex"),
        ("GET", "/v1/computes/maim"),
        ("POST", "/v1/computes/maim/start"),
        ("POST", "/v1/computes/maim/stop"),
        ("POST", "/v1/branches/maim/reopen"),
    ] {
        let answer = mean.call(method, path, None)?;
        answer.is_problem(404)?;
        let told = answer.body.to_string();
        ensure!(!told.contains("did you mean"), "{method} {path}: {told}");
    }
    // The only thing that needs no token tells nothing.
    let stranger = strangers.first().context("no stranger")?;
    assert_eq!(stranger.call("GET", "/healthz", None)?.status, 200);
    stranger.call("GET", "/v1/nothing", None)?.is_problem(401)?;
    Ok(())
}

#[test]
fn what_is_done_and_refused_is_in_the_audit_log() -> Result<()> {
    let project = project()?;
    let owner = Caller::owner(&project)?;
    owner.ok("POST", "/v1/branches", Some(&json!({ "name": "one" })))?;
    owner.ok(
        "POST",
        "/v1/tokens",
        Some(&json!({ "name": "t", "rights": [{ "can": "read", "on": "one" }] })),
    )?;
    let reader = Caller::with_rights(&project, "reader", &["--read", "one"])?;
    reader
        .call("DELETE", "/v1/branches/one", None)?
        .is_problem(403)?;
    reader
        .call("POST", "/v1/branches", Some(&json!({ "name": "two" })))?
        .is_problem(403)?;
    owner
        .call("DELETE", "/v1/branches/nothing", None)?
        .is_problem(404)?;
    let log = std::fs::read_to_string(project.dir().join("audit.log"))?;
    let lines: Vec<Value> = log
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let line = |call: &str, on: &str, who: &str, outcome: &str| {
        let found = lines.iter().find(|line| {
            line["call"] == call
                && line["on"] == on
                && line["who"] == who
                && line["outcome"] == outcome
        });
        let found =
            found.with_context(|| format!("no line {call} {on} {who} {outcome} in\n{log}"))?;
        ensure!(
            found["from"]
                .as_str()
                .is_some_and(|from| from.starts_with("127.0.0.1:")),
            "{found}"
        );
        anyhow::Ok(())
    };
    line("POST /v1/branches", "one", "owner", "ok")?;
    line("POST /v1/tokens", "t", "owner", "ok")?;
    line("DELETE /v1/branches/{name}", "one", "reader", "denied")?;
    line("POST /v1/branches", "", "reader", "denied")?;
    line(
        "DELETE /v1/branches/{name}",
        "nothing",
        "owner",
        "not-found",
    )?;
    // The server wrote its own line, in the caller's name.
    ensure!(
        lines
            .iter()
            .any(|l| l["call"] == "CreateBranch" && l["on"] == "one" && l["who"] == "owner")
    );
    ensure!(!log.contains("eyJ"), "a token is in the log");
    Ok(())
}

#[test]
fn errors_are_problem_documents() -> Result<()> {
    let project = project()?;
    let owner = Caller::owner(&project)?;
    let raw = |body: &str, kind: &str| {
        let request = owner.request("POST", "/v1/branches")?;
        owner.send(request.header("content-type", kind).body(body.to_owned()))
    };
    raw("{", "application/json")?.is_problem(400)?;
    raw("{}", "text/plain")?.is_problem(415)?;
    raw("{\"name\": 5}", "application/json")?.is_problem(422)?;
    raw("{\"name\": \"x\", \"other\": 1}", "application/json")?.is_problem(422)?;
    raw(&" ".repeat((1 << 20) + 1), "application/json")?.is_problem(413)?;
    let answer = owner.call("PUT", "/v1/branches", None)?;
    answer.is_problem(405)?;
    let allowed = answer.headers.get("allow").context("no Allow")?.to_str()?;
    ensure!(
        allowed.contains("GET") && allowed.contains("POST"),
        "{allowed}"
    );
    owner.call("GET", "/v1/nothing", None)?.is_problem(404)?;
    owner
        .call("GET", "/v1/branches/dev?", None)
        .map(|a| assert_eq!(a.status, 200))?;
    owner
        .call("GET", "/v1/operations/00", None)?
        .is_problem(404)?;
    owner
        .call("GET", "/v1/operations/00?wait=301", None)?
        .is_problem(422)?;
    owner
        .call("POST", "/v1/computes/dev/start?wait=soon", None)?
        .is_problem(400)?;

    let create = |name: &str| owner.call("POST", "/v1/branches", Some(&json!({ "name": name })));
    let answer = create("dev")?;
    ensure!(
        answer
            .is_problem(409)?
            .contains("there is a branch dev already"),
        "{answer:?}"
    );
    create("not/../good")?.is_problem(422)?;
    owner.ok(
        "POST",
        "/v1/branches",
        Some(&json!({ "name": "child", "from": "dev" })),
    )?;
    let answer = owner.call("DELETE", "/v1/branches/dev", None)?;
    ensure!(answer.is_problem(409)?.contains("child"), "{answer:?}");
    let answer = owner.call("GET", "/v1/branches/childd", None)?;
    answer.is_problem(404)?;
    ensure!(
        answer.body["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("did you mean child?")),
        "{answer:?}"
    );
    for at in ["1", "2001-01-01T00:00:00Z"] {
        let body = json!({ "at": at });
        let answer = owner.call("POST", "/v1/branches/dev/restore", Some(&body))?;
        ensure!(answer.is_problem(422)?.contains("history"), "{answer:?}");
        let answer = owner.call("GET", &format!("/v1/branches/dev/moments?at={at}"), None)?;
        answer.is_problem(422)?;
    }
    // Whose time it is is not known.
    let body = json!({ "at": "14:05" });
    let answer = owner.call("POST", "/v1/branches/dev/restore", Some(&body))?;
    ensure!(answer.is_problem(422)?.contains("offset"), "{answer:?}");
    owner
        .call("DELETE", "/v1/computes/main", None)?
        .is_problem(409)?;
    owner
        .call("POST", "/v1/computes/main@7/stop", None)?
        .is_problem(404)?;
    owner
        .call("DELETE", "/v1/tokens/nobody", None)?
        .is_problem(404)?;
    // A port that mariadbd cannot have, unless the system gives those to everybody.
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
    if first.trim().parse::<u16>()? > 80 {
        let body = json!({ "port": 80 });
        let answer = owner.call("POST", "/v1/computes/dev/start", Some(&body))?;
        ensure!(answer.is_problem(422)?.contains("port 80"), "{answer:?}");
    }
    // Both changes, or none.
    let body = json!({ "name": "child", "suspend_after": "77m" });
    owner
        .call("PATCH", "/v1/branches/dev", Some(&body))?
        .is_problem(409)?;
    let kept = std::fs::read_to_string(project.dir().join("project.toml"))?;
    ensure!(!kept.contains("77m") && !kept.contains("1h 17m"), "{kept}");
    let none = json!({ "name": "none", "rights": [] });
    owner
        .call("POST", "/v1/tokens", Some(&none))?
        .is_problem(422)?;
    // A slash in a name.
    owner.ok(
        "POST",
        "/v1/branches",
        Some(&json!({ "name": "feature/login" })),
    )?;
    let found = owner.ok("GET", "/v1/branches/feature%2Flogin", None)?;
    assert_eq!(found["name"], "feature/login");

    // Without the server nothing is told of branches; what changes something starts it.
    project.kill_server()?;
    wait_until("the server to be gone", Duration::from_secs(10), || {
        Ok(owner.ok("GET", "/v1/status", None)?["server"]["state"] == "crashed")
    })?;
    let answer = owner.call("GET", "/v1/branches", None)?;
    answer.is_problem(503)?;
    ensure!(answer.headers.contains_key(RETRY_AFTER), "{answer:?}");
    owner.ok("POST", "/v1/branches", Some(&json!({ "name": "again" })))?;
    owner.ok("GET", "/v1/branches/again", None)?;
    Ok(())
}

#[test]
fn all_that_the_command_line_can_do() -> Result<()> {
    let project = project()?;
    let owner = Caller::owner(&project)?;
    project
        .sql("CREATE DATABASE shop; CREATE TABLE shop.t (a INT); INSERT INTO shop.t VALUES (1)")?;
    let moment = owner.ok("GET", "/v1/branches/main/moments", None)?;
    let lsn = moment["lsn"].as_u64().context("no LSN")?;
    ensure!(
        moment["oldest_lsn"]
            .as_u64()
            .is_some_and(|oldest| oldest < lsn),
        "{moment}"
    );
    project.sql("DROP TABLE shop.t")?;
    let body = json!({ "at": lsn.to_string(), "keep_as": "dropped" });
    let restored = owner.ok("POST", "/v1/branches/main/restore", Some(&body))?;
    assert_eq!(
        (&restored["name"], &restored["kept"]["name"]),
        (&json!("main"), &json!("dropped"))
    );
    assert_eq!(restored["compute"]["state"], "running");
    assert_eq!(project.sql("SELECT a FROM shop.t")?.trim(), "1");

    let made = owner.call(
        "POST",
        "/v1/branches",
        Some(&json!({ "name": "x", "suspend_after": "1h" })),
    )?;
    assert_eq!(
        (made.status, made.headers["location"].to_str()?),
        (201, "/v1/branches/x")
    );
    let started = owner.ok("POST", "/v1/computes/x/start", None)?;
    assert_eq!(
        (&started["state"], &started["already"]),
        (&json!("running"), &json!(false))
    );
    assert_eq!(project.sql_on("x", "SELECT a FROM shop.t")?.trim(), "1");
    let again = owner.ok("POST", "/v1/computes/x/start", Some(&json!({})))?;
    assert_eq!(again["already"], true);
    let renamed = owner.ok(
        "PATCH",
        "/v1/branches/x",
        Some(&json!({ "name": "y", "suspend_after": "2h" })),
    )?;
    assert_eq!(
        (&renamed["name"], &renamed["renamed_from"]),
        (&json!("y"), &json!("x"))
    );
    assert_eq!(renamed["suspend_after"], "2h");
    assert_eq!(renamed["compute"]["name"], "y");
    assert_eq!(
        owner.ok("POST", "/v1/branches/y/reopen", None)?["state"],
        "open"
    );
    let killed = owner.ok("POST", "/v1/computes/y/kill", None)?;
    assert_eq!(
        (&killed["ran"], &killed["state"]),
        (&json!(true), &json!("stopped"))
    );
    let stopped = owner.ok("POST", "/v1/computes/y/stop", None)?;
    assert_eq!(stopped["ran"], false);
    assert_eq!(owner.ok("GET", "/v1/computes/y", None)?["state"], "stopped");
    let read_only = json!({ "read_only": true, "at": lsn.to_string() });
    let reader = owner.ok("POST", "/v1/computes/main/start", Some(&read_only))?;
    assert_eq!(
        (&reader["name"], &reader["lsn"]),
        (&json!("main@1"), &json!(lsn))
    );
    assert_eq!(
        owner.ok("DELETE", "/v1/computes/main@1", None)?["ran"],
        true
    );
    owner
        .call("GET", "/v1/computes/main@1", None)?
        .is_problem(404)?;
    assert_eq!(owner.ok("DELETE", "/v1/branches/y", None)?["name"], "y");
    owner.call("GET", "/v1/branches/y", None)?.is_problem(404)?;

    let rights =
        json!({ "name": "t", "rights": [{ "can": "read", "on": "ma*" }], "expires": "2d" });
    let made = owner.ok("POST", "/v1/tokens", Some(&rights))?;
    let token = made["token"].as_str().context("no token")?;
    // The place of what was made, which does not show the token again.
    let id = made["id"].as_str().context("no id")?;
    let seen = owner.ok("GET", &format!("/v1/tokens/{id}"), None)?;
    assert_eq!((&seen["name"], &seen["token"]), (&json!("t"), &Value::Null));
    owner
        .call("GET", "/v1/tokens/nobody", None)?
        .is_problem(404)?;
    let bearer = Caller::new(&project, Some(token))?;
    bearer.ok("GET", "/v1/branches/main", None)?;
    let listed = owner.ok("GET", "/v1/tokens", None)?;
    assert_eq!(
        (&listed[0]["name"], &listed[0]["token"]),
        (&json!("t"), &Value::Null)
    );
    owner
        .call("POST", "/v1/tokens", Some(&rights))?
        .is_problem(409)?;
    assert_eq!(
        owner.ok("DELETE", "/v1/tokens/t", None)?["state"],
        "revoked"
    );
    wait_until("the token to be refused", Duration::from_secs(5), || {
        Ok(bearer.call("GET", "/v1/branches/main", None)?.status == 401)
    })?;
    let rotated = owner.ok(
        "POST",
        "/v1/tokens/rotate",
        Some(&json!({ "drop_old": true })),
    )?;
    assert_eq!(rotated["dropped_keys"], 1);
    wait_until("the old key to be dropped", Duration::from_secs(5), || {
        Ok(owner.call("GET", "/v1/status", None)?.status == 401)
    })?;
    Caller::owner(&project)?.ok("GET", "/v1/status", None)?;
    Ok(())
}

/// Waits for the end of an operation.
fn ended(caller: &Caller, id: &str) -> Result<Value> {
    let operation = caller.ok("GET", &format!("/v1/operations/{id}?wait=60"), None)?;
    ensure!(operation["state"] != "running", "{operation}");
    Ok(operation)
}

#[test]
fn an_operation_goes_on_without_its_caller() -> Result<()> {
    let project = project()?;
    let owner = Caller::owner(&project)?;
    let begun = owner.call("POST", "/v1/computes/dev/start?wait=0", None)?;
    ensure!(
        begun.status == 202 && begun.body["state"] == "running",
        "{begun:?}"
    );
    let place = begun.headers["location"].to_str()?.to_owned();
    let id = begun.body["id"].as_str().context("no id")?;
    assert_eq!(place, format!("/v1/operations/{id}"));
    let done = ended(&owner, id)?;
    assert_eq!(
        (&done["state"], &done["on"]),
        (&json!("succeeded"), &json!("dev"))
    );
    assert_eq!(done["result"]["state"], "running");
    ensure!(
        done["progress"]
            .as_str()
            .is_some_and(|text| text.contains("dev")),
        "{done}"
    );

    // A caller that goes away.
    project.xylem(&["compute", "stop", "dev"])?;
    let request = owner.request("POST", "/v1/computes/dev/start")?;
    let gone = owner.send(request.timeout(Duration::from_millis(40)));
    ensure!(
        gone.is_err(),
        "a compute starts in less than 40 ms: {gone:?}"
    );
    wait_until("the start to end", Duration::from_secs(20), || {
        let all = owner.ok("GET", "/v1/operations", None)?;
        let all = all.as_array().context("no list")?;
        ensure!(all.iter().all(|operation| operation["result"].is_null()));
        let starts = all
            .iter()
            .filter(|o| o["on"] == "dev" && o["state"] == "succeeded");
        Ok(starts.count() == 2)
    })?;
    assert_eq!(project.compute_named("dev")?["state"], "running");

    // A repeated request.
    let with_key = |caller: &Caller, key: &str, name: &str| {
        let request = caller.request("POST", "/v1/branches")?;
        let request = request.header("idempotency-key", key);
        caller.send(request.json(&json!({ "name": name })))
    };
    let first = with_key(&owner, "k1", "once")?;
    let second = with_key(&owner, "k1", "once")?;
    assert_eq!(
        (first.status, second.status),
        (201, 201),
        "{first:?} {second:?}"
    );
    assert_eq!(first.body, second.body);
    let operation = |answer: &Answer| answer.headers.get("xylem-operation").cloned();
    assert_eq!(operation(&first), operation(&second));
    with_key(&owner, "k1", "other")?.is_problem(422)?;
    for bad in ["", "k 1", "\u{e9}", &"k".repeat(257)] {
        with_key(&owner, bad, "other")?.is_problem(400)?;
    }
    with_key(&owner, "k2", "once")?.is_problem(409)?;
    // A key is its caller's.
    let other = Caller::with_rights(&project, "other", &["--admin", "*"])?;
    with_key(&other, "k1", "once")?.is_problem(409)?;

    // The result is for the caller alone; others may know that something was done.
    let id = operation(&first).context("no operation")?;
    let path = format!("/v1/operations/{}", id.to_str()?);
    let own = owner.ok("GET", &path, None)?;
    assert_eq!(own["result"]["name"], "once");
    let reader = Caller::with_rights(&project, "reader", &["--read", "once"])?;
    let seen = reader.ok("GET", &path, None)?;
    assert_eq!(
        (&seen["state"], &seen["result"]),
        (&json!("succeeded"), &Value::Null)
    );
    let stranger = Caller::with_rights(&project, "stranger", &["--admin", "ci/*"])?;
    stranger.call("GET", &path, None)?.is_problem(404)?;
    assert_eq!(stranger.ok("GET", "/v1/operations", None)?, json!([]));
    Ok(())
}

#[test]
fn a_change_that_hangs_does_not_stop_others() -> Result<()> {
    let project = project()?;
    let owner = Caller::owner(&project)?;
    owner.ok("POST", "/v1/computes/dev/start", None)?;
    // Another command that does not end.
    let lock = std::fs::File::options()
        .write(true)
        .open(project.dir().join("lock"))?;
    lock.lock()?;
    let mut begun = Vec::new();
    for number in 0..8 {
        let body = json!({ "name": format!("b{number}") });
        let answer = owner.call("POST", "/v1/branches?wait=0", Some(&body))?;
        ensure!(answer.status == 202, "{answer:?}");
        begun.push(answer.body["id"].as_str().context("no id")?.to_owned());
    }
    let body = json!({ "name": "b8" });
    let answer = owner.call("POST", "/v1/branches?wait=0", Some(&body))?;
    ensure!(
        answer.is_problem(503)?.contains("too many operations"),
        "{answer:?}"
    );
    // One token's operations leave some to others, and looking takes no turn.
    let other = Caller::with_rights_while_locked(&project, "other")?;
    for path in [
        "/v1/status",
        "/v1/branches",
        "/v1/computes",
        "/v1/tokens",
        "/v1/operations",
    ] {
        other.ok("GET", path, None)?;
    }
    let killed = other.ok("POST", "/v1/computes/dev/kill", None)?;
    assert_eq!(killed["ran"], true);
    drop(lock);
    for id in begun {
        assert_eq!(ended(&owner, &id)?["state"], "succeeded");
    }
    Ok(())
}

impl Caller {
    /// The bearer of a token with all rights that is on no list: those are made under the
    /// project's lock.
    fn with_rights_while_locked(project: &Project, name: &str) -> Result<Caller> {
        let ring = Ring::open(&project.dir().join("keys"))?;
        let rights = vec![RightOn {
            can: Right::Admin,
            on: "*".parse().map_err(anyhow::Error::msg)?,
        }];
        let claims = ring.claims(name, rights, &Clock::system(), &Entropy::system())?;
        Caller::new(project, Some(&ring.sign(&claims)?))
    }
}

#[test]
fn a_request_that_is_no_http_or_no_tls_is_refused() -> Result<()> {
    use std::io::{Read, Write};
    let project = project()?;
    let address = address(&project)?.replace("https://localhost", "127.0.0.1");
    let mut stream = std::net::TcpStream::connect(&address)?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut said = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let _ = stream.read_to_end(&mut said);
    ensure!(
        !String::from_utf8_lossy(&said).contains("200"),
        "it speaks without TLS"
    );
    for (args, wanted) in [
        (
            &["--listen", "0.0.0.0:0", "--plaintext"][..],
            "does not listen",
        ),
        (&["--listen", "256.0.0.1:0"][..], "invalid"),
    ] {
        let out = project.try_xylem(&[&["api"], args].concat())?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{said}");
        ensure!(said.contains(wanted), "{said}");
    }
    let owner = Caller::owner(&project)?;
    let response = owner
        .runtime
        .block_on(owner.client.get(format!("{}/healthz", owner.base)).send())?;
    match response.status() {
        StatusCode::OK => Ok(()),
        other => bail!("{other}"),
    }
}

/// `xylem api` in the foreground, without TLS; ended on drop.
pub struct Plain(std::process::Child, pub String);

impl Plain {
    pub fn new(project: &Project) -> Result<Plain> {
        Plain::listening(project, "127.0.0.1:0")
    }

    pub fn listening(project: &Project, address: &str) -> Result<Plain> {
        use std::io::BufRead;
        let mut child = project
            .command(&["api", "--plaintext", "--listen", address])
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().context("no output")?;
        std::io::BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().trim_end_matches('.').rsplit(' ').next();
        let address = address.context("no address")?.to_owned();
        Ok(Plain(child, address))
    }

    /// Sends `head` and nothing more; the answer, and how long it took until the end.
    fn send(&self, head: &str) -> Result<(String, Duration)> {
        use std::io::{Read, Write};
        let began = std::time::Instant::now();
        let mut stream = std::net::TcpStream::connect(&self.1)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(head.as_bytes())?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said)?;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((said, began.elapsed()))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_client_that_sends_slowly_is_let_go_and_a_stranger_at_once() -> Result<()> {
    let project = project()?;
    let api = Plain::new(&project)?;
    let token = project.token()?.context("no token")?;
    let head = |token: &str| {
        format!(
            "POST /v1/branches HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             authorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: 100\r\n\r\n"
        )
    };
    // Without a valid token nobody waits for the body.
    let (said, took) = api.send(&head("nonsense"))?;
    ensure!(said.starts_with("HTTP/1.1 401"), "{said}");
    ensure!(took < Duration::from_secs(5), "{took:?}");
    let (slow_body, slow_head) = std::thread::scope(|scope| {
        let body = scope.spawn(|| api.send(&head(&token)));
        let head = scope.spawn(|| api.send("GET /v1/sta"));
        (body.join(), head.join())
    });
    let (said, took) = slow_body.map_err(|_| anyhow::anyhow!("a panic"))??;
    ensure!(said.starts_with("HTTP/1.1 408"), "{said}");
    ensure!(took < Duration::from_secs(20), "{took:?}");
    let (said, took) = slow_head.map_err(|_| anyhow::anyhow!("a panic"))??;
    ensure!(!said.contains("200"), "{said}");
    ensure!(took < Duration::from_secs(20), "{took:?}");
    Ok(())
}

#[test]
fn others_learn_that_an_operation_has_failed_and_not_why() -> Result<()> {
    let project = project()?;
    project.xylem(&["branch", "create", "secret"])?;
    let owner = Caller::owner(&project)?;
    let reader = Caller::with_rights(&project, "reader", &["--read", "dev"])?;
    let rename = |key: &str| -> Result<Answer> {
        let request = owner.request("PATCH", "/v1/branches/dev")?;
        let request = request.header("Idempotency-Key", key);
        owner.send(request.json(&json!({ "name": "secret" })))
    };
    let first = rename("one")?;
    ensure!(first.is_problem(409)?.contains("secret"), "{first:?}");
    let id = first
        .headers
        .get("xylem-operation")
        .context("no id")?
        .to_str()?;
    let seen = reader.ok("GET", &format!("/v1/operations/{id}"), None)?;
    assert_eq!(seen["state"], "failed");
    ensure!(!seen.to_string().contains("secret"), "{seen}");
    let all = reader.ok("GET", "/v1/operations", None)?;
    ensure!(
        all.to_string().contains(id) && !all.to_string().contains("secret"),
        "{all}"
    );
    let own = owner.ok("GET", &format!("/v1/operations/{id}"), None)?;
    ensure!(
        own["problem"]["detail"].to_string().contains("secret"),
        "{own}"
    );
    // What was in the way is gone. The same request still has its answer: it might have changed
    // something before it failed.
    project.xylem(&["branch", "rm", "secret", "--yes"])?;
    assert_eq!(rename("one")?.body, first.body);
    let again = rename("two")?;
    assert_eq!(again.status, 200, "{again:?}");
    Ok(())
}

#[test]
fn a_refusal_names_no_relatives_that_are_hidden() -> Result<()> {
    let project = project()?;
    for (name, from) in [("secret-child", "dev"), ("ci/1", "dev")] {
        project.xylem(&["branch", "create", name, "--from", from])?;
    }
    let admin = Caller::with_rights(&project, "admin", &["--admin", "dev", "--read", "ci/*"])?;
    let answer = admin.call("DELETE", "/v1/branches/dev", None)?;
    let detail = answer.is_problem(409)?;
    ensure!(
        detail.contains("ci/1, and 1 more that this token may not read")
            && !detail.contains("secret"),
        "{detail}"
    );
    let alone = Caller::with_rights(&project, "alone", &["--admin", "dev"])?;
    let answer = alone.call("DELETE", "/v1/branches/dev", None)?;
    let detail = answer.is_problem(409)?;
    ensure!(
        detail.contains("first: 2 that this token may not read") && !detail.contains("ci/"),
        "{detail}"
    );
    // Whoever may read them is told.
    let answer = Caller::owner(&project)?.call("DELETE", "/v1/branches/dev", None)?;
    let detail = answer.is_problem(409)?;
    ensure!(detail.contains("ci/1, secret-child"), "{detail}");
    Ok(())
}

#[test]
fn hints_are_for_the_caller_and_not_for_the_servers_shell() -> Result<()> {
    let project = project()?;
    project.xylem(&["up", "--detach", "--api", "off"])?;
    let dir = project.dir().to_str().context("the path is not UTF-8")?;
    let mut command = project.command(&["up", "--api", "on", "--detach", "--dir", dir]);
    let out = command.env_remove("XYLEM_DIR").output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let owner = Caller::owner(&project)?;
    for (method, path) in [
        ("DELETE", "/v1/tokens/nobody"),
        ("GET", "/v1/computes/dev"),
        ("GET", "/v1/branches/deb"),
    ] {
        let answer = owner.call(method, path, None)?;
        answer.is_problem(404)?;
        let hint = answer.body["hint"].as_str().unwrap_or_default();
        ensure!(
            hint.contains("xylem ") && !hint.contains("--dir"),
            "{method} {path}: {answer:?}"
        );
    }
    let body = json!({ "read_only": true });
    let answer = owner.call("POST", "/v1/computes/main@1/start", Some(&body))?;
    answer.is_problem(422)?;
    ensure!(!answer.body.to_string().contains("--dir"), "{answer:?}");
    Ok(())
}
