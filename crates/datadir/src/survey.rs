//! The files of a data directory, and everything that stands in the way of
//! importing it, except the content of its pages.

use crate::classify::{self, Dir, Engine, InDatabase, SYSTEM_DATABASES, Top};
use crate::compressed;
use crate::dictionary;
use crate::error::DatadirError;
use crate::frm::{self, Definition};
use crate::names;
use crate::pages;
use crate::refusal::{READABLE, Refusal};
use crate::stopped::{self, Stopped};
use crate::tablespace::{SpaceError, Tablespace};
use crate::walk::{self, Entry};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// The first bytes of a binary or relay log.
const BINARY_LOG: &[u8] = b"\xfebin";
/// Names in one note.
const NAMES_MAX: usize = 8;
const MOVE_AWAY: &str = "move it out of the directory, or leave it out with --leave-out-unknown";

/// A side file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// Relative to the data directory.
    pub path: String,
    /// Where it is.
    pub source: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Bytes; `None` for a directory.
    pub size: Option<u64>,
}

/// The content of a directory.
#[derive(Debug, Default)]
pub struct Survey {
    /// How its server was stopped.
    pub stopped: Option<Stopped>,
    /// The system tablespace.
    pub system: Option<Tablespace>,
    /// The undo tablespaces in order.
    pub undo: Vec<Tablespace>,
    /// All other tablespaces.
    pub tables: Vec<Tablespace>,
    /// Definitions and the like, a directory before what is in it.
    pub side: Vec<SideFile>,
    /// Tables of MariaDB's own that must become InnoDB: database and table, as
    /// their files are named.
    pub convert: Vec<(String, String)>,
    /// The files that are read, to detect changes meanwhile.
    pub entries: Vec<Entry>,
    /// Changes to indexes wait in the change buffer.
    pub buffered: bool,
    /// Notes for people.
    pub notes: Vec<String>,
    /// The obstacles.
    pub refusals: Vec<Refusal>,
    leave_out_unknown: bool,
    left_out: Vec<String>,
    replication: Vec<String>,
    definitions: Vec<String>,
    /// By `database/table`.
    files: BTreeMap<String, Result<Tablespace, SpaceError>>,
}

/// Looks at the data directory `dir`. With `leave_out_unknown` files that are
/// not known are no reason to refuse it.
///
/// # Errors
/// When a directory cannot be read. All else is among the refusals.
pub fn survey(dir: &Path, leave_out_unknown: bool) -> Result<Survey, DatadirError> {
    let mut s = Survey {
        leave_out_unknown,
        ..Survey::default()
    };
    match stopped::look(dir) {
        Ok(stopped) => s.stopped = Some(stopped),
        Err(refusal) => s.refusals.push(refusal),
    }
    s.top(dir)?;
    if let Some(system) = &s.system {
        match pages::has_buffered_changes(system) {
            Ok(buffered) => s.buffered = buffered,
            Err(e) => s.refuse("ibdata1", format!("cannot be read: {e}"), READABLE),
        }
    }
    s.match_dictionary();
    s.check_spaces();
    s.say();
    Ok(s)
}

impl Survey {
    /// All tablespaces.
    pub fn spaces(&self) -> impl Iterator<Item = &Tablespace> {
        self.system.iter().chain(&self.undo).chain(&self.tables)
    }

    /// `innodb_page_size`.
    pub fn page_size(&self) -> usize {
        self.system
            .as_ref()
            .map_or(0, |s| s.flags.logical_page_size())
    }

    fn refuse(&mut self, subject: &str, problem: String, hint: &str) {
        self.refusals.push(Refusal::new(subject, problem, hint));
    }

    fn top(&mut self, dir: &Path) -> Result<(), DatadirError> {
        let mut system = Vec::new();
        for entry in walk::entries(dir)? {
            if entry.dir {
                match classify::dir(&entry.name) {
                    Dir::Database => self.database(&entry)?,
                    Dir::Engine => self.unknown(entry.name.clone() + "/"),
                    Dir::Foreign => self.left_out.push(entry.name + "/"),
                }
                continue;
            }
            let name = entry.name.as_str();
            match classify::top(name) {
                Top::System(number) => system.push((number, entry)),
                Top::Undo => match Tablespace::open(name, &entry.path) {
                    Ok(space) => {
                        self.undo.push(space);
                        self.entries.push(entry);
                    }
                    Err(e) => self.refuse(name, e.to_string(), READABLE),
                },
                Top::Aria => self.entries.push(entry),
                Top::Running => self.refuse(
                    name,
                    "the server was not stopped cleanly: it leaves this file only when it is killed".into(),
                    "start MariaDB 10.11 on the directory and stop it with SHUTDOWN",
                ),
                Top::Version => self.version(&entry)?,
                Top::Replication if entry.size > 0 => self.replication.push(entry.name),
                Top::Replication | Top::LeftOut => {}
                Top::LeftOutAndSaid => self.left_out.push(entry.name),
                Top::Unknown if entry.special => {}
                Top::Unknown if is_binary_log(&entry.path) => self.replication.push(entry.name),
                Top::Unknown => self.unknown(entry.name),
            }
        }
        self.system_tablespace(system);
        let known = |s: &Survey, path: &str| s.side.iter().any(|f| f.path == path);
        if self.system.is_some() && !known(self, "mysql/global_priv.frm") {
            self.refuse(
                "mysql/global_priv",
                "the system tables of MariaDB 10.4 and later are missing".into(),
                "start MariaDB 10.11 on the directory, run mariadb-upgrade, and stop it with SHUTDOWN",
            );
        }
        Ok(())
    }

    fn system_tablespace(&mut self, mut files: Vec<(u32, Entry)>) {
        files.sort_by_key(|(number, _)| *number);
        if files.is_empty() {
            self.refuse(
                "ibdata1",
                "InnoDB's system tablespace is missing from the directory".into(),
                "name the data directory of a stopped MariaDB 10.11; files that innodb_data_home_dir or innodb_data_file_path put elsewhere must be copied into it, as ibdata1, ibdata2, …",
            );
            return;
        }
        let in_order = (1..).zip(&files).all(|(nth, (number, _))| nth == *number);
        if !in_order {
            let names: Vec<&str> = files.iter().map(|(_, e)| e.name.as_str()).collect();
            self.refuse(
                "ibdata1",
                format!(
                    "the files of the system tablespace are {}",
                    names.join(", ")
                ),
                "its files must be ibdata1, ibdata2, … in the order of innodb_data_file_path",
            );
            return;
        }
        if let Some(pid) = files.iter().find_map(|(_, entry)| entry.locked_by()) {
            self.refuse(
                "ibdata1",
                format!("process {pid} has it open"),
                "stop that server first, with SHUTDOWN",
            );
        }
        let paths: Vec<PathBuf> = files.iter().map(|(_, e)| e.path.clone()).collect();
        self.entries.extend(files.into_iter().map(|(_, e)| e));
        match Tablespace::open_parts("ibdata1", &paths) {
            Ok(space) if space.id != 0 => self.refuse(
                "ibdata1",
                format!("it is tablespace {}, not the system tablespace", space.id),
                "name the data directory of a stopped MariaDB 10.11",
            ),
            Ok(space) => self.system = Some(space),
            Err(e) => self.refuse("ibdata1", e.to_string(), READABLE),
        }
    }

    fn version(&mut self, entry: &Entry) -> Result<(), DatadirError> {
        let text = std::fs::read(&entry.path).map_err(DatadirError::read(&entry.path))?;
        let text = String::from_utf8_lossy(&text);
        let text = text.trim().trim_end_matches('\0');
        if !text.starts_with("10.11.") {
            self.refuse(
                &entry.name,
                format!("the system tables are of version {text:?}, not 10.11"),
                "start MariaDB 10.11 on a copy of the directory, run mariadb-upgrade, stop it with SHUTDOWN, and import that",
            );
        }
        Ok(())
    }

    fn database(&mut self, database: &Entry) -> Result<(), DatadirError> {
        self.side.push(SideFile {
            path: database.name.clone(),
            source: database.path.clone(),
            // Whatever a backup made of it, a compute must be able to write.
            mode: database.mode | 0o700,
            size: None,
        });
        let own = SYSTEM_DATABASES.contains(&database.name.as_str());
        let entries = walk::entries(&database.path)?;
        let mut others: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut engines: BTreeMap<String, Engine> = BTreeMap::new();
        for entry in entries {
            let path = format!("{}/{}", database.name, entry.name);
            // Some file systems show snapshots in every directory.
            if entry.dir && classify::dir(&entry.name) == Dir::Foreign {
                self.left_out.push(path + "/");
                continue;
            }
            if entry.dir || entry.special {
                self.unknown(path);
                continue;
            }
            let stem = entry.name.rsplit_once('.').map_or("", |(stem, _)| stem);
            let stem = stem.to_owned();
            match classify::in_database(&entry.name) {
                InDatabase::Definition => {
                    let engine = self.definition(&database.name, &stem, own, &entry)?;
                    engines.insert(stem, engine);
                }
                InDatabase::SideFile => self.side(path, entry),
                InDatabase::Tablespace => {
                    let name = format!("{}/{stem}", database.name);
                    let space = Tablespace::open(&path, &entry.path);
                    self.entries.push(entry);
                    self.files.insert(name, space);
                }
                InDatabase::Link => self.refuse(
                    &names::table(&database.name, &stem),
                    "its file is elsewhere (DATA DIRECTORY)".into(),
                    "CREATE TABLE … LIKE makes one without DATA DIRECTORY: copy the rows into it and rename it",
                ),
                InDatabase::Csv if database.name == "mysql" && is_log_table(&stem) => {
                    self.side(path, entry);
                }
                InDatabase::OtherEngine | InDatabase::Csv => {
                    // A partition's file has the table's name before `#P#`.
                    let table = stem.split('#').next().unwrap_or_default().to_owned();
                    others.entry(table).or_default().push(path);
                    self.entries.push(entry);
                }
                InDatabase::LeftOut => {}
                InDatabase::Unknown => self.unknown(path),
            }
        }
        // Those that belong to a table are said with it.
        for (table, paths) in others {
            if !engines.contains_key(&table) {
                self.left_out.extend(paths);
            }
        }
        Ok(())
    }

    fn definition(
        &mut self,
        database: &str,
        stem: &str,
        own: bool,
        entry: &Entry,
    ) -> Result<Engine, DatadirError> {
        let path = format!("{database}/{}", entry.name);
        let bytes = std::fs::read(&entry.path).map_err(DatadirError::read(&entry.path))?;
        let name = match frm::definition(&bytes) {
            Definition::View => {
                self.side(path, entry.clone());
                return Ok(Engine::InnoDb);
            }
            Definition::Unknown => {
                self.refuse(
                    &path,
                    "the definition is malformed: it is damaged, or of an engine that no longer exists".into(),
                    "repair or drop the table on its server",
                );
                return Ok(Engine::Other);
            }
            Definition::Table(name) => name,
        };
        let table = names::table(database, stem);
        let engine = classify::engine(&name);
        match engine {
            Engine::InnoDb => self.side(path, entry.clone()),
            Engine::Virtual => {}
            Engine::DefinitionOnly => {
                self.definitions.push(format!("{table} ({name})"));
                self.side(path, entry.clone());
            }
            Engine::SystemTables if own => {
                self.convert.push((database.to_owned(), stem.to_owned()));
                self.side(path, entry.clone());
            }
            Engine::Other if database == "mysql" && is_log_table(stem) => {
                self.side(path, entry.clone());
            }
            Engine::SystemTables | Engine::Other => self.refuse(
                &table,
                format!("its engine is {name}; only InnoDB tables can be imported"),
                "on its server: ALTER TABLE … ENGINE=InnoDB, or drop it; then stop the server again",
            ),
        }
        Ok(engine)
    }

    fn side(&mut self, path: String, entry: Entry) {
        self.side.push(SideFile {
            path,
            source: entry.path.clone(),
            mode: entry.mode | 0o600,
            size: Some(entry.size),
        });
        self.entries.push(entry);
    }

    fn unknown(&mut self, path: String) {
        if self.leave_out_unknown {
            self.left_out.push(path);
        } else {
            self.refuse(&path, "unknown file".into(), MOVE_AWAY);
        }
    }

    /// Finds the file of each table that InnoDB knows.
    fn match_dictionary(&mut self) {
        let mut files = std::mem::take(&mut self.files);
        let Some(system) = &self.system else { return };
        let read = system.reader().and_then(|reader| {
            dictionary::tables(|page| reader.page(page)).map_err(std::io::Error::other)
        });
        let tables = match read {
            Ok(tables) => tables,
            Err(e) => {
                let why = format!("InnoDB's dictionary cannot be read: {e}");
                self.refuse("ibdata1", why, stopped::STOP);
                return;
            }
        };
        let backup = self.stopped.as_ref().is_some_and(|s| s.backup);
        let mut unfinished = 0;
        for table in tables.into_iter().filter(|t| t.space != 0) {
            let file = format!("{}.ibd", table.name);
            match files.remove(&table.name) {
                Some(Ok(space)) if space.id == table.space => self.tables.push(space),
                Some(Ok(space)) => self.refuse(
                    &file,
                    format!(
                        "it is tablespace {}, and InnoDB's dictionary says {}: it is the file of another table",
                        space.id, table.space
                    ),
                    "drop the table on its server, or restore its own file",
                ),
                Some(Err(e)) => self.refuse(
                    &file,
                    e.to_string(),
                    "restore the file, or drop the table on its server",
                ),
                // A backup leaves them out; InnoDB drops such a table.
                None if backup && table.name.contains("/#sql") => unfinished += 1,
                None => self.refuse(
                    &file,
                    "InnoDB's dictionary names it, but the file is missing".into(),
                    "restore the file, or drop the table on its server (after DISCARD TABLESPACE: import or drop it)",
                ),
            }
        }
        if unfinished > 0 {
            self.notes.push(format!(
                "{unfinished} tables of an ALTER TABLE that was under way when the backup was made are dropped"
            ));
        }
        // InnoDB has no table for the rest.
        self.left_out
            .extend(files.into_keys().map(|name| name + ".ibd"));
        self.tables.sort_by_key(|space| space.id);
    }

    fn check_spaces(&mut self) {
        let mut refusals = Vec::new();
        let page_size = self.page_size();
        if (1..16_384).contains(&page_size) {
            refusals.push(Refusal::new(
                "ibdata1",
                format!("its pages have {page_size} bytes (innodb_page_size)"),
                "MariaDB's system tables do not fit into InnoDB with such pages: dump the data there (mariadb-dump) and load the dump here",
            ));
        }
        for space in self.spaces() {
            let mut refuse =
                |problem, hint| refusals.push(Refusal::new(&space.name, problem, hint));
            let own = space.flags.logical_page_size();
            if own != page_size && page_size != 0 {
                refuse(
                    format!("its pages have {own} bytes, not {page_size} as the others"),
                    "on its server: ALTER TABLE … FORCE, or drop the table",
                );
            }
            if space.key_version != 0 {
                refuse(
                    "it is encrypted".into(),
                    "on its server: ALTER TABLE … ENCRYPTED=NO; for the system tablespace and all that is encrypted by default SET GLOBAL innodb_encrypt_tables=OFF, and wait until information_schema.innodb_tablespaces_encryption shows no key version",
                );
            }
            let algorithm = u64::from(space.flags.raw() >> 5 & 7);
            if space.flags.is_full_crc32() && !compressed::supported(algorithm) {
                refuse(
                    format!(
                        "its pages are compressed with {}",
                        compressed::algorithm(algorithm)
                    ),
                    "on its server: ALTER TABLE … PAGE_COMPRESSED=0 (zlib and lz4 can be imported)",
                );
            }
        }
        let consecutive = |(nth, space): (u32, &Tablespace)| {
            let first = self.undo.first().map_or(0, |s| s.id);
            space.name == format!("undo{:03}", nth + 1) && space.id == first.saturating_add(nth)
        };
        if !(0u32..).zip(&self.undo).all(consecutive) {
            let names: Vec<String> = self
                .undo
                .iter()
                .map(|s| format!("{} (tablespace {})", s.name, s.id))
                .collect();
            refusals.push(Refusal::new(
                "undo001",
                format!("the undo tablespaces are {}", names.join(", ")),
                "they must be undo001, undo002, … with ids that follow each other: stop the server with innodb_fast_shutdown=0, start it with innodb_undo_tablespaces=0, and stop it again",
            ));
        }
        self.refusals.extend(refusals);
        let order = |path: &str| [path.as_bytes(), &[0]].concat();
        self.side.sort_by_cached_key(|f| order(&f.path));
    }

    fn say(&mut self) {
        let mut notes = Vec::new();
        let mut note = |names: &mut Vec<String>, what: &str| {
            if !names.is_empty() {
                names.sort();
                notes.push(format!("{what}: {}", some(names)));
            }
        };
        note(
            &mut self.replication,
            "binary logs and the state of replication are not imported",
        );
        note(
            &mut self.definitions,
            "imported without rows, which these engines do not keep",
        );
        note(&mut self.left_out, "left out");
        self.notes.extend(notes);
        self.refusals.sort_by(|a, b| {
            let key = |r: &Refusal| (r.hint.clone(), r.subject.clone());
            key(a).cmp(&key(b))
        });
    }
}

/// The first of `names`, and how many more there are.
fn some(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>();
    let more = names.len() - shown.len();
    let more = match more {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    shown.join(", ") + &more
}

/// `mysql.general_log` and `mysql.slow_log`, which MariaDB keeps in CSV.
fn is_log_table(table: &str) -> bool {
    crate::log_tables::NAMES.contains(&table)
}

fn is_binary_log(path: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let mut head = [0; 4];
    std::fs::File::open(path)
        .and_then(|file| file.read_exact_at(&mut head, 0))
        .is_ok()
        && head == *BINARY_LOG
}
