//! The gateway as a part of `xylem up`: its start, its ports, its death and its end.

use crate::gateway::furnish;
use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};
use xylem_e2e::{Project, free_ports, kill, wait_until};

/// A project with a gateway, the branches `main` and `dev`, and an account on both.
fn project() -> Result<Project> {
    let project = Project::new()?.with_gateway();
    project.up_in_place("16MiB")?;
    furnish(&project)?;
    Ok(project)
}

/// The gateway's part of `xylem status --json`.
fn status(project: &Project) -> Result<serde_json::Value> {
    Ok(project.json(&["status"])?["gateway"].take())
}

fn port(project: &Project) -> Result<u16> {
    let port = status(project)?["port"].as_u64().context("no port")?;
    Ok(u16::try_from(port)?)
}

fn pid(project: &Project) -> Result<i32> {
    let pid = status(project)?["pid"].as_i64().context("no pid")?;
    Ok(i32::try_from(pid)?)
}

fn connect(port: u16, user: &str, password: &str) -> Result<Conn> {
    let options = OptsBuilder::new()
        .ip_or_hostname(Some("127.0.0.1"))
        .tcp_port(port)
        .prefer_socket(false)
        .user(Some(user))
        .pass(Some(password));
    Ok(Conn::new(options)?)
}

fn branch_of(project: &Project, user: &str) -> Result<String> {
    let mut conn = connect(port(project)?, user, "pw")?;
    let name: Option<String> = conn.query_first("SELECT name FROM shop.here")?;
    name.context("the table is empty")
}

/// The verdict of the doctor's check `name`, and what it found.
fn verdict(project: &Project, name: &str) -> Result<(String, String)> {
    let out = project.try_xylem(&["doctor", "--json"])?;
    let report: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let checks = report["checks"].as_array().context("no checks")?;
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.with_context(|| format!("no check {name}"))?;
    let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
    Ok((text("verdict"), text("found")))
}

/// Runs `xylem ARGS`: whether it succeeded, and what it said.
fn said(project: &Project, args: &[&str]) -> Result<(bool, String)> {
    let out = project.try_xylem(args)?;
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((out.status.success(), said))
}

fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn up_brings_one_address_for_all_branches_and_down_ends_it() -> Result<()> {
    let project = project()?;
    for (user, branch) in [("app", "main"), ("app@dev", "dev")] {
        assert_eq!(branch_of(&project, user)?, branch);
    }
    // The account that `up` names.
    let password = project.login()?.password;
    connect(port(&project)?, "root@dev", &password)?;
    let (address, process) = (port(&project)?, pid(&project)?);
    let (_, text) = said(&project, &["status"])?;
    let line = format!("gateway   running, pid {process}, 127.0.0.1:{address}");
    ensure!(text.contains(&line), "{text}");
    assert_eq!(verdict(&project, "gateway")?.0, "ok");
    assert_eq!(verdict(&project, "private")?.0, "ok");

    // A further `up` says where it is, and changes nothing.
    let (fine, text) = said(&project, &["up", "--detach"])?;
    ensure!(
        fine && text.contains(&format!("port      {address}\n")),
        "{text}"
    );
    assert_eq!(pid(&project)?, process);

    // One that died is told of, and started again where it was.
    kill(process)?;
    assert_eq!(status(&project)?["state"], "crashed");
    let (found, why) = verdict(&project, "gateway")?;
    ensure!(found == "fail" && why.contains("died"), "{why}");
    project.start()?;
    assert_eq!(port(&project)?, address);
    assert_eq!(branch_of(&project, "app@dev")?, "dev");

    // Clients that are idle, and one that has said nothing yet.
    let process = pid(&project)?;
    let _idle = connect(address, "app", "pw")?;
    let _other = connect(address, "app@dev", "pw")?;
    let _silent = std::net::TcpStream::connect(("127.0.0.1", address))?;
    let began = Instant::now();
    let (fine, text) = said(&project, &["down"])?;
    ensure!(fine && text.contains("the gateway"), "{text}");
    ensure!(began.elapsed() < Duration::from_secs(10), "it took long");
    ensure!(is_gone(process), "the gateway goes on");
    assert_eq!(status(&project)?["state"], "stopped");
    project.start()?;
    assert_eq!(port(&project)?, address);
    Ok(())
}

#[test]
fn the_gateways_port_is_the_one_given_or_the_next_free_one() -> Result<()> {
    let project = Project::new()?.with_gateway();
    let ports = free_ports(3)?;
    let [mysql, grpc, http] = [0, 1, 2].map(|i| ports[i].to_string());
    let up = ["up", "--detach", "--buffer-pool", "16MiB"];
    let others = [
        "--mysql-port",
        &mysql,
        "--grpc-port",
        &grpc,
        "--http-port",
        &http,
    ];
    // It may be taken already.
    let _default = std::net::TcpListener::bind("127.0.0.1:3306");
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let given = taken.local_addr()?.port().to_string();
    let up_at = |port: &str| {
        said(
            &project,
            &[&up[..], &others, &["--gateway-port", port]].concat(),
        )
    };
    let (fine, text) = up_at(&given)?;
    ensure!(
        !fine && text.contains(&given) && text.contains("--gateway-port"),
        "{text}"
    );
    ensure!(project.compute().is_err(), "something was started");
    let (fine, text) = up_at(&mysql)?;
    ensure!(
        !fine && text.contains("--gateway-port and --mysql-port"),
        "{text}"
    );

    let (fine, text) = said(&project, &[&up[..], &others].concat())?;
    let next = "port 3306 is taken: the gateway uses ";
    ensure!(fine && text.contains(next), "{text}");
    let kept = port(&project)?;
    ensure!(kept > 3306, "{kept}");

    // Settings of one that runs are for its next start.
    let (fine, text) = up_at(&given)?;
    ensure!(
        !fine && text.contains("the gateway runs already, on"),
        "{text}"
    );
    let (fine, text) = said(
        &project,
        &["up", "--detach", "--gateway-domain", "example.com"],
    )?;
    ensure!(
        fine && text.contains("the gateway runs already: its new"),
        "{text}"
    );

    // The port of last time is tried first.
    project.xylem(&["down"])?;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", kept))?;
    let (fine, text) = said(&project, &up)?;
    let next = format!("port {kept} is taken: the gateway uses {}", port(&project)?);
    ensure!(fine && text.contains(&next), "{text}");
    Ok(())
}

#[test]
fn a_gateway_that_is_not_wanted_is_stopped_and_not_started() -> Result<()> {
    let project = Project::new()?;
    project.up_in_place("16MiB")?;
    assert_eq!(status(&project)?["state"], "stopped");
    let gateway_port = free_ports(1)?[0];
    let given = gateway_port.to_string();
    project.xylem(&[
        "up",
        "--gateway",
        "on",
        "--gateway-port",
        &given,
        "--detach",
    ])?;
    assert_eq!(port(&project)?, gateway_port);
    let process = pid(&project)?;
    let (fine, text) = said(&project, &["up", "--detach", "--gateway", "off"])?;
    ensure!(fine && text.contains("stopped the gateway"), "{text}");
    ensure!(is_gone(process), "the gateway goes on");
    assert_eq!(status(&project)?["state"], "stopped");
    assert_eq!(verdict(&project, "gateway")?.0, "ok");
    let (_, text) = said(&project, &["up", "--detach"])?;
    let compute = project.compute()?["port"].clone();
    ensure!(text.contains(&format!("port      {compute}\n")), "{text}");
    project.xylem(&["up", "--gateway", "on", "--detach"])?;
    assert_eq!(port(&project)?, gateway_port);
    Ok(())
}

#[test]
fn a_foreground_up_tells_of_its_gateway_and_takes_it_along() -> Result<()> {
    let project = project()?;
    let mut up = project
        .command(&["up"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut out = BufReader::new(up.stdout.take().context("a pipe")?).lines();
    let watches = out.any(|line| line.is_ok_and(|line| line.contains("Ctrl-C")));
    ensure!(watches, "xylem up ended");
    let mut notes = BufReader::new(up.stderr.take().context("a pipe")?).lines();
    let before = pid(&project)?;
    kill(before)?;
    let told = notes.any(|line| line.is_ok_and(|line| line.contains("the gateway (pid")));
    ensure!(told, "it said nothing");
    project.start()?;
    let (process, address) = (pid(&project)?, port(&project)?);
    ensure!(process != before);
    let _idle = connect(address, "app@dev", "pw")?;
    let began = Instant::now();
    let me = rustix::process::Pid::from_child(&up);
    rustix::process::kill_process(me, rustix::process::Signal::INT)?;
    ensure!(up.wait()?.success(), "Ctrl-C is an orderly end");
    ensure!(began.elapsed() < Duration::from_secs(10), "it took long");
    ensure!(is_gone(process), "the gateway goes on");
    wait_until("every port to close", Duration::from_secs(5), || {
        Ok(std::net::TcpStream::connect(("127.0.0.1", address)).is_err())
    })?;
    assert_eq!(status(&project)?["state"], "stopped");
    Ok(())
}
