//! The scripted server's side of a connection.

use super::script::{Frame, Refusal, Script, code};
use std::io::{ErrorKind, IoSlice};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use xylem_channel::{Channel, Wait};
use xylem_wire::{
    Fault, FrameHead, GetLog, GetPage, GetSpace, Hello, Kind, PREFACE_BYTES, Received, Role,
    Standing, ack, check_preface, fault, log, pong, space, welcome,
};

/// The pause after which the server looks whether its script has changed.
const TICK: Duration = Duration::from_millis(5);

#[derive(PartialEq)]
enum Got {
    Bytes,
    Nothing,
}

/// A connection. `None` of its methods means that it is over.
struct Connection {
    script: Arc<Mutex<Script>>,
    channel: Channel,
    received: Received,
}

pub fn serve(script: Arc<Mutex<Script>>, channel: Channel) {
    channel.socket().set_read_timeout(Some(TICK)).unwrap();
    let mut connection = Connection {
        script,
        channel,
        received: Received::default(),
    };
    let _over = connection.run();
}

impl Connection {
    fn run(&mut self) -> Option<()> {
        let hello = self.introduction()?;
        let role = hello.role;
        self.script.lock().unwrap().hellos.push(hello);
        while self.script.lock().unwrap().away {
            self.receive()?;
        }
        let refusal = self.script.lock().unwrap().status;
        if let Some(refusal) = refusal {
            return self.end(refusal);
        }
        match role {
            Role::Pages => self.pages(),
            Role::Redo => self.redo(),
        }
    }

    fn introduction(&mut self) -> Option<Hello> {
        while self.received.rest().len() < PREFACE_BYTES {
            self.receive()?;
        }
        let preface = self.received.rest().first_chunk().unwrap();
        check_preface(preface).unwrap();
        self.received.skip(PREFACE_BYTES);
        loop {
            if let Some(message) = self.received.next().unwrap() {
                assert_eq!(message.header.kind, Kind::Hello);
                return Some(Hello::decode(message.body).unwrap());
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Option<Got> {
        match self.channel.receive(self.received.room(), Wait::Yes) {
            Ok(0) => None,
            Ok(count) => {
                self.received.filled(count);
                Some(Got::Bytes)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Some(Got::Nothing)
            }
            Err(_) => None,
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let sent = self.channel.send(&[IoSlice::new(bytes)], Wait::Yes);
            bytes = &bytes[sent.ok()?..];
        }
        Some(())
    }

    fn end(&mut self, (code, message): Refusal) -> Option<()> {
        self.send(&fault(0, &Fault { code, message }));
        None
    }

    fn standing(&self) -> Standing {
        self.script.lock().unwrap().standing()
    }

    fn pages(&mut self) -> Option<()> {
        let number = {
            let mut script = self.script.lock().unwrap();
            script.page_connections.push(0);
            script.page_connections.len() - 1
        };
        self.send(&welcome(&self.standing()))?;
        let mut held: Vec<(u64, GetPage)> = Vec::new();
        let mut aside: Vec<(u64, GetPage)> = Vec::new();
        let mut group: Vec<Vec<u8>> = Vec::new();
        loop {
            if self.script.lock().unwrap().pause_pages {
                std::thread::sleep(TICK);
                continue;
            }
            let got = self.receive()?;
            if self.script.lock().unwrap().release_aside {
                held.append(&mut aside);
            }
            let end = self.script.lock().unwrap().page_end;
            if let Some(end) = end {
                return self.end(end);
            }
            while let Some((id, request)) = self.request() {
                match request {
                    Asked::Page(get) => {
                        let mut script = self.script.lock().unwrap();
                        script.page_requests.push(get);
                        script.page_connections[number] += 1;
                        let asked = script.page_connections[number];
                        if script.drop_pages_after.is_some_and(|after| asked > after) {
                            script.drop_pages_after = None;
                            drop(script);
                            return self.end((code::UNAVAILABLE, "stopping"));
                        }
                        if script.aside > 0 {
                            script.aside -= 1;
                            aside.push((id, get));
                        } else {
                            held.push((id, get));
                        }
                    }
                    Asked::Other(answer) => self.send(&answer)?,
                }
                self.answer(&mut held, &mut group, got == Got::Nothing)?;
            }
            self.answer(&mut held, &mut group, got == Got::Nothing)?;
        }
    }

    /// Answers the page reads that the script no longer holds back. Full groups go out
    /// in reverse order.
    fn answer(
        &mut self,
        held: &mut Vec<(u64, GetPage)>,
        group: &mut Vec<Vec<u8>>,
        all: bool,
    ) -> Option<()> {
        let size = {
            let mut script = self.script.lock().unwrap();
            if script.silent || script.away {
                // They are never answered.
                held.clear();
                return Some(());
            }
            held.retain(|(id, get)| {
                let keep = script.held.contains(&get.page_no);
                if !keep {
                    group.push(script.answer(*id, get));
                }
                keep
            });
            script.reverse.max(1)
        };
        while group.len() >= size || (all && !group.is_empty()) {
            let count = size.min(group.len());
            for answer in group.drain(..count).rev() {
                self.send(&answer)?;
                self.script.lock().unwrap().page_answers += 1;
            }
        }
        Some(())
    }

    fn request(&mut self) -> Option<(u64, Asked)> {
        loop {
            let message = self.received.next().unwrap()?;
            let (id, body) = (message.header.id, message.body);
            let asked = match message.header.kind {
                Kind::GetPage => Asked::Page(GetPage::decode(body).unwrap()),
                Kind::Ping => {
                    let mut script = self.script.lock().unwrap();
                    script.pings += 1;
                    if script.away {
                        continue;
                    }
                    Asked::Other(match script.status {
                        Some((code, message)) => fault(id, &Fault { code, message }),
                        None => pong(id, &script.standing()),
                    })
                }
                Kind::GetSpace => {
                    let get = GetSpace::decode(body).unwrap();
                    let answer = tablespace(&mut self.script.lock().unwrap(), id, &get);
                    Asked::Other(answer)
                }
                Kind::GetLog => {
                    let get = GetLog::decode(body).unwrap();
                    Asked::Other(log_bytes(&mut self.script.lock().unwrap(), id, &get))
                }
                other => panic!("a message of kind {other:?} for pages"),
            };
            return Some((id, asked));
        }
    }

    fn redo(&mut self) -> Option<()> {
        let (refusal, limit) = {
            let mut script = self.script.lock().unwrap();
            script.streams += usize::from(script.wal_status.is_none());
            let drops = &mut script.drop_wal_after;
            let limit = (!drops.is_empty()).then(|| drops.remove(0));
            (script.wal_status, limit)
        };
        if let Some(refusal) = refusal {
            return self.end(refusal);
        }
        let standing = self.standing();
        self.send(&welcome(&standing))?;
        let mut last = standing.ack;
        loop {
            if self.script.lock().unwrap().pause_redo {
                std::thread::sleep(TICK);
                continue;
            }
            self.receive()?;
            self.frames(limit)?;
            let (refusal, now) = {
                let script = self.script.lock().unwrap();
                let held = script.hold_acks || script.away;
                (script.wal_status, (!held).then(|| script.ack()))
            };
            if let Some(refusal) = refusal {
                return self.end(refusal);
            }
            if let Some(now) = now
                && now != last
            {
                self.send(&ack(&now))?;
                last = now;
            }
        }
    }

    fn frames(&mut self, limit: Option<usize>) -> Option<()> {
        while let Some(message) = self.received.next().unwrap() {
            assert_eq!(message.header.kind, Kind::Frame);
            let (head, _) = FrameHead::decode(message.body).unwrap();
            let frame = Frame {
                seq: message.header.id,
                start_lsn: head.start_lsn,
                kind: head.kind,
                body: message.body.to_vec(),
            };
            let mut script = self.script.lock().unwrap();
            if script.refuses(&frame) {
                // The acknowledgement and the fault arrive together.
                let before = ack(&script.ack());
                drop(script);
                self.send(&before)?;
                return self.end((code::DATA_LOSS, "frame was damaged"));
            }
            script.accept(frame);
            if limit.is_some_and(|limit| script.frames.len() + script.resent >= limit) {
                // The frame is durable, but the acknowledgement is lost.
                return None;
            }
        }
        Some(())
    }
}

enum Asked {
    Page(GetPage),
    /// Any other request, with its answer.
    Other(Vec<u8>),
}

fn log_bytes(script: &mut Script, id: u64, get: &GetLog) -> Vec<u8> {
    script.log_requests.push(*get);
    match script.logs.get(&get.number) {
        Some(file) => {
            let rest = file.get(get.offset as usize..).unwrap_or_default();
            log(id, &rest[..rest.len().min(get.length as usize)])
        }
        None => {
            let message = &format!("no file {} of the log", get.number);
            let code = code::NOT_FOUND;
            fault(id, &Fault { code, message })
        }
    }
}

fn tablespace(script: &mut Script, id: u64, get: &GetSpace) -> Vec<u8> {
    script.tablespace_requests.push(*get);
    let refusal = match script.status {
        None if script.tablespace_statuses.is_empty() => None,
        None => Some(script.tablespace_statuses.remove(0)),
        status => status,
    };
    if let Some((code, message)) = refusal {
        return fault(id, &Fault { code, message });
    }
    match script.tablespaces.get(&get.space_id) {
        Some(file) => space(id, file),
        None => {
            let message = &format!("no tablespace {}", get.space_id);
            let code = code::NOT_FOUND;
            fault(id, &Fault { code, message })
        }
    }
}
