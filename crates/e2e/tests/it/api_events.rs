//! The stream of events of the API.

use crate::api::{Caller, project};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use xylem_e2e::Project;

/// How long an event may take to come.
const SOON: Duration = Duration::from_secs(10);

/// A listener to the stream.
struct Listener<'a> {
    caller: &'a Caller,
    response: reqwest::Response,
    read: String,
}

#[derive(Debug, Default)]
struct Event {
    id: Option<u64>,
    kind: String,
    data: Value,
}

impl<'a> Listener<'a> {
    fn new(caller: &'a Caller, last: Option<&str>) -> Result<Listener<'a>> {
        let mut request = caller.request("GET", "/v1/events")?;
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = caller.runtime.block_on(request.send())?;
        ensure!(response.status() == 200, "{response:?}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Listener {
            caller,
            response,
            read: String::new(),
        })
    }

    /// The next event within `limit`; `None`: the stream has ended.
    fn next(&mut self, limit: Duration) -> Result<Option<Event>> {
        let (read, response) = (&mut self.read, &mut self.response);
        let next = async {
            loop {
                if let Some((event, rest)) = read.split_once("\n\n") {
                    let event = event.to_owned();
                    *read = rest.to_owned();
                    if event.lines().all(|line| line.starts_with(':')) {
                        continue;
                    }
                    return anyhow::Ok(Some(event));
                }
                match response.chunk().await {
                    Ok(Some(chunk)) => read.push_str(std::str::from_utf8(&chunk)?),
                    Ok(None) | Err(_) => return Ok(None),
                }
            }
        };
        let runtime = &self.caller.runtime;
        let next = runtime.block_on(async { tokio::time::timeout(limit, next).await });
        let Some(text) = next.context("no event came")?? else {
            return Ok(None);
        };
        let mut event = Event::default();
        for line in text.lines() {
            match line
                .split_once(':')
                .map(|(name, value)| (name, value.trim()))
            {
                Some(("id", id)) => event.id = Some(id.parse()?),
                Some(("event", kind)) => event.kind = kind.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data)?,
                _ => {}
            }
        }
        Ok(Some(event))
    }

    /// Reads up to the event that `wanted` takes.
    fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        let mut before = Vec::new();
        loop {
            let next = self.next(SOON).with_context(|| format!("{before:#?}"))?;
            let event = next.context("the stream has ended")?;
            ensure!(
                event.id.is_none() || before.last().is_none_or(|last: &Event| last.id < event.id),
                "ids do not increase: {before:?} {event:?}"
            );
            if wanted(&event) {
                return Ok(event);
            }
            before.push(event);
        }
    }

    fn until_branch(&mut self, happened: &str, name: &str) -> Result<Event> {
        self.until(|event| {
            event.kind == "branch"
                && event.data["happened"] == happened
                && event.data["name"] == name
        })
    }
}

#[test]
fn who_listens_is_told_of_all_changes() -> Result<()> {
    let project = project()?;
    let owner = Caller::owner(&project)?;
    let mut listener = Listener::new(&owner, None)?;
    // By a command on this machine.
    project.xylem(&["branch", "create", "one"])?;
    listener.until_branch("created", "one")?;
    project.xylem(&["branch", "set", "one", "--suspend-after", "5m"])?;
    let event = listener.until_branch("changed", "one")?;
    assert_eq!(event.data["suspend_after"], "5m");
    project.xylem(&["branch", "rename", "one", "two"])?;
    let event = listener.until_branch("changed", "two")?;
    assert_eq!(event.data["renamed_from"], "one");
    project.xylem(&["compute", "start", "two"])?;
    let is = |event: &Event, state: &str| {
        event.kind == "compute" && event.data["name"] == "two" && event.data["state"] == state
    };
    listener.until(|event| is(event, "running"))?;
    // By the API: also the operation.
    let begun = owner.call("POST", "/v1/computes/two/stop", None)?;
    ensure!(begun.body["ran"] == true, "{begun:?}");
    listener.until(|event| event.kind == "operation" && event.data["state"] == "running")?;
    let done =
        listener.until(|event| event.kind == "operation" && event.data["state"] == "succeeded")?;
    assert_eq!(
        (&done.data["on"], &done.data["result"]),
        (&json!("two"), &Value::Null)
    );
    listener.until(|event| is(event, "stopped"))?;
    project.xylem(&["branch", "rm", "two", "--yes"])?;
    let last = listener.until_branch("removed", "two")?;

    // A listener that comes back has missed nothing; one that is new gets no old news.
    drop(listener);
    project.xylem(&["branch", "create", "three"])?;
    let last = last.id.context("no id")?.to_string();
    let mut back = Listener::new(&owner, Some(&last))?;
    let event = back.until_branch("created", "three")?;
    drop(back);
    project.xylem(&["branch", "create", "four"])?;
    let mut new = Listener::new(&owner, None)?;
    project.xylem(&["branch", "create", "five"])?;
    let first = new.until(|event| event.kind == "branch")?;
    assert_eq!(first.data["name"], "five");
    drop(new);
    let mut back = Listener::new(&owner, Some(&event.id.context("no id")?.to_string()))?;
    back.until_branch("created", "four")?;
    back.until_branch("created", "five")?;
    drop(back);
    // What nobody knows any more is said to be missed.
    for last in ["1", "nonsense", "99999999999999999"] {
        let event = Listener::new(&owner, Some(last))?.next(SOON)?;
        assert_eq!(event.context("no event")?.kind, "reset", "{last}");
    }
    Ok(())
}

/// Creates and removes `name`, of which `listener` must not be told, then `mine`.
fn change(project: &Project, names: &[&str]) -> Result<()> {
    for name in names {
        project.xylem(&["branch", "create", name])?;
        project.xylem(&["compute", "start", name])?;
    }
    Ok(())
}

#[test]
fn a_listener_is_told_of_its_tokens_branches_and_while_it_is_valid() -> Result<()> {
    let project = project()?;
    let ci = Caller::with_rights(&project, "ci", &["--read", "ci/*"])?;
    let owner = Caller::owner(&project)?;
    let mut listener = Listener::new(&ci, None)?;
    change(&project, &["secret"])?;
    owner.ok("POST", "/v1/computes/secret/stop", None)?;
    owner.ok(
        "POST",
        "/v1/tokens",
        Some(&json!({ "name": "x", "rights": [{ "can": "read", "on": "*" }] })),
    )?;
    change(&project, &["ci/1"])?;
    let first = listener.next(SOON)?.context("the stream has ended")?;
    assert_eq!(first.data["name"], "ci/1", "{first:?}");
    // From a hidden name to one that is not: the old name stays hidden.
    project.xylem(&["branch", "rename", "secret", "ci/2"])?;
    let renamed = listener.until_branch("created", "ci/2")?;
    assert_eq!(renamed.data["renamed_from"], Value::Null);
    // And back: for this listener it is gone, whatever its name is now.
    project.xylem(&["branch", "rename", "ci/2", "secret"])?;
    let gone = listener.until_branch("removed", "ci/2")?;
    ensure!(!gone.data.to_string().contains("secret"), "{gone:?}");
    project.xylem(&["token", "revoke", "ci"])?;
    while listener.next(SOON)?.is_some() {}
    Ok(())
}

#[test]
fn the_streams_end_with_the_api_and_are_few() -> Result<()> {
    let project = project()?;
    let owner = Caller::owner(&project)?;
    let mut listeners = Vec::new();
    for _ in 0..16 {
        listeners.push(Listener::new(&owner, None)?);
    }
    let refused = owner.call("GET", "/v1/events", None)?;
    ensure!(
        refused.is_problem(503)?.contains("too many listeners"),
        "{refused:?}"
    );
    let other = Caller::with_rights(&project, "other", &["--read", "main"])?;
    listeners.push(Listener::new(&other, None)?);
    // One that went away makes room.
    drop(listeners.remove(0));
    xylem_e2e::wait_until(
        "room for a listener",
        Duration::from_secs(10),
        || match Listener::new(&owner, None) {
            Ok(listener) => {
                listeners.push(listener);
                Ok(true)
            }
            Err(_) => Ok(false),
        },
    )?;
    project.xylem(&["up", "--detach", "--api", "off"])?;
    for mut listener in listeners {
        while listener.next(SOON)?.is_some() {}
    }
    Ok(())
}
