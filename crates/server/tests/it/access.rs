//! Authorization: every call with tokens that allow it and with tokens that do not.

mod calls;

use crate::common::compute::{Door, Link, WAYS, reader, start, writer};
use crate::common::raw::first_answer;
use crate::common::{Server, http_get_as, with};
use bytes::Bytes;
use calls::{Call, Needs, calls};
use prost::Message;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tonic::{Code, Status};
use xylem_ambient::{Clock, Entropy};
use xylem_proto::control as c;
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::inspect as i;
use xylem_proto::pageserver as p;
use xylem_tokens::{Claims, Right, RightOn, Ring};
use xylem_wire::Hello;

/// A project's keys, and the tokens that they sign.
struct Keys {
    dir: PathBuf,
}

impl Keys {
    fn new(dir: &Path) -> Keys {
        let dir = dir.join("keys");
        Ring::create(&dir, &Entropy::system()).unwrap();
        Keys { dir }
    }

    fn claims(&self, rights: &[(Right, &str)]) -> Claims {
        let rights = rights.iter().map(|(can, on)| RightOn {
            can: *can,
            on: on.parse().unwrap(),
        });
        let ring = Ring::open(&self.dir).unwrap();
        let (clock, entropy) = (Clock::system(), Entropy::system());
        ring.claims("tester", rights.collect(), &clock, &entropy)
            .unwrap()
    }

    fn sign(&self, claims: &Claims) -> String {
        Ring::open(&self.dir).unwrap().sign(claims).unwrap()
    }

    fn token(&self, rights: &[(Right, &str)]) -> String {
        self.sign(&self.claims(rights))
    }
}

/// A server that wants tokens, with the branches main and dev, both with a database.
struct Guarded {
    keys: Keys,
    server: Server,
    door: Door,
    owner: String,
    audit: PathBuf,
    _dir: tempfile::TempDir,
}

impl Guarded {
    async fn start() -> Guarded {
        let dir = tempfile::tempdir().unwrap();
        let (keys, audit) = (Keys::new(dir.path()), dir.path().join("audit.log"));
        let (server, door) = start(&dir.path().join("data"), |args| {
            args.keys_dir = Some(keys.dir.display().to_string());
            args.audit_log = Some(audit.display().to_string());
        });
        let owner = keys.token(&[(Right::Admin, "*")]);
        let guarded = Guarded {
            keys,
            server,
            door,
            owner,
            audit,
            _dir: dir,
        };
        let empty = c::CreateBranchRequest {
            name: "dev".to_owned(),
            empty: true,
            ..Default::default()
        };
        guarded
            .call(
                "xylem.control.v1.Control/CreateBranch",
                &[],
                empty,
                &guarded.owner,
            )
            .await
            .unwrap();
        guarded
    }

    /// Makes any call with one message, and returns the first answer.
    async fn call(
        &self,
        method: &str,
        metadata: &[(&'static str, &str)],
        message: impl Message,
        token: &str,
    ) -> Result<Bytes, Status> {
        let message = Bytes::from(message.encode_to_vec());
        let mut metadata = metadata.to_vec();
        if !token.is_empty() {
            metadata.push(("xylem-token", token));
        }
        first_answer(&self.server, method, &metadata, message).await
    }

    async fn branches(&self, token: &str) -> Vec<String> {
        let method = "xylem.control.v1.Control/ListBranches";
        let message = c::ListBranchesRequest::default();
        let answer = self.call(method, &[], message, token).await.unwrap();
        let answer = c::ListBranchesResponse::decode(answer).unwrap();
        answer.branches.into_iter().map(|b| b.name).collect()
    }

    async fn attach(&self, branch: &str, token: &str) -> Result<c::AttachResponse, Status> {
        let mut control = ControlClient::new(self.server.channel().await);
        let metadata = [("xylem-branch", branch), ("xylem-token", token)];
        let attached = control.attach(with(c::AttachRequest {}, &metadata)).await?;
        Ok(attached.into_inner())
    }

    fn hello(&self, who: Hello, branch: &str, token: &str) -> Result<(), Code> {
        let who = Hello {
            branch: branch.to_owned(),
            token: token.to_owned(),
            ..who
        };
        let codes: Vec<Result<(), Code>> = WAYS
            .into_iter()
            .map(|way| {
                Link::open(&self.door, way, &who)
                    .map(|_| ())
                    .map_err(|(code, _)| code)
            })
            .collect();
        assert_eq!(codes[0], codes[1], "both ways are guarded alike");
        codes[0]
    }
}

impl Guarded {
    async fn outcome(&self, method: &str, call: &Call, token: &str) -> Code {
        let mut metadata = Vec::new();
        if call.in_metadata {
            metadata.push(("xylem-branch", "dev"));
        }
        if method.ends_with("StreamWAL") {
            metadata.push(("xylem-epoch", "1"));
        }
        if !token.is_empty() {
            metadata.push(("xylem-token", token));
        }
        let message = Bytes::copy_from_slice(&call.message);
        let first = first_answer(&self.server, method, &metadata, message);
        match tokio::time::timeout(Duration::from_secs(30), first).await {
            Ok(Ok(_)) => Code::Ok,
            Ok(Err(status)) => status.code(),
            Err(_) => panic!("{method} does not answer"),
        }
    }
}

#[tokio::test]
async fn no_call_is_made_without_a_valid_token() {
    let guarded = Guarded::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Keys::new(elsewhere.path()).token(&[(Right::Admin, "*")]);
    let mut ended = guarded.keys.claims(&[(Right::Admin, "*")]);
    ended.exp = Some(ended.iat - 31);
    let ended = guarded.keys.sign(&ended);
    let wrong = ["", "secret", &foreign, &ended, &guarded.owner[1..]];
    for (method, call) in calls() {
        for token in wrong {
            let code = guarded.outcome(method, &call, token).await;
            assert_eq!(code, Code::Unauthenticated, "{method} with {token:?}");
        }
    }
    for token in wrong {
        for branch in ["main", "dev", "none"] {
            let code = Err(Code::Unauthenticated);
            assert_eq!(guarded.hello(reader(), branch, token), code, "{token:?}");
            assert_eq!(guarded.hello(writer(1), branch, token), code, "{token:?}");
        }
        let (code, text) = http_get_as(guarded.server.addrs.http, "/metrics", token).await;
        assert_eq!(code, 401, "{text}");
    }
    let (code, text) = http_get_as(guarded.server.addrs.http, "/metrics", &guarded.owner).await;
    assert_eq!(code, 200, "{text}");
    let refused = wrong.len() * (calls().len() + 12);
    let line = format!("xylem_unauthenticated_total {refused}\n");
    assert!(text.contains(&line), "{text}");
    // Whether it lives and is ready is no secret.
    for path in ["/healthz", "/readyz"] {
        let (code, _) = http_get_as(guarded.server.addrs.http, path, "").await;
        assert_eq!(code, 200);
    }
}

#[tokio::test]
async fn every_call_needs_its_right_on_its_branch() {
    let guarded = Guarded::start().await;
    let keys = &guarded.keys;
    let rights = [Right::Read, Right::Write, Right::Admin];
    let on_dev: Vec<(Right, String)> = rights
        .into_iter()
        .map(|right| (right, keys.token(&[(right, "dev")])))
        .collect();
    let elsewhere = keys.token(&[(Right::Admin, "main"), (Right::Admin, "dev/*")]);
    let denied = Code::PermissionDenied;
    // What removes the branch comes last.
    let (last, rest): (Vec<_>, Vec<_>) = calls()
        .into_iter()
        .partition(|(method, _)| method.ends_with("RemoveBranch"));
    for (method, call) in rest.into_iter().chain(last) {
        for (right, token) in &on_dev {
            let code = guarded.outcome(method, &call, token).await;
            let allowed = match call.needs {
                Needs::Token => true,
                Needs::On(needed) => *right >= needed,
                Needs::OnAll(_) => false,
            };
            assert_eq!(
                code != denied,
                allowed,
                "{method}: {code:?} with {right} on dev"
            );
            assert_ne!(code, Code::Unauthenticated, "{method}");
        }
        if call.needs != Needs::Token {
            let code = guarded.outcome(method, &call, &elsewhere).await;
            assert_eq!(code, denied, "{method} with rights elsewhere");
        }
        if let Needs::OnAll(right) = call.needs {
            let token = keys.token(&[(right, "*")]);
            let code = guarded.outcome(method, &call, &token).await;
            assert_eq!(code, Code::Ok, "{method} with {right} on all");
        }
    }
    let dev = guarded.keys.token(&[(Right::Admin, "dev")]);
    let (code, _) = http_get_as(guarded.server.addrs.http, "/metrics", &dev).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn a_branch_out_of_reach_is_not_told_from_one_that_is_missing() {
    let guarded = Guarded::start().await;
    let token = guarded.keys.token(&[(Right::Read, "other")]);
    for name in ["dev", "missing", "id:00000000000000000000000000000000"] {
        let status = guarded.attach(name, &token).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{name}: {status:?}");
        let denied = Err(Code::PermissionDenied);
        assert_eq!(guarded.hello(reader(), name, &token), denied, "{name}");
    }
    assert_eq!(guarded.branches(&token).await, Vec::<String>::new());
    let token = guarded.keys.token(&[(Right::Read, "d*")]);
    assert_eq!(guarded.branches(&token).await, ["dev"]);
    assert_eq!(guarded.branches(&guarded.owner).await, ["dev", "main"]);
}

#[tokio::test]
async fn a_computes_token_is_for_its_branch_and_epoch() {
    let guarded = Guarded::start().await;
    let main = guarded.attach("main", &guarded.owner).await.unwrap();
    let dev = guarded.attach("dev", &guarded.owner).await.unwrap();
    let at = |attached: &c::AttachResponse| format!("id:{}", attached.branch_id);
    let denied = Err(Code::PermissionDenied);

    assert_eq!(
        guarded.hello(writer(dev.epoch), &at(&dev), &dev.token),
        Ok(())
    );
    let pages = Hello {
        epoch: dev.epoch,
        ..reader()
    };
    assert_eq!(guarded.hello(pages, &at(&dev), &dev.token), Ok(()));
    assert_eq!(
        guarded.hello(writer(main.epoch), &at(&main), &dev.token),
        denied
    );
    assert_eq!(guarded.hello(reader(), &at(&main), &dev.token), denied);
    assert_eq!(
        guarded.hello(writer(dev.epoch + 1), &at(&dev), &dev.token),
        denied
    );
    // Outside of its epoch it reads nothing, and it manages nothing.
    assert_eq!(guarded.hello(reader(), &at(&dev), &dev.token), denied);
    for (method, call) in calls() {
        let code = guarded.outcome(method, &call, &dev.token).await;
        let in_epoch = method.ends_with("StreamWAL");
        let allowed = in_epoch || method.ends_with("/Status");
        assert_eq!(
            code != Code::PermissionDenied,
            allowed,
            "{method}: {code:?}"
        );
    }
    let metadata = |epoch: u64| {
        [
            ("xylem-branch", at(&dev)),
            ("xylem-epoch", epoch.to_string()),
        ]
    };
    let layers = async |epoch: u64| {
        let metadata = metadata(epoch);
        let metadata: Vec<_> = metadata.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let method = "xylem.inspect.v1.Inspect/Layers";
        let answer = guarded.call(method, &metadata, i::LayersRequest {}, &dev.token);
        answer.await.map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(layers(dev.epoch).await, Ok(()));
    assert_eq!(layers(dev.epoch + 1).await, denied);
    // A later compute's epoch ends what it is good for.
    let next = guarded.attach("dev", &guarded.owner).await.unwrap();
    let late = guarded.hello(writer(dev.epoch), &at(&dev), &dev.token);
    assert_eq!(late, Err(Code::FailedPrecondition));
    assert_eq!(layers(dev.epoch).await, Err(Code::FailedPrecondition));
    assert_eq!(
        guarded.hello(writer(next.epoch), &at(&dev), &dev.token),
        denied
    );
    assert_eq!(
        guarded.hello(writer(next.epoch), &at(&dev), &next.token),
        Ok(())
    );
}

#[tokio::test]
async fn readers_run_and_end_their_own_computes() {
    let guarded = Guarded::start().await;
    let mut writer = {
        let attached = guarded.attach("main", &guarded.owner).await.unwrap();
        let id = format!("id:{}", attached.branch_id);
        crate::common::Writer::open_as(&guarded.server, &id, attached.epoch, &attached.token)
            .await
            .unwrap()
    };
    writer.redo(crate::common::redo::system_tablespace()).await;
    writer.durable().await;
    let token = guarded.keys.token(&[(Right::Read, "main")]);
    let metadata = [("xylem-token", token.as_str())];
    let mut control = ControlClient::new(guarded.server.channel().await);
    let request = c::CreateLeaseRequest {
        from: "main".to_owned(),
        at: None,
    };
    let lease = control
        .create_lease(with(request, &metadata))
        .await
        .unwrap()
        .into_inner();
    assert!(lease.name.starts_with("main@"), "{}", lease.name);
    let attached = guarded.attach(&lease.name, &token).await.unwrap();
    let at = format!("id:{}", attached.branch_id);
    let who = crate::common::compute::writer(attached.epoch);
    assert_eq!(guarded.hello(who, &at, &attached.token), Ok(()));
    let dev = guarded.keys.token(&[(Right::Admin, "dev")]);
    let remove = |token: &str| {
        let request = c::RemoveBranchRequest {
            name: lease.name.clone(),
        };
        with(request, &[("xylem-token", token)])
    };
    let status = control.remove_branch(remove(&dev)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    control.remove_branch(remove(&token)).await.unwrap();
    // A reader that did not get the answer asks again.
    let status = control.remove_branch(remove(&token)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");

    // A lease follows its branch to another name.
    let request = c::CreateLeaseRequest {
        from: "main".to_owned(),
        at: None,
    };
    let lease = control
        .create_lease(with(request, &metadata))
        .await
        .unwrap();
    let lease = lease.into_inner().name;
    let request = c::RenameBranchRequest {
        name: "main".to_owned(),
        new_name: "prod".to_owned(),
    };
    let owner = [("xylem-token", guarded.owner.as_str())];
    control.rename_branch(with(request, &owner)).await.unwrap();
    let status = guarded.attach(&lease, &token).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let token = guarded.keys.token(&[(Right::Read, "prod")]);
    guarded.attach(&lease, &token).await.unwrap();
    let request = c::RemoveBranchRequest { name: lease };
    let metadata = [("xylem-token", token.as_str())];
    control
        .remove_branch(with(request, &metadata))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_attached_with_a_token_ends_with_it() {
    let guarded = Guarded::start().await;
    let mut claims = guarded.keys.claims(&[(Right::Write, "dev")]);
    claims.exp = Some(claims.iat + 3600);
    let token = guarded.keys.sign(&claims);
    let dev = guarded.attach("dev", &token).await.unwrap();
    let ring = Ring::open(&guarded.keys.dir).unwrap();
    let own = ring.verify(&dev.token, &Clock::system()).unwrap();
    assert_eq!(
        (own.exp, own.parent.as_ref()),
        (claims.exp, Some(&claims.jti))
    );
    let at = format!("id:{}", dev.branch_id);
    assert_eq!(guarded.hello(writer(dev.epoch), &at, &dev.token), Ok(()));
    Ring::revoke(&guarded.keys.dir, &claims.jti).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while guarded.hello(writer(dev.epoch), &at, &dev.token) != Err(Code::Unauthenticated) {
        assert!(Instant::now() < until, "it is still admitted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn names_of_branches_out_of_reach_are_not_told() {
    let guarded = Guarded::start().await;
    let attached = guarded.attach("main", &guarded.owner).await.unwrap();
    let id = format!("id:{}", attached.branch_id);
    let mut writer =
        crate::common::Writer::open_as(&guarded.server, &id, attached.epoch, &attached.token)
            .await
            .unwrap();
    writer.redo(crate::common::redo::system_tablespace()).await;
    writer.durable().await;
    let create = c::CreateBranchRequest {
        name: "secret".to_owned(),
        from: "main".to_owned(),
        ..Default::default()
    };
    let method = "xylem.control.v1.Control/CreateBranch";
    let made = guarded.call(method, &[], create, &guarded.owner).await;
    let secret = c::Branch::decode(made.unwrap()).unwrap();
    let list = async |name: &str, token: &str| {
        let message = c::ListBranchesRequest {
            name: name.to_owned(),
            leases: false,
        };
        let method = "xylem.control.v1.Control/ListBranches";
        let answer = guarded.call(method, &[], message, token).await.unwrap();
        c::ListBranchesResponse::decode(answer).unwrap().branches
    };
    let of_main = guarded.keys.token(&[(Right::Read, "main")]);
    for name in ["", "main"] {
        let branches = list(name, &of_main).await;
        assert_eq!(branches.len(), 1);
        assert_eq!(branches[0].children, Vec::<String>::new());
    }
    assert_eq!(list("main", &guarded.owner).await[0].children, ["secret"]);
    let of_secret = guarded.keys.token(&[(Right::Read, "secret")]);
    let branches = list("secret", &of_secret).await;
    assert_eq!(
        (branches[0].parent.as_str(), branches[0].parent_id.as_str()),
        ("", "")
    );
    // Nor does a refusal translate an id.
    let status = guarded.attach(&format!("id:{}", secret.id), &of_main).await;
    let status = status.unwrap_err();
    assert!(!status.message().contains("secret"), "{status:?}");
}

#[tokio::test]
async fn a_caller_that_goes_away_is_in_the_log() {
    let guarded = Guarded::start().await;
    // Requests are on their way, and their answers are not waited for.
    for n in 0..200 {
        let attach = guarded.attach("dev", &guarded.owner);
        let wait = Duration::from_micros(20 * n);
        let _ = tokio::time::timeout(wait, attach).await;
    }
    let last = guarded.attach("dev", &guarded.owner).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let log = std::fs::read_to_string(&guarded.audit).unwrap();
    let lines = log
        .lines()
        .filter(|line| line.contains("\"Attach\""))
        .count();
    // Not fewer: a request that was cut off before it began has a line, too.
    assert!(lines as u64 >= last.epoch, "epoch {}: {log}", last.epoch);
}

#[tokio::test]
async fn keys_and_revocations_are_read_while_the_server_runs() {
    let guarded = Guarded::start().await;
    let keys = &guarded.keys;
    let claims = keys.claims(&[(Right::Read, "*")]);
    let token = keys.sign(&claims);
    assert_eq!(guarded.branches(&token).await.len(), 2);

    // A new key signs, and is known at once.
    let mut newer = token.clone();
    for _ in 0..10 {
        Ring::add_key(&keys.dir, &Entropy::system()).unwrap();
        newer = keys.token(&[(Right::Read, "*")]);
        assert_eq!(guarded.branches(&newer).await.len(), 2);
    }
    assert_eq!(guarded.branches(&token).await.len(), 2);

    let refused = async |token: &str| {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let call = &calls()["xylem.control.v1.Control/Status"];
            let method = "xylem.control.v1.Control/Status";
            match guarded.outcome(method, call, token).await {
                Code::Unauthenticated => return,
                code => assert!(Instant::now() < until, "still {code:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    Ring::revoke(&keys.dir, &claims.jti).unwrap();
    refused(&token).await;
    assert_eq!(guarded.branches(&newer).await.len(), 2);

    // Keys that cannot be read change nothing.
    std::fs::write(keys.dir.join("99.pem"), "no key").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(guarded.branches(&newer).await.len(), 2);
    refused(&token).await;
    std::fs::remove_file(keys.dir.join("99.pem")).unwrap();

    // What the old keys have signed ends with them.
    Ring::drop_old_keys(&keys.dir).unwrap();
    refused(&guarded.owner).await;
    assert_eq!(guarded.branches(&newer).await.len(), 2);
}

#[tokio::test]
async fn changes_are_logged_with_who_and_from_where() {
    let guarded = Guarded::start().await;
    let weak = guarded.keys.token(&[(Right::Read, "*")]);
    let method = "xylem.control.v1.Control/RemoveBranch";
    let call = &calls()[method];
    assert_eq!(
        guarded.outcome(method, call, &weak).await,
        Code::PermissionDenied
    );
    assert_eq!(
        guarded.outcome(method, call, &guarded.owner).await,
        Code::Ok
    );
    guarded.attach("main", &guarded.owner).await.unwrap();
    // Reads are not.
    guarded.branches(&guarded.owner).await;
    let text = std::fs::read_to_string(&guarded.audit).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<String> = lines
        .iter()
        .map(|line| format!("{} {} {}", line["call"], line["on"], line["outcome"]).replace('"', ""))
        .collect();
    assert_eq!(
        told,
        [
            "CreateBranch dev ok",
            "RemoveBranch dev PermissionDenied",
            "RemoveBranch dev ok",
            "Attach main ok"
        ]
    );
    for line in &lines {
        assert_eq!(line["who"], "tester");
        assert!(line["from"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert_eq!(line["token"].as_str().unwrap().len(), 16);
        assert!(line["time"].as_str().unwrap().contains('T'));
    }
    let said = lines[1]["message"].as_str().unwrap();
    assert!(
        said.contains("does not allow admin on branch dev"),
        "{said}"
    );
    assert!(!text.contains(&guarded.owner) && !text.contains(&weak));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&guarded.audit)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_body_is_not_read_before_the_token() {
    let guarded = Guarded::start().await;
    // Larger than a message may be: the side that decodes it reports that.
    let large = p::GetPagesRequest {
        pages: vec![
            p::GetPageRequest {
                space_id: u32::MAX,
                page_no: u32::MAX,
                lsn: u64::MAX,
                min_lsn: u64::MAX,
                ..Default::default()
            };
            1 << 20
        ],
    };
    let method = "pageserver.PageServer/GetPages";
    for (token, code) in [
        ("", Code::Unauthenticated),
        (guarded.owner.as_str(), Code::OutOfRange),
    ] {
        let metadata = [("xylem-branch", "main")];
        let refused = guarded.call(method, &metadata, large.clone(), token).await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
}

#[test]
fn a_server_does_not_start_without_the_keys_that_it_was_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = crate::common::args(dir.path());
    args.keys_dir = Some(dir.path().join("keys").display().to_string());
    let error = Server::with(crate::common::config(&args)).err().unwrap();
    assert!(error.to_string().contains("--keys-dir"), "{error}");
}
