//! Limits and listening of the API: connections, addresses, certificates.

use crate::api::{Caller, Plain, address, project};
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};
use xylem_e2e::{Project, wait_until};
use xylem_tls::authority::{self, Paths};

/// As many as the API takes at a time.
const CONNECTIONS: usize = 512;

#[test]
fn further_connections_are_closed_at_once() -> Result<()> {
    let project = project()?;
    let plain = Plain::new(&project)?;
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect(&plain.1)?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok(stream)
    };
    // True when the API has closed it, false when it waits for a request.
    let is_closed = |mut stream: &TcpStream| match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(connect()?);
    }
    for _ in 0..3 {
        ensure!(
            is_closed(&connect()?),
            "a connection above the limit is kept"
        );
    }
    let last = held.pop().context("no connection")?;
    last.set_read_timeout(Some(Duration::from_millis(200)))?;
    ensure!(!is_closed(&last), "one within the limit is closed");
    drop((last, held));
    wait_until("room for a connection", Duration::from_secs(20), || {
        let stream = connect()?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(!is_closed(&stream))
    })
}

/// The status of `/healthz` at `base` for a client that trusts `authority`.
fn health(base: &str, authority: &Path) -> Result<u16> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let pem = std::fs::read(authority)?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?)
        .build()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(client.get(format!("{base}/healthz")).send())?;
    Ok(answer.status().as_u16())
}

/// A project with an API whose `up` has further arguments.
fn with_args(args: &[&str]) -> Result<Project> {
    let project = Project::with(Vec::new(), args)?.with_api();
    project.up_in_place("16MiB")?;
    Ok(project)
}

#[test]
fn the_api_listens_beyond_loopback_if_it_is_told_to() -> Result<()> {
    let project = with_args(&["--api-bind", "0.0.0.0", "--tls-names", "127.0.0.7"])?;
    let authority = project.authority().context("no authority")?;
    let port = project.json(&["status"])?["api"]["port"].clone();
    let at = |host: &str| health(&format!("https://{host}:{port}"), &authority);
    for host in ["127.0.0.1", "127.0.0.7"] {
        assert_eq!(at(host)?, 200, "{host}");
    }
    // The certificate is not for every address.
    ensure!(at("127.0.0.9").is_err());
    // A token is needed there as well.
    Caller::new(&project, None)?
        .call("GET", "/v1/status", None)?
        .is_problem(401)?;
    project.xylem(&["up", "--detach", "--api", "off"])?;
    project.xylem(&["up", "--detach", "--api", "on", "--unset", "api-bind"])?;
    assert_eq!(at("127.0.0.1")?, 200);
    ensure!(
        at("127.0.0.7").is_err(),
        "it still listens beyond 127.0.0.1"
    );
    Ok(())
}

#[test]
fn the_api_takes_a_new_certificate_without_a_restart() -> Result<()> {
    let own = tempfile::tempdir()?;
    let made = |name: &str| -> Result<Paths> {
        let (dir, names) = (own.path().join(name), ["localhost".to_owned()]);
        authority::ensure(&dir, &names, &Clock::system(), &Entropy::system())?;
        Ok(Paths::in_dir(&dir))
    };
    let (first, second) = (made("first")?, made("second")?);
    let file = own.path().join("own.pem");
    std::fs::copy(&first.server, &file)?;
    let path = file.to_str().context("the path is not UTF-8")?;
    let project = with_args(&["--tls-cert", path])?;
    let base = address(&project)?;
    assert_eq!(health(&base, &first.authority)?, 200);
    ensure!(health(&base, &second.authority).is_err());
    let pid = project.json(&["status"])?["api"]["pid"].clone();
    let new = own.path().join("new.pem");
    std::fs::copy(&second.server, &new)?;
    std::fs::rename(&new, &file)?;
    wait_until("the new certificate", Duration::from_secs(20), || {
        Ok(health(&base, &second.authority).is_ok())
    })?;
    ensure!(health(&base, &first.authority).is_err());
    assert_eq!(project.json(&["status"])?["api"]["pid"], pid);
    Ok(())
}
