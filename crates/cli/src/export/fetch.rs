//! Fetches tablespaces into files: several requests at once, while a thread of
//! its own checks and writes the pages.

use super::target::cannot_write;
use crate::control::pages::Pages;
use crate::meter::Meter;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use xylem_proto::pageserver::GetPageResponse;
use xylem_redo::{SpaceFlags, verify};
use xylem_types::PageId;

/// Bytes of pages in one request.
const BATCH_BYTES: usize = 1 << 20;
/// Requests under way.
const REQUESTS: usize = 8;
/// Answers that wait to be written.
const ANSWERS_AHEAD: usize = 8;

/// A tablespace and the file it goes to.
#[derive(Debug)]
pub struct Space {
    /// Its id.
    pub id: u32,
    /// Its flags.
    pub flags: SpaceFlags,
    /// Its size in pages.
    pub pages: u32,
    /// The file, of its full size.
    pub path: PathBuf,
}

/// A tablespace whose pages come, its file open for as long.
struct Open {
    space: Space,
    file: File,
}

/// Counts of what was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Pages that are not all zeros.
    pub pages: u64,
    /// Bytes of them.
    pub bytes: u64,
}

struct Answer {
    to: Arc<Open>,
    first: u32,
    pages: Vec<GetPageResponse>,
}

/// Fetches all pages of `spaces`.
///
/// # Errors
/// When the server fails, sends a page that is not valid, or a file cannot be
/// written.
pub async fn fetch(from: &Pages, spaces: Vec<Space>, meter: &Arc<Meter>) -> Result<Written> {
    let (to, answers) = mpsc::channel(ANSWERS_AHEAD);
    let writing = {
        let meter = Arc::clone(meter);
        tokio::task::spawn_blocking(move || write(answers, &meter))
    };
    let asked = ask(from, spaces, to).await;
    let written = writing.await.context("writing ended early")?;
    // A writer that gave up is why nobody takes the answers.
    let written = written?;
    asked?;
    Ok(written)
}

async fn ask(from: &Pages, spaces: Vec<Space>, to: mpsc::Sender<Answer>) -> Result<()> {
    let mut under_way: JoinSet<Result<Answer>> = JoinSet::new();
    for space in spaces {
        let file = File::options()
            .write(true)
            .open(&space.path)
            .map_err(|e| cannot_write(&space.path, e))?;
        let open = Arc::new(Open { space, file });
        let space = &open.space;
        let batch = BATCH_BYTES / space.flags.physical_page_size();
        let batch = u32::try_from(batch).unwrap_or(1).clamp(1, 256);
        let mut first = 0;
        while first < space.pages {
            if under_way.len() >= REQUESTS {
                pass_on(&mut under_way, &to).await?;
            }
            let count = batch.min(space.pages - first);
            let (from, to) = (from.clone(), Arc::clone(&open));
            under_way.spawn(async move {
                let pages = from.get(to.space.id, first, count).await?;
                Ok(Answer { to, first, pages })
            });
            first += count;
        }
    }
    while !under_way.is_empty() {
        pass_on(&mut under_way, &to).await?;
    }
    Ok(())
}

async fn pass_on(under_way: &mut JoinSet<Result<Answer>>, to: &mpsc::Sender<Answer>) -> Result<()> {
    if let Some(done) = under_way.join_next().await {
        let answer = done.context("a request ended early")??;
        if to.send(answer).await.is_err() {
            bail!("writing has ended");
        }
    }
    Ok(())
}

fn write(mut answers: mpsc::Receiver<Answer>, meter: &Meter) -> Result<Written> {
    let mut written = Written::default();
    while let Some(answer) = answers.blocking_recv() {
        let Open { space, file } = &*answer.to;
        let size = space.flags.physical_page_size();
        for (no, page) in (answer.first..).zip(&answer.pages) {
            let id = PageId::new(space.id, no);
            verify(&page.page, id, space.flags)
                .with_context(|| format!("the server sent a bad page {id}"))?;
            if page.page.iter().any(|b| *b != 0) {
                let at = u64::from(no) * size as u64;
                file.write_all_at(&page.page, at)
                    .map_err(|e| cannot_write(&space.path, e))?;
                written.pages += 1;
                written.bytes += size as u64;
            }
        }
        meter.add((answer.pages.len() * size) as u64)?;
    }
    Ok(written)
}
