//! The server: locks, ports, health, metrics, branches that do not open, a graceful stop.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common::branch::{Reader, create, list, named, names, remove, reopen};
use crate::common::place::{Fate, MemPlace, Step};
use crate::common::redo::{bulky_mark, mark};
use crate::common::{Server, Writer, args, config, http_get, page, refused, with_database};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use xylem_pages::place::Place;
use xylem_proto::inspect::DiagnoseRequest;
use xylem_proto::inspect::inspect_client::InspectClient;
use xylem_proto::pageserver::{PageStreamRequest, PingRequest};

#[tokio::test]
async fn two_servers_on_one_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let refusal = Server::with(config(&args(dir.path())))
        .err()
        .unwrap()
        .to_string();
    assert!(
        refusal.contains(&format!("pid {}", std::process::id())),
        "{refusal}"
    );
    assert!(
        refusal.contains(&dir.path().display().to_string()),
        "{refusal}"
    );
    server.pages().await.ping(PingRequest {}).await.unwrap();
    server.stop();
    Server::start(dir.path()).stop();
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut grpc = args(&dir.path().join("a"));
    grpc.grpc_listen = Some(addr.to_string());
    let mut http = args(&dir.path().join("b"));
    http.http_listen = Some(addr.to_string());
    for (args, flag) in [(grpc, "--grpc-listen"), (http, "--http-listen")] {
        let refusal = Server::with(config(&args)).err().unwrap().to_string();
        assert!(
            refusal.contains(flag) && refusal.contains(&addr.to_string()),
            "{refusal}"
        );
    }
}

async fn health(server: &Server, service: &str) -> i32 {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    HealthClient::new(server.channel().await)
        .check(request)
        .await
        .unwrap()
        .into_inner()
        .status
}

#[tokio::test]
async fn a_stop_waits_for_streams_and_then_ends_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    let mut pages = server.pages().await;
    let (requests, receiver) = mpsc::channel::<PageStreamRequest>(4);
    let mut answers = pages
        .page_stream(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut watch = HealthClient::new(server.channel().await)
        .watch(HealthCheckRequest {
            service: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status,
        ServingStatus::Serving as i32
    );
    for service in ["", "pageserver.PageServer", "xylem.control.v1.Control"] {
        assert_eq!(
            health(&server, service).await,
            ServingStatus::Serving as i32
        );
    }
    assert_eq!(
        http_get(server.addrs.http, "/readyz").await,
        (200, "ready\n".to_owned())
    );

    let started = Instant::now();
    server.begin_stop();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status,
        ServingStatus::NotServing as i32
    );
    assert_eq!(
        http_get(server.addrs.http, "/readyz").await,
        (503, "server: stopping\n".to_owned())
    );
    assert_eq!(
        refused(pages.get_page(page(5, 3)).await).code(),
        Code::Unavailable
    );
    // A commit under way still becomes durable.
    writer.redo(mark(5, 3, 77)).await;
    writer.durable().await;
    let (seq, lsn) = (writer.seq, writer.lsn);
    assert_eq!(writer.end().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::Unavailable
    );
    server.join();
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "took {:?}",
        started.elapsed()
    );
    drop(requests);

    let server = Server::start(dir.path());
    let writer = Writer::open(&server, 1).await;
    assert_eq!((writer.seq, writer.lsn), (seq, lsn));
}

#[tokio::test]
async fn a_stop_without_streams_takes_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.stop_grace = Some("1m".to_owned());
    let server = Server::with(config(&args)).unwrap();
    let started = Instant::now();
    server.stop();
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "took {:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn metrics_say_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.wal_backup = Some("50ms".to_owned());
    let server = Server::with(config(&args)).unwrap();
    let (_, writer) = with_database(&server).await;
    let mut pages = server.pages().await;
    pages.get_page(page(5, 3)).await.unwrap();
    refused(pages.get_page(page(9, 3)).await);
    let (code, text) = http_get(server.addrs.http, "/metrics").await;
    assert_eq!(code, 200);
    let value = |name: &str| -> f64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in:\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let lsn = writer.lsn as f64;
    assert_eq!(value("xylem_durable_lsn{branch=\"main\"}"), lsn);
    assert_eq!(value("xylem_applied_lsn{branch=\"main\"}"), lsn);
    assert_eq!(value("xylem_ingest_lag_bytes{branch=\"main\"}"), 0.0);
    assert_eq!(value("xylem_epoch{branch=\"main\"}"), 1.0);
    assert_eq!(value("xylem_branch_up{branch=\"main\"}"), 1.0);
    assert_eq!(
        value("xylem_page_reads_total{branch=\"main\",result=\"not_found\"}"),
        1.0
    );
    assert!(value("xylem_page_read_seconds_count{branch=\"main\"}") >= 3.0);
    assert!(value("xylem_page_read_bytes_total{branch=\"main\"}") >= 32768.0);
    assert_eq!(value("xylem_wal_frames_total{branch=\"main\"}"), 6.0);
    assert!(value("xylem_wal_durable_seconds_count{branch=\"main\"}") >= 1.0);
    assert_eq!(value("xylem_streams{kind=\"wal\"}"), 1.0);
    assert_eq!(value("xylem_memory_budget_bytes"), f64::from(64 << 20));
    assert!(value("xylem_memory_used_bytes") > 0.0);
    assert!(value("xylem_wal_bytes{branch=\"main\"}") > 0.0);
    let lag = value("xylem_wal_backup_lag_seconds{branch=\"main\"}");
    assert!((0.0..10.0).contains(&lag), "{lag}");
    assert_eq!(
        value("xylem_ingest_bytes_total{branch=\"main\"}"),
        lsn - 12288.0
    );
    assert!(text.ends_with("# EOF\n"));
    // The documentation lists every metric, and no others.
    let book = include_str!("../../../../docs/metrics.md");
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(
            book.contains(&format!("`{name}")),
            "{name} is not in docs/metrics.md"
        );
    }
    // But for those of the gateway, which is another process.
    let names = book.split('`').filter(|word| word.starts_with("xylem_"));
    for name in names.filter(|name| !name.starts_with("xylem_gateway_")) {
        let name = name.split('{').next().unwrap();
        let base = name.trim_end_matches("_total");
        assert!(
            text.contains(&format!("# TYPE {base} ")),
            "{name} is in docs/metrics.md only"
        );
    }
}

/// The branches `main`, its child `dev` and its grandchild `leaf`, in a store in which the
/// manifests of `dev` are damaged. Returns a function that repairs them.
async fn damaged(dir: &std::path::Path) -> (MemPlace, impl Fn()) {
    let place = MemPlace::new();
    let server = Server::on(dir, place.shared());
    let (_, mut main) = with_database(&server).await;
    main.redo(mark(5, 3, 1)).await;
    main.durable().await;
    let dev = create(&server, "dev", "main").await;
    create(&server, "leaf", "dev").await;
    drop(main);
    server.stop();
    let prefix = format!("branches/{}/", dev.id);
    let manifests: Vec<_> = place
        .names()
        .into_iter()
        .filter(|name| name.starts_with(&prefix))
        .map(|name| (place.get(&name).unwrap(), name))
        .collect();
    assert!(!manifests.is_empty());
    for (_, name) in &manifests {
        place.set(name, b"damaged");
    }
    let mended = place.clone();
    (place, move || {
        for (bytes, name) in &manifests {
            mended.set(name, bytes);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_does_not_open_keeps_no_other_down() {
    let dir = tempfile::tempdir().unwrap();
    let (place, mend) = damaged(dir.path()).await;
    let server = Server::on(dir.path(), place.shared());
    assert_eq!(Reader::new(&server, "main").newest(5, 3, 0).await, 1);
    let attached = server.attach().await;
    Writer::open(&server, attached.epoch).await;

    // Every report shows it.
    let all = list(&server, false).await;
    for name in ["dev", "leaf"] {
        let branch = named(&all, name);
        assert_eq!(branch.state, "closed", "{branch:?}");
        assert!(!branch.trouble.is_empty(), "{branch:?}");
    }
    assert_eq!(named(&all, "main").state, "open");
    let (code, text) = http_get(server.addrs.http, "/readyz").await;
    assert_eq!(code, 503);
    assert!(text.contains("branch dev: it is not open"), "{text}");
    let (_, metrics) = http_get(server.addrs.http, "/metrics").await;
    for up in [
        "xylem_branch_up{branch=\"dev\"} 0",
        "xylem_branch_up{branch=\"main\"} 1",
    ] {
        assert!(metrics.contains(up), "{metrics}");
    }
    let mut inspect = InspectClient::new(server.channel().await);
    let health = inspect.diagnose(DiagnoseRequest::default()).await.unwrap();
    let health = health.into_inner().branches;
    let dev = health.iter().find(|b| b.branch == "dev").unwrap();
    assert!(dev.stopped.contains("not open"), "{dev:?}");
    // A compute must not take the branch for a removed one.
    let status = server.attach_to("dev").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");

    // Without a repair, the branch stays closed.
    let status = reopen(&server, "dev").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let status = reopen(&server, "leaf").await.unwrap_err();
    assert!(status.message().contains("reopen dev"), "{status:?}");
    mend();
    let dev = reopen(&server, "dev").await.unwrap();
    assert_eq!((dev.state.as_str(), dev.trouble.as_str()), ("open", ""));
    for name in ["dev", "leaf"] {
        assert_eq!(Reader::new(&server, name).newest(5, 3, 0).await, 1);
        server.attach_to(name).await.unwrap();
    }
    assert_eq!(http_get(server.addrs.http, "/readyz").await.0, 200);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_does_not_open_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (place, _) = damaged(dir.path()).await;
    let server = Server::on(dir.path(), place.shared());
    let status = remove(&server, "dev").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    for name in ["leaf", "dev"] {
        remove(&server, name).await.unwrap();
    }
    assert_eq!(names(&server).await, ["main"]);
    assert_eq!(place.folders("branches").unwrap().len(), 1);
    assert_eq!(http_get(server.addrs.http, "/readyz").await.0, 200);
    server.stop();
    Server::on(dir.path(), place.shared()).stop();
}

/// A working branch can be reopened as well: its compute reconnects and continues in the
/// same epoch, and so do the computes of its child branches.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_opened_again_under_its_computes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (attached, mut main) = with_database(&server).await;
    create(&server, "dev", "main").await;
    let on_dev = server.attach_to("dev").await.unwrap();
    let id = format!("id:{}", on_dev.branch_id);
    let mut dev = Writer::open_on(&server, &id, on_dev.epoch).await.unwrap();
    dev.lsn = on_dev.start_lsn;
    dev.redo(mark(5, 3, 5)).await;
    dev.durable().await;
    reopen(&server, "main").await.unwrap();
    for writer in [&mut main, &mut dev] {
        let status = writer.end().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    let mut again = Writer::open(&server, attached.epoch).await;
    assert_eq!((again.seq, again.lsn), (main.seq, main.lsn));
    again.redo(mark(5, 3, 2)).await;
    again.durable().await;
    let mut dev_again = Writer::open_on(&server, &id, on_dev.epoch).await.unwrap();
    assert_eq!((dev_again.seq, dev_again.lsn), (dev.seq, dev.lsn));
    dev_again.redo(mark(5, 3, 6)).await;
    dev_again.durable().await;
    let read = Reader::new(&server, "main").newest(5, 3, again.lsn).await;
    assert_eq!(read, 2);
    let read = Reader::new(&server, "dev")
        .newest(5, 3, dev_again.lsn)
        .await;
    assert_eq!(read, 6);
    drop((again, dev_again));
    server.stop();
}

/// An operator has put a copy of a branch into the folder of branches.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_branch_of_anybodys_is_left_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let place = MemPlace::new();
    let server = Server::on(dir.path(), place.shared());
    let id = list(&server, false).await[0].id.clone();
    server.stop();
    let gone = "0123456789abcdef0123456789abcdef";
    for folder in [&format!("{id}.bak"), gone] {
        place.set(&format!("branches/{folder}/manifest-1"), b"precious");
        std::fs::create_dir_all(dir.path().join("branches").join(folder)).unwrap();
    }
    let server = Server::on(dir.path(), place.shared());
    let mut inspect = InspectClient::new(server.channel().await);
    let health = inspect.diagnose(DiagnoseRequest::default()).await.unwrap();
    let strange = health.into_inner().strange;
    assert_eq!(strange.len(), 2, "{strange:?}");
    for path in &strange {
        assert!(path.ends_with(&format!("branches/{id}.bak")), "{path}");
    }
    server.stop();
    let mut folders = place.folders("branches").unwrap();
    folders.sort();
    assert_eq!(folders, [id.clone(), format!("{id}.bak")]);
    assert!(dir.path().join(format!("branches/{id}.bak")).exists());
    assert!(!dir.path().join("branches").join(gone).exists());
}

/// The store never answers a request. A stop does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_store_that_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let place = MemPlace::new();
    let hangs = Arc::new((Mutex::new(None), Condvar::new()));
    let hook = Arc::clone(&hangs);
    let mut server = Server::on(
        dir.path(),
        place
            .hooked(move |step| {
                let (state, changed) = &*hook;
                let mut state = state.lock().unwrap();
                if let (Step::Put(name), Some(_)) = (step, &*state)
                    && name.starts_with("project/")
                {
                    *state = Some(true);
                    changed.notify_all();
                    let _gone = changed.wait_while(state, |state| state.is_some()).unwrap();
                    return Fate::Fails;
                }
                Fate::Done
            })
            .shared(),
    );
    with_database(&server).await;
    let (state, changed) = &*hangs;
    *state.lock().unwrap() = Some(false);
    let mut control = server.control().await;
    let request = xylem_proto::control::CreateBranchRequest {
        name: "dev".to_owned(),
        ..Default::default()
    };
    let creating = tokio::spawn(async move { control.create_branch(request).await });
    tokio::task::block_in_place(|| {
        let state = state.lock().unwrap();
        let hanging = |state: &mut Option<bool>| *state != Some(true);
        drop(changed.wait_while(state, hanging).unwrap());
    });
    server.begin_stop();
    let stopped = tokio::task::spawn_blocking(move || server.join());
    let stopped = tokio::time::timeout(Duration::from_secs(90), stopped).await;
    // Before any assertion: the hanging thread would outlive a failed test.
    *state.lock().unwrap() = None;
    changed.notify_all();
    assert!(stopped.is_ok(), "the stop hangs");
    stopped.unwrap().unwrap();
    assert!(creating.await.unwrap().is_err());
}

/// Layers cannot be written, memory is full, and ingest does not move. A compute that
/// attaches would wait in vain, so the running compute is not fenced.
#[tokio::test(flavor = "multi_thread")]
async fn an_attach_that_cannot_succeed_fences_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let place = MemPlace::new();
    let full = Arc::new(AtomicBool::new(true));
    let hook = Arc::clone(&full);
    let place = place.hooked(move |step| match step {
        Step::Put(name) if name.ends_with(".layer") && hook.load(Ordering::SeqCst) => Fate::Fails,
        _ => Fate::Done,
    });
    let mut small = args(dir.path());
    small.memory = Some("32MiB".to_owned());
    small.open_layer_size = Some("1MiB".to_owned());
    let server = Server::try_on(config(&small), place.shared()).unwrap();
    let (_, mut main) = with_database(&server).await;
    for number in 0..8_000u32 {
        main.redo(bulky_mark(5, 4 + number % 32, number)).await;
        if number % 500 == 0 {
            main.durable().await;
        }
    }
    main.durable().await;
    let status = server.attach_to("main").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("was not fenced"), "{status:?}");
    main.redo(mark(5, 3, 9)).await;
    main.durable().await;
    full.store(false, Ordering::SeqCst);
    // Ingest continues by itself once there is memory again.
    let attached = loop {
        match server.attach_to("main").await {
            Ok(attached) => break attached,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    };
    assert!(attached.start_lsn >= main.lsn);
    main.end().await.unwrap_err();
    server.stop();
}

#[test]
fn a_server_can_be_a_task() {
    fn task<T: Send>(_: T) {}
    let config = config(&args(std::path::Path::new("never-made")));
    task(xylem_server::run(config, |_| {}, std::future::pending()));
}
