//! The ends of results that further ones of the same answer follow.
//!
//! MariaDB flushes there, behind which numbers of packets are those of compressed packets. A
//! driver may insist on it (the crate `mysql` does).

use crate::conversation::{
    CURSOR_EXISTS, ERR, Form, LOCAL_FILE, MORE_RESULTS, OK, PROGRESS, command, status_of_ok,
};
use crate::refusal::Refusal;

/// The next packet of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Results {
    /// No further result follows, or it is not known.
    #[default]
    Last,
    /// The first one of a result.
    First,
    /// Metadata of this many columns.
    Columns(u64),
    /// The one behind metadata.
    ColumnsEnd,
    Row,
}

impl Results {
    /// Those of a command.
    pub fn of(code: u8) -> Results {
        match code {
            command::QUERY | command::STMT_EXECUTE | command::STMT_BULK_EXECUTE => Results::First,
            _ => Results::Last,
        }
    }

    /// Goes on behind a packet of `count` bytes, which begins with `payload`. Whether it is the
    /// end of a result that another one follows.
    pub fn pass(&mut self, form: Form, payload: &[u8], count: usize) -> bool {
        let (next, is_end) = self.behind(form, payload, count).unwrap_or_default();
        *self = next;
        is_end
    }

    fn behind(self, form: Form, payload: &[u8], count: usize) -> Result<(Results, bool), Refusal> {
        let first = *payload.first().ok_or_else(Refusal::malformed)?;
        let end = |status: u16| match status & MORE_RESULTS {
            0 => (Results::Last, false),
            _ => (Results::First, true),
        };
        let columns_behind = |columns: u64| match columns {
            0 if form.metadata_end() => Results::ColumnsEnd,
            0 => Results::Row,
            columns => Results::Columns(columns),
        };
        Ok(match (self, first) {
            (Results::Last, _) => (self, false),
            (_, ERR) if payload.get(1..3) == Some(&PROGRESS) => (self, false),
            (_, ERR) => (Results::Last, false),
            (Results::First, OK) => end(status_of_ok(payload)?),
            (Results::First, LOCAL_FILE) => (self, false),
            (Results::First, _) => (columns_behind(Form::columns(payload)?), false),
            (Results::Columns(columns), _) => (columns_behind(columns - 1), false),
            (Results::ColumnsEnd, _) => match form.status_at_end(payload)? & CURSOR_EXISTS {
                0 => (Results::Row, false),
                // The rows are fetched by another command.
                _ => (Results::Last, false),
            },
            (Results::Row, _) if form.ends_list(first, count) => end(form.status_at_end(payload)?),
            (Results::Row, _) => (self, false),
        })
    }
}
