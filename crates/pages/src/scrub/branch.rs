//! Checks one branch, a step at a time: its manifests, the files that they
//! name, each layer; and looks for files that nothing names.
//!
//! One that is open goes on working meanwhile. So layers are taken one by one
//! from its list as it is by then: one that a merge has taken away is passed
//! over, and what was written since the beginning is left to the next scrub.

use super::layer::{Expected, LayerCheck, Nobody, Room};
use crate::branch::shared::Shared;
use crate::finding::{FINDINGS_MAX, Fault, Finding, FindingKind, LastScrub};
use crate::layer::format::LayerMeta;
use crate::layer::read::LayerFile;
use crate::manifest::format::{newest_of, number_of};
use crate::manifest::record::BranchPoint;
use crate::manifest::stored;
use crate::manifest::version::Manifest;
use crate::place::Files;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use xylem_types::BranchId;

/// How often manifests are read anew when they change meanwhile.
const TRIES: u32 = 10;
/// How long a step waits for the branch to finish publishing.
const PATIENCE: Duration = Duration::from_millis(100);

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It read so many bytes from the store.
    Read(u64),
    /// The branch is in the middle of something: try again.
    Busy,
    /// There is nothing more to do.
    Done,
}

/// The branch.
enum Source {
    /// It is open here.
    Live(Weak<Shared>),
    /// It may be open elsewhere, or nowhere.
    Stored,
}

/// Where a check stands.
enum Stage {
    Begin,
    Layers,
    Layer(Box<AtLayer>),
    Orphans,
    Done,
}

/// A layer at hand.
struct AtLayer {
    check: LayerCheck,
    meta: LayerMeta,
    /// Keeps the file from being removed meanwhile.
    _held: Option<Arc<LayerFile>>,
}

/// A check of one branch, under way.
pub(crate) struct BranchCheck {
    id: BranchId,
    source: Source,
    files: Arc<dyn Files>,
    room: Room,
    stage: Stage,
    tries: u32,
    /// Layers that are still to be looked at, by number.
    todo: BTreeMap<u64, LayerMeta>,
    /// Where the branch left its parent, as the manifest says.
    branch_point: Option<BranchPoint>,
    /// The newest manifest that was read.
    manifest: Option<Manifest>,
    /// Files that nothing named at the beginning.
    unnamed: BTreeSet<String>,
    findings: Vec<Finding>,
    read: u64,
    layers_done: u64,
    /// It came to its end.
    complete: bool,
}

impl BranchCheck {
    /// Checks a branch that is open.
    pub(crate) fn live(shared: &Arc<Shared>, room: Room) -> BranchCheck {
        let files = Arc::clone(&shared.files);
        let source = Source::Live(Arc::downgrade(shared));
        BranchCheck::new(shared.id, source, files, room)
    }

    /// Checks the branch that lives in a folder.
    pub(crate) fn stored(id: BranchId, files: Arc<dyn Files>, room: Room) -> BranchCheck {
        BranchCheck::new(id, Source::Stored, files, room)
    }

    fn new(id: BranchId, source: Source, files: Arc<dyn Files>, room: Room) -> BranchCheck {
        BranchCheck {
            id,
            source,
            files,
            room,
            stage: Stage::Begin,
            tries: 0,
            todo: BTreeMap::new(),
            branch_point: None,
            manifest: None,
            unnamed: BTreeSet::new(),
            findings: Vec::new(),
            read: 0,
            layers_done: 0,
            complete: false,
        }
    }

    /// The branch.
    pub(crate) fn id(&self) -> BranchId {
        self.id
    }

    /// The findings so far.
    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Bytes read from the store so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read
    }

    /// Layers that are done.
    pub(crate) fn layers_done(&self) -> u64 {
        self.layers_done
    }

    /// Bytes of layers that are still to be read.
    pub(crate) fn bytes_left(&self) -> u64 {
        let at_hand = match &self.stage {
            Stage::Layer(at) => at.meta.bytes,
            _ => 0,
        };
        at_hand + self.todo.values().map(|m| m.bytes).sum::<u64>()
    }

    /// The newest manifest, if it could be read.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Where the branch left its parent.
    pub(crate) fn branch_point(&self) -> Option<&BranchPoint> {
        self.branch_point.as_ref()
    }

    /// Adds something that was found elsewhere.
    pub(crate) fn add(&mut self, file: &str, kind: FindingKind, message: String) {
        if self.findings.len() >= FINDINGS_MAX {
            return;
        }
        self.findings.push(Finding {
            branch: self.id,
            file: file.to_owned(),
            kind,
            message,
        });
    }

    /// Tells the branch, if it is open here, what came of it.
    pub(crate) fn remember(self) {
        if let Some(shared) = self.shared().filter(|_| self.complete) {
            let found = self.findings.iter().filter(|f| f.is_damage()).count();
            shared.stats.scrubs.add(1);
            shared.stats.scrub_damage.add(found as u64);
            shared.health.scrubbed.ended(LastScrub {
                ended_us: Some(shared.now_us()),
                bytes: self.read,
                layers: self.layers_done,
                findings: self.findings,
            });
        }
    }

    /// The branch, unless it is being closed.
    fn shared(&self) -> Option<Arc<Shared>> {
        match &self.source {
            Source::Live(shared) => shared.upgrade().filter(|s| !s.stopped()),
            Source::Stored => None,
        }
    }

    fn closed(&self) -> bool {
        matches!(self.source, Source::Live(_)) && self.shared().is_none()
    }

    /// Goes on by about one block.
    pub(crate) fn step(&mut self) -> Step {
        if self.closed() {
            self.stage = Stage::Done;
        }
        let before = self.read;
        let step = match &self.stage {
            Stage::Begin => self.begin(),
            Stage::Layers => self.next_layer(),
            Stage::Layer(..) => self.layer(),
            Stage::Orphans => self.orphans(),
            Stage::Done => Step::Done,
        };
        let read = self.read - before;
        if let Some(shared) = self.shared() {
            shared.stats.scrubbed_bytes.add(read);
        }
        match step {
            Step::Read(_) => Step::Read(read),
            other => other,
        }
    }

    fn done(&mut self) -> Step {
        self.stage = Stage::Done;
        self.complete = true;
        Step::Done
    }

    fn again(&mut self) -> bool {
        self.tries += 1;
        self.tries < TRIES
    }

    fn list(&mut self) -> Option<Vec<(String, u64)>> {
        match self.files.list() {
            Ok(list) => Some(list),
            Err(e) => {
                let what = format!("its files cannot be listed: {e}");
                self.add("", FindingKind::Unreadable, what);
                None
            }
        }
    }

    /// Reads the manifests and compares the files that there are with what
    /// they say.
    fn begin(&mut self) -> Step {
        let files = Arc::clone(&self.files);
        let Some(list) = self.list() else {
            return self.done();
        };
        let Some(newest) = newest_of(&list) else {
            let is_layer = |name: &str| name.ends_with(".layer");
            if self.shared().is_some() || list.iter().any(|(name, _)| is_layer(name)) {
                let what = "the branch has layers and no manifest";
                self.add("", FindingKind::Missing, what.into());
            } else {
                // It was never quite made.
                for (name, _) in &list {
                    self.add(name, FindingKind::Orphan, orphan(name).into());
                }
            }
            return self.done();
        };
        // After the list was made: all that this process had published by then
        // is known to it.
        let mut known = None;
        if let Some(shared) = self.shared() {
            let Some(manifest) = in_memory(&shared) else {
                return Step::Busy;
            };
            if newest > manifest.number() {
                let what = format!(
                    "another server has opened the branch, with manifest {newest}: scrub it there"
                );
                self.add("", FindingKind::Unreadable, what);
                return self.done();
            }
            if newest < manifest.number() && self.again() {
                // It was published since the list was made, or it is gone.
                return Step::Read(0);
            }
            known = Some(manifest);
        }
        let number = known.as_ref().map_or(newest, Manifest::number);
        let stored = stored::load(&*files, self.id, &list, number);
        let stored = match stored {
            Ok(stored) => stored,
            Err((file, Fault(kind, message))) => {
                // A snapshot may have taken its place meanwhile.
                let moved = match files.list() {
                    Ok(now) => newest_of(&now) != Some(newest),
                    Err(_) => false,
                };
                // A list that is made while others write may leave one out.
                if (moved || self.tries == 0) && self.again() {
                    return Step::Read(0);
                }
                self.add(&file, kind, message);
                match known {
                    // The layers are known all the same.
                    Some(manifest) => self.files_of(&manifest, &list),
                    None => return self.done(),
                }
                return Step::Read(0);
            }
        };
        self.read += stored.read;
        if let Some(known) = &known
            && !known.agrees(&stored.manifest)
        {
            let what = "it does not say what the server has published in it";
            self.add(
                &format!("manifest-{number:016x}"),
                FindingKind::Damaged,
                what.into(),
            );
        }
        let manifest = known.unwrap_or_else(|| stored.manifest.clone());
        self.files_of(&manifest, &list);
        Step::Read(0)
    }

    /// Compares the files that there are with the layers that should be.
    fn files_of(&mut self, manifest: &Manifest, list: &[(String, u64)]) {
        let sizes: BTreeMap<&str, u64> = list.iter().map(|(n, s)| (n.as_str(), *s)).collect();
        for meta in &manifest.layers {
            match sizes.get(meta.name.as_str()) {
                Some(bytes) if *bytes != meta.bytes => {
                    if self.still_named(meta.number) {
                        let what = format!("it has {bytes} bytes, it should have {}", meta.bytes);
                        self.add(&meta.name, FindingKind::Damaged, what);
                    }
                }
                // A list that is made while others write may have the manifest
                // and not yet the layer: its turn will show whether it is there.
                _ => {
                    self.todo.insert(meta.number, meta.clone());
                }
            }
        }
        self.unnamed = unnamed(manifest, list);
        self.branch_point = manifest.branch_point;
        self.manifest = Some(manifest.clone());
        self.check_parent();
        self.stage = Stage::Layers;
    }

    /// Checks that an open branch can read what it shares with its parent. Of a
    /// stored branch the caller knows more.
    fn check_parent(&mut self) {
        let Some(shared) = self.shared() else {
            return;
        };
        let Some(parent) = &shared.parent else {
            return;
        };
        let below = parent.shared.parent.as_ref().map(|p| p.branch_point.lsn);
        if below.is_some_and(|below| parent.branch_point.lsn < below) {
            let what = format!(
                "it left branch {} at LSN {}, and that begins later",
                parent.shared.id, parent.branch_point.lsn
            );
            self.add("", FindingKind::Damaged, what);
        }
        if let Some(why) = parent.shared.failed()
            && shared.ancestors_behind().is_some()
        {
            let what = format!(
                "it left branch {} at LSN {}, and that stopped before: {why}",
                parent.shared.id, parent.branch_point.lsn
            );
            self.add("", FindingKind::Unreadable, what);
        }
    }

    /// Whether a layer still counts: merges take layers away.
    fn still_named(&self, number: u64) -> bool {
        match &self.source {
            Source::Live(_) => self.shared().is_some_and(|s| {
                let layers = s.layers();
                layers.files.iter().any(|f| f.meta.number == number)
            }),
            Source::Stored => self
                .newest_stored()
                .is_none_or(|m| m.layers.iter().any(|l| l.number == number)),
        }
    }

    /// The newest manifest of the store; none when it cannot be read, though no
    /// newer one has taken its place meanwhile.
    fn newest_stored(&self) -> Option<Manifest> {
        let mut before = None;
        for _ in 0..TRIES {
            let list = self.files.list().ok()?;
            let newest = newest_of(&list)?;
            if before.replace(newest) == Some(newest) {
                return None;
            }
            if let Ok(stored) = stored::load(&*self.files, self.id, &list, newest) {
                return Some(stored.manifest);
            }
        }
        None
    }

    fn next_layer(&mut self) -> Step {
        let Some((number, meta)) = self.todo.pop_first() else {
            self.stage = Stage::Orphans;
            return Step::Read(0);
        };
        let files = Arc::clone(&self.files);
        let mut held = None;
        let mut meta = meta;
        if let Some(shared) = self.shared() {
            let layers = shared.layers();
            let Some(file) = layers.files.iter().find(|f| f.meta.number == number) else {
                // Merged meanwhile.
                self.layers_done += 1;
                return Step::Read(0);
            };
            meta = file.meta.clone();
            held = Some(Arc::clone(file));
        }
        // Any merge may have read a part of it, and been put off since.
        let narrowed = true;
        let expected = Expected::of(self.id, &meta, narrowed);
        match LayerCheck::open(&*files, &meta.name, expected, self.room) {
            Ok(check) => {
                let _held = held;
                self.stage = Stage::Layer(Box::new(AtLayer { check, meta, _held }));
            }
            Err(e) if !self.still_named(number) => {
                tracing::debug!(branch_id = %self.id, file = %meta.name, error = %e, "a layer was merged before it was scrubbed");
                self.layers_done += 1;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.add(&meta.name, FindingKind::Missing, "it is missing".into());
                self.layers_done += 1;
            }
            Err(e) => {
                let what = format!("it cannot be opened: {e}");
                self.add(&meta.name, FindingKind::Unreadable, what);
                self.layers_done += 1;
            }
        }
        Step::Read(0)
    }

    fn layer(&mut self) -> Step {
        let Stage::Layer(at) = &mut self.stage else {
            return Step::Read(0);
        };
        let mut faults = Vec::new();
        let read = at.check.step(&mut Nobody, &mut faults);
        let (name, number) = (at.meta.name.clone(), at.meta.number);
        let missing = |f: &Fault| f.0 == FindingKind::Missing;
        if !faults.iter().any(missing) || self.still_named(number) {
            for Fault(kind, message) in faults {
                self.add(&name, kind, message);
            }
        }
        match read {
            Some(bytes) => self.read += bytes,
            None => {
                self.layers_done += 1;
                self.stage = Stage::Layers;
            }
        }
        Step::Read(0)
    }

    /// Finds files that no manifest named at the beginning and none names now,
    /// while nothing is being written.
    fn orphans(&mut self) -> Step {
        if self.unnamed.is_empty() {
            return self.done();
        }
        let shared = self.shared();
        let quiet = shared.as_ref().map(|s| s.jobs.rest());
        let flushing = shared.as_ref().is_some_and(|s| s.has_frozen());
        if flushing || matches!(quiet, Some(None)) {
            return self.done();
        }
        // On their way out before the list is made: they may be gone after it,
        // and while upkeep rests no others follow.
        let leave: Vec<String> = shared.as_ref().map_or_else(Vec::new, |s| {
            s.leaving.lock().iter().map(|l| l.name.clone()).collect()
        });
        let Some(list) = self.list() else {
            return self.done();
        };
        let now = match &shared {
            Some(shared) => in_memory(shared),
            None => newest_of(&list)
                .and_then(|n| stored::load(&*self.files, self.id, &list, n).ok())
                .map(|stored| stored.manifest),
        };
        drop(quiet);
        if let Some(manifest) = now {
            let mut now = unnamed(&manifest, &list);
            now.retain(|name| !leave.contains(name));
            for name in self.unnamed.intersection(&now).cloned().collect::<Vec<_>>() {
                self.add(&name, FindingKind::Orphan, orphan(&name).into());
            }
        }
        self.done()
    }
}

/// A copy of the manifest in memory; none while it is being changed.
fn in_memory(shared: &Shared) -> Option<Manifest> {
    let manifest = shared.manifest.try_lock_for(PATIENCE)?;
    Some(manifest.clone())
}

/// Files that the manifest does not name.
fn unnamed(manifest: &Manifest, list: &[(String, u64)]) -> BTreeSet<String> {
    let named: BTreeSet<&str> = manifest.layers.iter().map(|l| l.name.as_str()).collect();
    let counts =
        |name: &str| named.contains(name) || number_of(name).is_some_and(|n| n >= manifest.first());
    let names = list.iter().map(|(name, _)| name.as_str());
    names.filter(|n| !counts(n)).map(str::to_owned).collect()
}

/// Describes a file that nothing names.
fn orphan(name: &str) -> &'static str {
    match name.ends_with(".layer") || name.ends_with(".tmp") || number_of(name).is_some() {
        true => "nothing names it; the next start of the server removes it",
        false => "it is no file of the store",
    }
}
