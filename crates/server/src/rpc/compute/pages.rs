//! A connection for page reads.

use super::super::{control, pages};
use super::connection::{AtLast, Connection, End, Ender, receive};
use super::outbox::{Answer, Outbox};
use crate::metrics::StreamKind;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use xylem_proto::control::{GetTablespaceRequest, Tablespace};
use xylem_proto::pageserver::GetPageRequest;
use xylem_wire::{
    GetLog, GetPage, GetSpace, Invalid, Kind, Message, Received, Space, log, pong, space, welcome,
};

/// The largest number of answers that are made before the first one is sent.
const AT_ONCE: usize = 32;

/// Serves the connection until it ends.
pub(super) fn serve(mut connection: Connection) {
    let branch = Arc::clone(&connection.caller.branch);
    let _span = branch.span().entered();
    let ticket = connection.node.stream(StreamKind::pages, &branch);
    let outbox = Arc::new(Outbox::new(Arc::clone(&connection.channel), branch));
    let ended = ticket.end.clone();
    let _ender = Ender::of(connection.runtime.spawn({
        let (ended, outbox) = (ended.clone(), Arc::clone(&outbox));
        let end = AtLast(move || outbox.end());
        async move {
            let _end = end;
            ended.cancelled().await;
        }
    }));
    let mut answers = vec![Answer::Message(welcome(&connection.standing()))];
    let mut received = std::mem::take(&mut connection.received);
    let serving = Serving {
        // What is under way ends with the connection.
        gone: CancellationToken::new(),
        connection,
        outbox,
    };
    let _gone = serving.gone.clone().drop_guard();
    let end = loop {
        match serving.step(&mut received, &mut answers) {
            Ok(()) => {}
            Err(end) => break end,
        }
    };
    let why = match end {
        _ if ended.is_cancelled() => serving.connection.why_ended(),
        End::Refused(status) => status,
        End::Gone => return serving.outbox.break_off(),
    };
    serving.outbox.refuse(&why);
}

struct Serving {
    connection: Connection,
    outbox: Arc<Outbox>,
    gone: CancellationToken,
}

impl Serving {
    /// Answers the requests that have arrived, then waits for more.
    fn step(&self, received: &mut Received, answers: &mut Vec<Answer>) -> Result<(), End> {
        while let Some(message) = received.next()? {
            answers.extend(self.answer(&message)?);
            if answers.len() >= AT_ONCE && !self.outbox.send(answers) {
                return Err(End::Gone);
            }
        }
        if !self.outbox.send(answers) || !self.outbox.wait_for_room() {
            return Err(End::Gone);
        }
        receive(&self.connection.channel, received)
    }

    /// The answer, if it needs no wait. Otherwise it is sent when it is ready.
    fn answer(&self, message: &Message<'_>) -> Result<Option<Answer>, End> {
        let id = message.header.id;
        Ok(match message.header.kind {
            Kind::GetPage => self.page(id, &GetPage::decode(message.body)?),
            Kind::Ping => Some(Answer::Message(pong(id, &self.connection.standing()))),
            Kind::GetSpace => {
                self.space(id, &GetSpace::decode(message.body)?);
                None
            }
            Kind::GetLog => {
                self.log(id, GetLog::decode(message.body)?);
                None
            }
            other => return Err(Invalid::Unexpected(other).into()),
        })
    }

    fn page(&self, id: u64, get: &GetPage) -> Option<Answer> {
        let request = GetPageRequest {
            space_id: get.space_id,
            page_no: get.page_no,
            lsn: 0,
            min_lsn: get.min_lsn,
            timeout_ms: get.timeout_ms,
        };
        let Connection { node, caller, .. } = &self.connection;
        if let Some(outcome) = pages::get_page_now(node, caller, &request) {
            return Some(answer(id, outcome.map(|page| Answer::page(id, page))));
        }
        let (node, caller) = (Arc::clone(node), caller.clone());
        self.later(id, async move {
            let page = pages::get_page(&node, &caller, &request).await?;
            Ok(Answer::page(id, page))
        });
        None
    }

    fn space(&self, id: u64, get: &GetSpace) {
        let request = GetTablespaceRequest {
            space_id: get.space_id,
            min_lsn: get.min_lsn,
            no_pages: get.no_pages,
            ..GetTablespaceRequest::default()
        };
        let (node, caller) = (
            Arc::clone(&self.connection.node),
            self.connection.caller.clone(),
        );
        self.later(id, async move {
            let found = control::get_tablespace(&node, &caller, request).await?;
            Ok(Answer::Message(space(id, &file(found))))
        });
    }

    fn log(&self, id: u64, get: GetLog) {
        let (node, caller) = (
            Arc::clone(&self.connection.node),
            self.connection.caller.clone(),
        );
        self.later(id, async move {
            let bytes = control::get_log(&node, &caller, get).await?;
            Ok(Answer::Message(log(id, &bytes)))
        });
    }

    /// Answers request `id` when `work` is done.
    fn later(&self, id: u64, work: impl Future<Output = Result<Answer, Status>> + Send + 'static) {
        let (under_way, gone) = (self.outbox.begin(id), self.gone.clone());
        self.connection.runtime.spawn(async move {
            tokio::select! {
                biased;
                () = gone.cancelled() => {}
                outcome = work => under_way.finish(answer(id, outcome)),
            }
        });
    }
}

fn answer(id: u64, outcome: Result<Answer, Status>) -> Answer {
    outcome.unwrap_or_else(|status| Answer::failure(id, &status))
}

fn file(found: Tablespace) -> Space {
    let pages = found.pages.into_iter();
    Space {
        flags: found.flags,
        size: found.size,
        path: found.path,
        pages: pages
            .map(|page| (page.offset, page.data.to_vec()))
            .collect(),
    }
}
