//! Tablespaces and their files, as redo creates, renames and drops them.

use super::retry::{Step, Stop, retry};
use super::stage::Stage;
use crate::branch::shared::Shared;
use crate::layer::catalog::{SpaceInfo, UndoState, encode_path_owner};
use crate::layer::chain::Kind;
use crate::layer::key::{path_key, relative, space_key, state_key};
use xylem_redo::FileEvent;
use xylem_types::{FileOp, Lsn, SpaceId};

impl Stage {
    fn space(&mut self, shared: &Shared, space: SpaceId) -> Step<Option<SpaceInfo>> {
        if let Some(info) = self.spaces.get(&space) {
            return Ok(info.clone());
        }
        let info = retry(shared, || {
            let layers = shared.snapshot();
            Ok(layers
                .view(shared.source())
                .space(space, Lsn::MAX)?
                .map(|(_, info)| info))
        })?;
        self.spaces.insert(space, info.clone());
        Ok(info)
    }

    pub(super) fn set_space(&mut self, space: SpaceId, info: SpaceInfo, lsn: Lsn) {
        self.batch
            .other(space_key(space), lsn, Kind::Image, &info.encode());
        self.spaces.insert(space, Some(info));
        if !self.touched.contains(&space) {
            self.touched.push(space);
        }
    }

    fn path_owner(&mut self, shared: &Shared, path: &str) -> Step<Option<SpaceId>> {
        if let Some(owner) = self.paths.get(path) {
            return Ok(*owner);
        }
        retry(shared, || {
            let layers = shared.snapshot();
            layers.view(shared.source()).path_owner(path, Lsn::MAX)
        })
    }

    fn set_path(&mut self, path: &str, owner: Option<SpaceId>, lsn: Lsn) {
        self.batch
            .other(path_key(path), lsn, Kind::Image, &encode_path_owner(owner));
        self.paths.insert(path.to_owned(), owner);
    }

    /// `space` no longer has `path`, unless another took it meanwhile.
    fn leave_path(&mut self, shared: &Shared, path: &str, space: SpaceId, lsn: Lsn) -> Step<()> {
        if self.path_owner(shared, path)? == Some(space) {
            self.set_path(path, None, lsn);
        }
        Ok(())
    }

    /// `space` is created as `path`. InnoDB writes redo for it before it makes the
    /// file, and makes none where one is; when it cannot, it writes redo for a
    /// deletion, unless it
    /// ends before (or is older than that). So another tablespace that still has
    /// the path never came to be, or lost its dictionary entry in a crash.
    fn void_path(&mut self, shared: &Shared, path: &str, space: SpaceId, lsn: Lsn) -> Step<()> {
        let other = self.path_owner(shared, path)?.filter(|o| *o != space);
        let Some(other) = other else { return Ok(()) };
        let info = self.space(shared, other)?;
        if let Some(mut info) = info.filter(|i| i.exists && i.path == path) {
            info.exists = false;
            self.set_space(other, info, lsn);
        }
        Ok(())
    }

    /// A tablespace that redo writes the first page of. One that no FILE_
    /// record named is the system tablespace or an undo tablespace:
    /// `fil_name_parse()` refuses records for those, so none is ever written.
    pub(super) fn space_or_new(
        &mut self,
        shared: &Shared,
        space: SpaceId,
        lsn: Lsn,
    ) -> Step<SpaceInfo> {
        if let Some(info) = self.space(shared, space)?.filter(|i| i.exists) {
            return Ok(info);
        }
        let path = match space.0 {
            0 => "ibdata1".to_owned(),
            _ => self.undo_name(shared, space, lsn)?,
        };
        let info = SpaceInfo {
            exists: true,
            path,
            floor: lsn,
            ..SpaceInfo::default()
        };
        self.set_path(&info.path, Some(space), lsn);
        self.set_space(space, info.clone(), lsn);
        Ok(info)
    }

    /// Undo tablespaces are made `undo001`, `undo002`, … with ascending ids in
    /// one mtr (`srv_undo_tablespaces_init()`). When their number is changed,
    /// all are dropped without a record and made anew with higher ids
    /// (`srv_undo_tablespaces_reinit()`).
    fn undo_name(&mut self, shared: &Shared, space: SpaceId, lsn: Lsn) -> Step<String> {
        let known = match self.undo {
            Some(u) => u,
            None => retry(shared, || {
                let layers = shared.snapshot();
                let found = layers
                    .view(shared.source())
                    .image(&state_key("undo"), Lsn::MAX)?;
                Ok(found
                    .and_then(|(_, raw)| UndoState::decode(&raw))
                    .unwrap_or_default())
            })?,
        };
        let next = known.first.saturating_add(known.count);
        let first_ever = known.first == 1 && space.0 == next;
        let mut now = known;
        if known.count > 0 && space.0 == next && (known.lsn == lsn || first_ever) {
            now.count += 1;
            now.lsn = lsn;
        } else {
            for old in known.first..next {
                if let Some(mut info) = self.space(shared, SpaceId(old))?.filter(|i| i.exists) {
                    info.exists = false;
                    self.leave_path(shared, &info.path, SpaceId(old), lsn)?;
                    self.set_space(SpaceId(old), info, lsn);
                }
            }
            now = UndoState {
                first: space.0,
                count: 1,
                lsn,
            };
        }
        self.undo = Some(now);
        self.batch
            .other(state_key("undo"), lsn, Kind::Image, &now.encode());
        Ok(format!("undo{:03}", now.count))
    }

    pub(super) fn file_event(
        &mut self,
        shared: &Shared,
        event: FileEvent<'_>,
        lsn: Lsn,
    ) -> Step<()> {
        let text = |name: &[u8]| match std::str::from_utf8(name) {
            Ok(s) if !s.is_empty() && !s.contains('\0') && s.len() <= FileOp::PATH_MAX => {
                Ok(relative(s).to_owned())
            }
            _ => Err(Stop::Failed(format!(
                "redo at LSN {lsn}: FILE record with the name {:?}",
                String::from_utf8_lossy(name)
            ))),
        };
        match event {
            FileEvent::Create { space, name } => {
                let path = text(name)?;
                let old = self.space(shared, space)?.filter(|i| i.exists);
                if let Some(old) = old {
                    self.leave_path(shared, &old.path, space, lsn)?;
                }
                self.void_path(shared, &path, space, lsn)?;
                self.set_path(&path, Some(space), lsn);
                let info = SpaceInfo {
                    exists: true,
                    path,
                    floor: lsn,
                    ..SpaceInfo::default()
                };
                self.set_space(space, info, lsn);
            }
            FileEvent::Delete { space, name } => {
                let path = text(name)?;
                self.leave_path(shared, &path, space, lsn)?;
                if let Some(mut info) = self.space(shared, space)?.filter(|i| i.exists) {
                    self.leave_path(shared, &info.path, space, lsn)?;
                    info.exists = false;
                    self.set_space(space, info, lsn);
                }
            }
            FileEvent::Rename { space, new, .. } => self.move_to(shared, space, text(new)?, lsn)?,
            FileEvent::Modify { space, name } => self.move_to(shared, space, text(name)?, lsn)?,
            FileEvent::Checkpoint { .. } | FileEvent::Padding => {}
        }
        Ok(())
    }

    /// The tablespace has this path from now on.
    fn move_to(&mut self, shared: &Shared, space: SpaceId, path: String, lsn: Lsn) -> Step<()> {
        let known = self.space(shared, space)?.filter(|i| i.exists);
        let mut info = match known {
            Some(info) if info.path == path => return Ok(()),
            Some(info) => info,
            None => SpaceInfo {
                exists: true,
                ..SpaceInfo::default()
            },
        };
        if !info.path.is_empty() {
            self.leave_path(shared, &info.path.clone(), space, lsn)?;
        }
        self.set_path(&path, Some(space), lsn);
        info.path = path;
        self.set_space(space, info, lsn);
        Ok(())
    }
}
