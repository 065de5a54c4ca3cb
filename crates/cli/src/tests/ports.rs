//! Choosing ports.

use super::kit::{me, project, state};
use crate::compute::record::{ComputeRecord, Phase};
use crate::failure::{describe, exit_status};
use crate::files::make_private_dir;
use crate::ports::{Choice, Wanted, is_free, listening_inodes, owner, reachable, was_taken};
use crate::role::{self, Role, RoleRecord};
use crate::server::Asked;
use crate::settings::{Ports, ServerPorts, Switch};
use std::net::{IpAddr, Ipv4Addr, TcpListener};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn choose(explicit: Option<u16>, preferred: u16, avoid: &[u16]) -> anyhow::Result<Choice> {
    Wanted {
        what: "the thing",
        flag: "--port",
        address: LOCAL,
        explicit,
        preferred,
    }
    .choose(avoid)
}

fn taken() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_default_that_is_taken_moves_on() {
    let (_listener, port) = taken();
    assert!(!is_free(LOCAL, port));
    let choice = choose(None, port, &[]).unwrap();
    assert!(choice.port > port);
    assert_eq!(choice.instead_of, Some(port));
}

#[test]
fn a_default_that_is_free_is_taken_unless_to_be_avoided() {
    // Another test may take the port in between: more than once is unlikely.
    let found = (0..5).any(|_| {
        let (listener, port) = taken();
        drop(listener);
        let choice = choose(None, port, &[]).unwrap();
        (choice.port, choice.instead_of) == (port, None)
    });
    assert!(found);
    let (listener, port) = taken();
    drop(listener);
    let choice = choose(None, port, &[port]).unwrap();
    assert_ne!(choice.port, port);
}

#[test]
fn an_explicit_port_that_is_taken_is_an_error_with_its_owner() {
    let (_listener, port) = taken();
    let error = choose(Some(port), 1, &[]).unwrap_err();
    let text = describe(&error);
    assert!(
        text.contains(&format!("port {port}")) && text.contains("the thing"),
        "{text}"
    );
    assert!(
        text.contains(&format!("pid {}", std::process::id())),
        "{text}"
    );
    assert!(text.contains("--port"), "{text}");
}

#[test]
fn the_owner_of_a_port_is_found() {
    let (listener, port) = taken();
    assert!(
        owner(port)
            .unwrap()
            .contains(&format!("pid {}", std::process::id()))
    );
    drop(listener);
    assert_eq!(owner(port), None);
}

#[test]
fn only_listeners_on_the_very_port_count() {
    let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1 0\n\
        1: 0100007F:0CEA 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0 0 4712 1 0\n\
        2: 0100007F:0CEB 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4713 1 0\n";
    assert_eq!(listening_inodes(table, 3306), [4711]);
    assert_eq!(listening_inodes(table, 1), [] as [u64; 0]);
}

#[test]
fn a_wildcard_is_reached_on_loopback() {
    assert_eq!(reachable("0.0.0.0".parse().unwrap()), LOCAL);
    assert_eq!(
        reachable("::".parse().unwrap()),
        "::1".parse::<IpAddr>().unwrap()
    );
    assert_eq!(
        reachable("10.1.2.3".parse().unwrap()),
        "10.1.2.3".parse::<IpAddr>().unwrap()
    );
}

#[test]
fn a_server_port_that_somebody_took_meanwhile_is_passed_over() {
    let (_listener, port) = taken();
    let os = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap_err();
    let log = format!(
        "2026-11-22T14:05:00Z ERROR cannot listen on 127.0.0.1:{port}: {os}; choose another port"
    );
    let other = port.wrapping_add(1);
    let asked = |grpc, http| Asked {
        address: LOCAL,
        kept: Ports {
            gateway_port: None,
            api_port: None,
            mysql_port: None,
            server: ServerPorts {
                grpc_port: Some(port),
                http_port: Some(other),
            },
        },
        grpc,
        http,
    };
    assert_eq!(asked(None, None).lost(&log, port, other), Some(port));
    assert_eq!(asked(None, None).lost(&log, other, port), Some(port));
    // One that was asked for has no substitute.
    assert_eq!(asked(Some(port), None).lost(&log, port, other), None);
    assert_eq!(asked(None, Some(port)).lost(&log, other, port), None);
    assert_eq!(asked(None, None).lost("it died", port, other), None);
    let chosen = asked(None, None).choose(&[port]).unwrap();
    let (grpc, http) = (chosen.grpc, chosen.http);
    assert_ne!(grpc.port, port);
    assert_eq!(grpc.instead_of, Some(port));
    assert!(http.port != port && http.port != grpc.port);
}

#[test]
fn the_gateway_takes_no_port_that_is_kept_for_something_else() {
    let (_dir, state) = state();
    let mut project = project();
    let (listener, first) = taken();
    drop(listener);
    project.ports = Ports {
        gateway_port: Some(first),
        api_port: Some(first + 5),
        mysql_port: Some(first),
        server: ServerPorts {
            grpc_port: Some(first + 1),
            http_port: Some(first + 2),
        },
    };
    // A compute that is stopped keeps its port.
    let dir = state.compute(&crate::compute::name::ComputeName::parse("dev").unwrap());
    make_private_dir(dir.root()).unwrap();
    let compute = ComputeRecord {
        branch: "dev".to_owned(),
        branch_id: "01".to_owned(),
        process: me(),
        phase: Phase::Stopped,
        bind: LOCAL,
        host: LOCAL.to_string(),
        port: first + 3,
        socket: "/s/mysql.sock".into(),
        user: "root".to_owned(),
        read_only: false,
        at_lsn: None,
        moment_of: None,
        epoch: 1,
        start_lsn: 12288,
        wake_at: None,
        globals: Vec::new(),
        log_from: 0,
    };
    compute.save(&dir).unwrap();
    let choice = role::choose(&state, Role::Gateway, &project, None, &[first + 4]).unwrap();
    assert!(choice.port > first + 5, "{choice:?}");
    assert_eq!(choice.instead_of, Some(first));
}

#[test]
fn a_port_that_the_gateway_cannot_have_is_refused_before_anything_starts() {
    let (_dir, state) = state();
    let mut project = project();
    let given = |gateway_port: u16, mysql_port: Option<u16>| Ports {
        gateway_port: Some(gateway_port),
        api_port: None,
        mysql_port,
        server: ServerPorts::default(),
    };
    let check = |project: &_, given: &_| role::check_port(&state, Role::Gateway, project, given);
    let (_listener, port) = taken();
    let error = check(&project, &given(port, None)).unwrap_err();
    assert!(describe(&error).contains("--gateway-port"), "{error:#}");
    let error = check(&project, &given(3306, Some(3306))).unwrap_err();
    assert_eq!(exit_status(&error), 2, "{error:#}");
    check(&project, &Ports::default()).unwrap();
    // One that runs has its port, and no other.
    let record = RoleRecord {
        process: me(),
        listen: (LOCAL, port).into(),
        stopped: false,
        log_from: 0,
    };
    record.save(&state, Role::Gateway).unwrap();
    check(&project, &given(port, None)).unwrap();
    let error = check(&project, &given(port.wrapping_add(1), None)).unwrap_err();
    assert!(describe(&error).contains("runs already"), "{error:#}");
    // Without a gateway its port is only kept.
    project.settings.gateway.gateway = Some(Switch::Off);
    check(&project, &given(port.wrapping_add(1), None)).unwrap();
}

#[test]
fn a_gateway_says_by_its_log_why_it_did_not_start() {
    let (_listener, port) = taken();
    let address = std::net::SocketAddr::new(LOCAL, port);
    let os = TcpListener::bind(address).unwrap_err();
    let log = format!("error: cannot listen on {address}: {os}\n  hint: choose another");
    assert!(was_taken(&log, address));
    assert!(!was_taken(&log, (LOCAL, port.wrapping_add(1)).into()));
    assert!(!was_taken(
        &role::listening(Role::Gateway, address),
        address
    ));
}
