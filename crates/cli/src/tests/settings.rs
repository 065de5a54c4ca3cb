//! Settings: each is declared once, and has its flag, its place in the project
//! file and its way back to the default.

use super::kit::{project, state};
use crate::args::project::UpArgs;
use crate::args::{Cli, Command};
use crate::project::Project;
use crate::settings::{self, Ports, Settings};
use clap::{Args, CommandFactory, Parser};
use std::net::Ipv4Addr;
use std::time::Duration;
use xylem_server::config::ServerArgs;

/// A value of the argument `id`.
fn sample(id: &str) -> &'static str {
    match id {
        "object_store" => "file:///s",
        "wal_store" => "object",
        "page_size" => "32k",
        "wal_backup" | "history" | "suspend_after" => "36h",
        "bind" | "server_bind" | "gateway_bind" | "api_bind" => "0.0.0.0",
        "gateway" | "api" => "off",
        "gateway_domain" | "tls_names" => "db.example.com",
        "api_files" => "/srv",
        "tls_cert" | "tls_key" | "tls_client_ca" => "/own.pem",
        "memory" | "buffer_pool" | "page_cache" => "512M",
        "user" => "mysql",
        "mariadbd_args" => "--max-connections=10",
        port if port.ends_with("_port") => "3307",
        other => panic!("give a sample of the new setting {other}"),
    }
}

/// The ids of all arguments of `T`.
fn ids<T: Args>() -> Vec<String> {
    let command = T::augment_args(clap::Command::new("x"));
    command
        .get_arguments()
        .map(|arg| arg.get_id().to_string())
        .collect()
}

/// `up` with a sample of each argument of `T`.
fn up<T: Args>() -> Box<UpArgs> {
    let (mut words, mut last) = (vec!["xylem".to_owned(), "up".to_owned()], Vec::new());
    for id in ids::<T>() {
        let value = sample(&id).to_owned();
        if id == "mariadbd_args" {
            last.extend(["--".to_owned(), value]);
        } else {
            words.push(format!("--{}={value}", id.replace('_', "-")));
        }
    }
    let Command::Up(up) = Cli::try_parse_from(words.into_iter().chain(last))
        .unwrap()
        .command
    else {
        panic!("not up")
    };
    up
}

fn count<T: serde::Serialize>(settings: &T) -> usize {
    toml::Table::try_from(settings).unwrap().len()
}

#[test]
fn every_setting_is_kept_and_comes_back() {
    assert_eq!(count(&Settings::default()), 0);
    let (_dir, state) = state();
    let mut project = project();
    let given = up::<Settings>().settings;
    assert_eq!(count(&given), ids::<Settings>().len());
    project.settings = project.settings.with(&given).unwrap();
    assert_eq!(project.settings, given);
    project.ports = up::<Ports>().ports;
    project.save(&state).unwrap();
    assert_eq!(Project::load(&state).unwrap(), project);
    // What is not given now stays.
    let kept = given.with(&Settings::default()).unwrap();
    assert_eq!(kept, given);
}

#[test]
fn every_setting_that_can_change_can_be_unset() {
    let (settings, ports) = (up::<Settings>().settings, up::<Ports>().ports);
    let mut left = settings::names().len();
    let (mut settings, mut ports) = (settings, ports);
    let count_all = |all: &Settings, ports: &Ports| {
        let fixed = count(&all.store) + count(&all.format);
        count(all) - fixed + count(ports)
    };
    assert_eq!(count_all(&settings, &ports), left);
    for name in settings::names() {
        settings.server = settings::without(&settings.server, &name).unwrap();
        settings.listen = settings::without(&settings.listen, &name).unwrap();
        settings.compute = settings::without(&settings.compute, &name).unwrap();
        settings.gateway = settings::without(&settings.gateway, &name).unwrap();
        settings.api = settings::without(&settings.api, &name).unwrap();
        settings.sleep = settings::without(&settings.sleep, &name).unwrap();
        ports = settings::without(&ports, &name).unwrap();
        left -= 1;
        assert_eq!(count_all(&settings, &ports), left, "{name}");
    }
    assert!(settings::names().contains(&settings::GRPC_PORT.to_owned()));
}

#[test]
fn a_project_has_a_gateway_unless_told_otherwise() {
    let defaults = Settings::default();
    assert!(defaults.has_gateway());
    let off = up::<settings::GatewaySettings>().settings;
    assert!(!off.has_gateway());
    let unset = settings::without(&off.gateway, "gateway").unwrap();
    let back = Settings {
        gateway: unset,
        ..off
    };
    assert!(back.has_gateway());
    assert_eq!(back.gateway.gateway_domain.unwrap(), "db.example.com");
}

#[test]
fn computes_sleep_unless_somebody_may_need_their_own_ports() {
    const MINUTES: Option<Duration> = Some(Duration::from_secs(300));
    let new = project();
    assert_eq!(new.suspend_after("a"), MINUTES);
    let mut open = project();
    open.settings.compute.bind = Some(Ipv4Addr::UNSPECIFIED.into());
    assert_eq!(open.suspend_after("a"), None);
    // Where a setting says so, they sleep.
    open.suspend_after_of
        .insert("a".to_owned(), "1h".to_owned());
    assert_eq!(open.suspend_after("a"), Some(Duration::from_secs(3600)));
    assert_eq!(open.suspend_after("b"), None);
    open.settings.sleep.suspend_after = Some("5m".to_owned());
    assert_eq!(open.suspend_after("b"), MINUTES);
    open.settings.sleep.suspend_after = Some("0s".to_owned());
    assert_eq!(open.suspend_after("b"), None);

    // A project file of a version whose computes did not sleep.
    let file = toml::to_string(&project()).unwrap();
    let line = "sleep_by_default = true\n";
    assert!(file.contains(line), "{file}");
    let old: Project = toml::from_str(&file.replace(line, "")).unwrap();
    assert_eq!(old.suspend_after("a"), None);
}

#[test]
fn the_server_knows_the_flags_that_it_is_given() {
    let flags = up::<Settings>().settings.server_flags().unwrap();
    let stored = ids::<settings::StoreSettings>().len() + ids::<settings::ServerSettings>().len();
    assert_eq!(flags.len(), 2 * stored);
    let server = ServerArgs::augment_args(clap::Command::new("server"));
    server
        .try_get_matches_from(std::iter::once("server".into()).chain(flags))
        .unwrap();
    Cli::command().debug_assert();
}
