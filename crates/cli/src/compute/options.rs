//! The options and the environment of the mariadbd that is started.

use super::mycnf::{self, Options, PageServer, Tls};
use super::starter::{Start, Starter};
use crate::account::User;
use anyhow::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use xylem_datadir::walk;
use xylem_tls::authority;
use xylem_tls::names;

/// Whether the account that mariadbd runs as can reach the server's `socket`.
fn is_reached(socket: &Path, user: Option<&User>) -> bool {
    socket.exists() && user.is_none_or(|user| user.stopped_at(socket).is_none())
}

impl Starter<'_> {
    /// The environment variables of mariadbd.
    pub(super) fn environment(&self, start: &Start<'_>) -> Vec<(String, OsString)> {
        let home = &start.host.home;
        vec![
            ("LD_LIBRARY_PATH".to_owned(), home.library_path()),
            ("LD_PRELOAD".to_owned(), home.client_library().into()),
            ("XYLEM_DATADIR".to_owned(), start.dir.data().into()),
            ("XYLEM_DATADIR_DISPOSABLE".to_owned(), "1".into()),
        ]
    }

    /// Writes `my.cnf`, and returns the path of the socket.
    ///
    /// # Errors
    /// When a file cannot be written, or a path cannot stand in an option file.
    pub(super) fn write_options(
        &self,
        start: &Start<'_>,
        log_file_bytes: Option<u64>,
        bootstrap: bool,
    ) -> Result<PathBuf> {
        let dir = &start.dir;
        let (host, home) = (start.host, &start.host.home);
        let socket = dir.socket(host.user.as_ref())?;
        let server = self.server.address()?;
        let state = &self.app.state;
        // Servers of older versions say nothing of it.
        let server_socket = self.server.socket.clone().or_else(|| state.server_socket());
        let token = start.attached.token.as_bytes();
        let token_file = if token.is_empty() {
            None
        } else {
            host.write_for(&dir.token_file(), token)?;
            Some(dir.token_file())
        };
        let tls = self.server.authority.clone().map(|authority| {
            let identity = self.server.identity();
            let identity = identity.map(|file| host.readable(file, dir.identity_file()));
            anyhow::Ok(Tls {
                authority: host.readable(authority, dir.authority_file())?,
                identity: identity.transpose()?,
            })
        });
        let tls = tls.transpose()?;
        // A project without TLS has no certificates.
        let certificate = match self.server.authority {
            Some(_) => Some(self.certificate(start)?),
            None => None,
        };
        let settings = &self.project.settings;
        let buffer_pool = settings.compute.buffer_pool.as_deref();
        let page_cache = settings.compute.page_cache.as_deref();
        let options = Options {
            basedir: home.basedir(),
            share: home.share(),
            plugin_dir: home.plugin_dir(),
            datadir: dir.data(),
            tmpdir: dir.tmp(),
            sql_files: dir.sql_files(),
            socket: socket.clone(),
            pid_file: dir.pid_file(),
            log_error: dir.log(),
            bind: settings.bind(),
            port: start.port,
            certificate,
            client_authorities: dir.client_authorities(),
            as_root: host.user.is_none() && rustix::process::geteuid().is_root(),
            buffer_pool: buffer_pool.unwrap_or(mycnf::BUFFER_POOL),
            page_cache: page_cache.unwrap_or(mycnf::PAGE_CACHE),
            page_cache_file: dir.cache().join("pages"),
            page_size: settings.format.page_size,
            undo_tablespaces: walk::undo_tablespaces(&dir.data()),
            log_file_bytes,
            includes: self.includes(start)?,
            page_server: PageServer {
                host: server.ip().to_string(),
                port: server.port(),
                socket: server_socket.filter(|path| is_reached(path, host.user.as_ref())),
                branch: &start.branch,
                epoch: start.attached.epoch,
                start_lsn: start.attached.start_lsn,
                token_file,
                tls,
            },
            bootstrap,
            read_only: start.at_lsn.is_some(),
            has_parent: !start.name.is_main(),
            binary_log: self.project.has_binary_log() && start.at_lsn.is_none() && !bootstrap,
        };
        let text = mycnf::render(&options)?;
        host.write_for(&dir.my_cnf(), text.as_bytes())?;
        Ok(socket)
    }

    /// The key and certificate of the compute's own port.
    fn certificate(&self, start: &Start<'_>) -> Result<PathBuf> {
        let (app, settings) = (self.app, &self.project.settings);
        let mut all = names::of_listeners([settings.bind()]);
        let given = settings.server.tls_names.as_deref().unwrap_or_default();
        // The server has refused anything else.
        all.extend(names::listed(given).unwrap_or_default());
        let all: Vec<String> = all.into_iter().collect();
        let (dir, file) = (app.state.certificates(), start.dir.certificate_file());
        let _alone = app.state.lock_certificates()?;
        let made = authority::ensure_compute(&dir, &file, &all, &app.clock, &app.entropy);
        match made {
            Err(error) if !file.exists() => return Err(error.into()),
            Err(error) => self.progress.note(&format!(
                "the certificate of {} cannot be renewed: {error}",
                start.name.described()
            )),
            Ok(()) => {}
        }
        if let Some(user) = &start.host.user {
            user.let_read(&file)?;
        }
        Ok(file)
    }

    /// Option files that people wrote, where mariadbd can read them.
    fn includes(&self, start: &Start<'_>) -> Result<Vec<PathBuf>> {
        let dir = &start.dir;
        let mut includes = Vec::new();
        for (nth, file) in [self.app.state.custom_cnf(), dir.custom_cnf()]
            .into_iter()
            .enumerate()
        {
            if file.exists() {
                includes.push(start.host.readable(file, dir.included_cnf(nth))?);
            }
        }
        Ok(includes)
    }
}
