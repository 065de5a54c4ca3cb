//! The C interface of `include/xylem_client.h`. It checks arguments, catches
//! panics and turns results into status codes.
//!
//! The header documents the contract of each function.

use crate::binlog;
use crate::cache::{self, Cache, Found, PageId, Ticket};
use crate::client::{Client, PageWanted};
use crate::config::{self, Config};
use crate::log::{self, Level};
use crate::pages::{Callback, DoneFn, Target};
use crate::shared::{last_error, remember};
use crate::sidefiles;
use crate::status::{Error, Status};
use crate::tablespace;
use crate::threads::lock;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// `xylem_config`.
#[repr(C)]
#[allow(missing_docs)] // described in the header
pub struct CConfig {
    pub address: *const c_char,
    pub port: u16,
    pub socket: *const c_char,
    pub branch: *const c_char,
    pub epoch: u64,
    pub token: *const c_char,
    pub tls_ca: *const c_char,
    pub tls_cert: *const c_char,
    pub tls_key: *const c_char,
    pub datadir: *const c_char,
    pub start_lsn: u64,
    pub connections: u32,
    pub connect_timeout_ms: u32,
    pub request_timeout_ms: u32,
    pub retry_limit_ms: u32,
    pub queue_bytes: u64,
}

/// `xylem_page_request`.
#[repr(C)]
#[allow(missing_docs)]
pub struct CPageRequest {
    pub space_id: u32,
    pub page_no: u32,
    pub min_lsn: u64,
    pub buf: *mut c_void,
    pub size: usize,
    pub status: c_int,
}

/// `xylem_stats`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct CStats {
    pub pages_read: u64,
    pub pages_read_async: u64,
    pub page_bytes: u64,
    pub page_wait_us: u64,
    pub page_retries: u64,
    pub page_errors: u64,
    pub redo_bytes_sent: u64,
    pub lsn_queued: u64,
    pub lsn_sent: u64,
    pub lsn_durable: u64,
    pub lsn_applied: u64,
    pub durable_waits: u64,
    pub durable_wait_us: u64,
    pub side_file_ops: u64,
    pub tablespace_waits: u64,
    pub reconnects: u64,
    pub connected: u64,
    pub stalled: u64,
    pub cache_size: u64,
    pub cache_pages: u64,
    pub cache_hits: u64,
    pub cache_puts: u64,
    pub cache_evictions: u64,
    pub cache_damaged: u64,
}

/// The largest InnoDB page, in bytes.
const PAGE_MAX: usize = 64 << 10;

static CLIENT: RwLock<Option<Arc<Client>>> = RwLock::new(None);
static CACHE: RwLock<Option<Cache>> = RwLock::new(None);
/// Serializes initialisation and shutdown.
static TURN: Mutex<()> = Mutex::new(());

fn client() -> Option<Arc<Client>> {
    CLIENT
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Runs `f` and turns a panic into [`Status::Error`].
fn guarded(f: impl FnOnce() -> Status) -> c_int {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(status) => status.code(),
        Err(_) => {
            let _ = catch_unwind(|| {
                remember(&Error::new(
                    Status::Error,
                    "libxylem_client panicked, which is a bug; the error log says where",
                ));
            });
            Status::Error.code()
        }
    }
}

/// Runs `f` with the client, and otherwise like [`guarded`].
fn with_client(f: impl FnOnce(&Arc<Client>) -> Result<(), Error>) -> c_int {
    guarded(|| match client() {
        None => Status::Disabled,
        Some(client) => match f(&client) {
            Ok(()) => Status::Ok,
            Err(error) => {
                remember(&error);
                error.status
            }
        },
    })
}

fn invalid(message: &str) -> Error {
    Error::new(Status::Invalid, message)
}

/// Copies `text` and a NUL into the `size` bytes at `buf`. Text that is too long
/// is truncated at a character boundary.
///
/// # Safety
/// `buf` is NULL or has `size` writable bytes.
unsafe fn copy_text(text: &str, buf: *mut c_char, size: usize) {
    if buf.is_null() || size == 0 {
        return;
    }
    let mut n = text.len().min(size - 1);
    while !text.is_char_boundary(n) {
        n -= 1;
    }
    // SAFETY: n < size bytes are written, then one more.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buf.cast::<u8>(), n);
        *buf.add(n) = 0;
    }
}

/// # Safety
/// `text` is NULL or a NUL-terminated string.
unsafe fn text(name: &str, text: *const c_char) -> Result<Option<String>, Error> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller vouches for the NUL.
    let text = unsafe { CStr::from_ptr(text) };
    match text.to_str() {
        Ok("") => Ok(None),
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(invalid(&format!("{name} is not UTF-8"))),
    }
}

/// # Safety
/// The strings in `c` are NULL or NUL-terminated.
unsafe fn checked(c: &CConfig) -> Result<Config, Error> {
    // SAFETY: as the caller vouches.
    let (address, socket, branch, token, datadir, tls) = unsafe {
        (
            text("address", c.address)?,
            text("socket", c.socket)?,
            text("branch", c.branch)?,
            text("token", c.token)?,
            text("datadir", c.datadir)?,
            [
                text("tls_ca", c.tls_ca)?,
                text("tls_cert", c.tls_cert)?,
                text("tls_key", c.tls_key)?,
            ],
        )
    };
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let address = address.ok_or_else(|| invalid("the address of the page server is missing"))?;
    if c.port == 0 {
        return Err(invalid("the port of the page server is missing"));
    }
    let datadir = datadir.map(PathBuf::from);
    if let Some(dir) = &datadir
        && !dir.is_absolute()
    {
        return Err(invalid(&format!(
            "the data directory {} is not absolute",
            dir.display()
        )));
    }
    let mut config = Config::new(&address, c.port);
    config.socket = socket.map(PathBuf::from);
    if config.socket.is_none() {
        config.tls = crate::trust::of(tls.map(|file| file.map(PathBuf::from)))?;
    }
    if let Some(branch) = branch {
        config.branch = branch;
    }
    config.epoch = c.epoch;
    config.token = token;
    config.datadir = datadir;
    config.start_lsn = c.start_lsn;
    config.connections = or(c.connections, config::CONNECTIONS).min(config::CONNECTIONS_MAX);
    config.connect_timeout =
        Duration::from_millis(or(c.connect_timeout_ms, config::CONNECT_TIMEOUT_MS).into());
    config.request_timeout_ms = or(c.request_timeout_ms, config::REQUEST_TIMEOUT_MS);
    config.retry_limit_ms = or(c.retry_limit_ms, config::RETRY_LIMIT_MS);
    if c.queue_bytes != 0 {
        config.queue_bytes = c.queue_bytes;
    }
    Ok(config)
}

fn init(config: Config) -> Result<(), Error> {
    let _turn = lock(&TURN);
    if client().is_some() {
        return Err(invalid(
            "the library is already initialised; call xylem_shutdown first",
        ));
    }
    let writes = config.epoch != 0;
    if let Some(datadir) = &config.datadir {
        sidefiles::check_datadir(datadir)?;
        if writes && !sidefiles::is_active() {
            log::write(
                Level::Warning,
                "side files (such as .frm) are not sent, because mariadbd was started without \
                 LD_PRELOAD=libxylem_client.so or without XYLEM_DATADIR",
            );
        }
    }
    let client = Arc::new(Client::start(config)?);
    let (pool, start_lsn) = (client.pool_shared(), client.shared().config.start_lsn);
    sidefiles::logs::attach(Some(Arc::new(move |number, offset, length| {
        binlog::fetch(&pool, start_lsn, number, offset, length)
    })));
    // Earlier side-file operations are queued before the caller can queue redo.
    let attached = match client.redo() {
        Some(queue) => sidefiles::attach(queue.clone(), client.shared().clone()),
        None => {
            sidefiles::attach_reader();
            Ok(())
        }
    };
    if let Err(error) = attached {
        client.shutdown();
        return Err(error);
    }
    *CLIENT.write().unwrap_or_else(PoisonError::into_inner) = Some(client);
    Ok(())
}

/// See the header.
///
/// # Safety
/// `config` is NULL or points to a `xylem_config` with valid strings; `error`
/// is NULL or has `error_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_init(
    config: *const CConfig,
    error: *mut c_char,
    error_size: usize,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches for the pointer, if it is not NULL.
        let result = match unsafe { config.as_ref() } {
            None => Err(invalid("xylem_init was called without a configuration")),
            // SAFETY: the caller vouches for the strings.
            Some(config) => unsafe { checked(config) }.and_then(init),
        };
        match result {
            Ok(()) => Status::Ok,
            Err(e) => {
                remember(&e);
                // SAFETY: the caller vouches for the buffer.
                unsafe { copy_text(&e.message, error, error_size) };
                e.status
            }
        }
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_shutdown() {
    guarded(|| {
        let _turn = lock(&TURN);
        if let Some(client) = client() {
            client.shutdown();
            sidefiles::logs::attach(None);
            *CLIENT.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Status::Ok
    });
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_only_innodb() {
    sidefiles::engines::refuse();
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_is_enabled() -> c_int {
    c_int::from(catch_unwind(|| client().is_some()).unwrap_or(false))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_set_timeouts(request_timeout_ms: u32, retry_limit_ms: u32) -> c_int {
    with_client(|client| {
        client
            .shared()
            .limits
            .set(request_timeout_ms, retry_limit_ms);
        Ok(())
    })
}

/// Checks the arguments of a page read.
///
/// # Safety
/// `buf` has `size` writable bytes that nothing else uses until the call
/// completes.
unsafe fn wanted(
    space_id: u32,
    page_no: u32,
    min_lsn: u64,
    buf: *mut c_void,
    size: usize,
) -> Result<PageWanted, Error> {
    if buf.is_null() || size == 0 || size > PAGE_MAX {
        return Err(invalid(&format!(
            "page {space_id}:{page_no}: a buffer of {size} bytes at {buf:p} cannot hold a page"
        )));
    }
    // SAFETY: the caller vouches for the bytes.
    let target = unsafe { Target::new(buf.cast(), size) };
    Ok(PageWanted {
        space_id,
        page_no,
        min_lsn,
        target,
    })
}

/// See the header.
///
/// # Safety
/// `buf` has `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_get_page(
    space_id: u32,
    page_no: u32,
    min_lsn: u64,
    buf: *mut c_void,
    size: usize,
) -> c_int {
    guarded(|| {
        let Some(client) = client() else {
            return Status::Disabled;
        };
        // SAFETY: the caller waits here until the call completes.
        match unsafe { wanted(space_id, page_no, min_lsn, buf, size) } {
            Ok(wanted) => client.get_page(wanted),
            Err(error) => {
                remember(&error);
                error.status
            }
        }
    })
}

/// See the header.
///
/// # Safety
/// `buf` has `size` writable bytes that stay valid until `done` is called with
/// `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_get_page_async(
    space_id: u32,
    page_no: u32,
    min_lsn: u64,
    buf: *mut c_void,
    size: usize,
    done: Option<DoneFn>,
    context: *mut c_void,
) -> c_int {
    guarded(|| {
        let Some(client) = client() else {
            return Status::Disabled;
        };
        let Some(done) = done else {
            remember(&invalid(
                "xylem_get_page_async was called without a callback",
            ));
            return Status::Invalid;
        };
        // SAFETY: the caller vouches for the buffer until `done` is called.
        match unsafe { wanted(space_id, page_no, min_lsn, buf, size) } {
            Ok(wanted) => match client.get_page_async(wanted, Callback { done, context }) {
                Ok(()) => Status::Ok,
                Err(status) => status,
            },
            Err(error) => {
                remember(&error);
                error.status
            }
        }
    })
}

/// Runs `f` with the page cache, if it is open.
fn with_cache<T>(f: impl FnOnce(&Cache) -> T) -> Option<T> {
    let cache = CACHE.read().unwrap_or_else(PoisonError::into_inner);
    cache.as_ref().map(f)
}

/// See the header.
///
/// # Safety
/// `path` and `branch` are NULL or NUL-terminated; `error` is NULL or has `error_size`
/// writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_cache_open(
    path: *const c_char,
    bytes: u64,
    page_size: u32,
    branch: *const c_char,
    epoch: u64,
    start_lsn: u64,
    error: *mut c_char,
    error_size: usize,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller vouches for the NULs.
        let texts = unsafe { text("the path of the page cache", path) }
            .and_then(|path| Ok((path, unsafe { text("the branch", branch) }?)));
        let opened = texts.and_then(|(path, branch)| {
            let path = path.ok_or_else(|| invalid("the path of the page cache is missing"))?;
            let branch = branch.ok_or_else(|| invalid("the branch is missing"))?;
            if page_size == 0 || page_size as usize > PAGE_MAX {
                return Err(invalid(&format!(
                    "a page cache of pages of {page_size} bytes is impossible"
                )));
            }
            Cache::open(cache::Settings {
                path: path.into(),
                bytes,
                page_size,
                branch,
                epoch,
                start_lsn,
            })
        });
        match opened {
            Ok(cache) => {
                *CACHE.write().unwrap_or_else(PoisonError::into_inner) = Some(cache);
                Status::Ok
            }
            Err(e) => {
                remember(&e);
                // SAFETY: the caller vouches for the buffer.
                unsafe { copy_text(&e.message, error, error_size) };
                e.status
            }
        }
    })
}

/// See the header.
///
/// # Safety
/// `buf` has `size` writable bytes that nothing else uses; `ticket` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_cache_get(
    space_id: u32,
    page_no: u32,
    buf: *mut c_void,
    size: usize,
    wait: c_int,
    ticket: *mut u64,
) -> c_int {
    guarded(|| {
        let found = with_cache(|cache| {
            // SAFETY: the caller vouches for the pointer, when it is not NULL.
            if let Some(ticket) = unsafe { ticket.as_mut() } {
                *ticket = cache.ticket().number();
            }
            if buf.is_null() || size > PAGE_MAX {
                return Found::Miss;
            }
            // SAFETY: the caller vouches for `size` bytes.
            let buf = unsafe { std::slice::from_raw_parts_mut(buf.cast::<u8>(), size) };
            cache.get(PageId::new(space_id, page_no), buf, wait != 0)
        });
        match found {
            Some(Found::Hit) => Status::Ok,
            Some(Found::Busy) => Status::Timeout,
            Some(Found::Miss) | None => Status::NotFound,
        }
    })
}

/// See the header.
///
/// # Safety
/// `buf` has `size` readable bytes that nothing changes during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_cache_put(
    space_id: u32,
    page_no: u32,
    buf: *const c_void,
    size: usize,
    ticket: u64,
) {
    guarded(|| {
        if buf.is_null() || size > PAGE_MAX {
            return Status::Invalid;
        }
        // SAFETY: the caller vouches for `size` bytes.
        let data = unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), size) };
        with_cache(|cache| {
            let ticket = match ticket {
                0 => cache.ticket(),
                number => Ticket::from_number(number),
            };
            cache.put(PageId::new(space_id, page_no), data, ticket);
        });
        Status::Ok
    });
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_cache_forget(space_id: u32, page_no: u32) {
    guarded(|| {
        with_cache(|cache| cache.forget(PageId::new(space_id, page_no)));
        Status::Ok
    });
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_cache_forget_space(space_id: u32) {
    guarded(|| {
        with_cache(|cache| cache.forget_space(space_id));
        Status::Ok
    });
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_cache_close(end_lsn: u64) {
    guarded(|| {
        let cache = CACHE.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(cache) = cache {
            cache.close((end_lsn != 0).then_some(end_lsn));
        }
        Status::Ok
    });
}

/// See the header.
///
/// # Safety
/// `requests` points to `count` requests, each with a valid buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_get_pages_batch(requests: *mut CPageRequest, count: usize) -> c_int {
    guarded(|| {
        let Some(client) = client() else {
            return Status::Disabled;
        };
        if count == 0 {
            return Status::Ok;
        }
        if requests.is_null() {
            remember(&invalid(
                "xylem_get_pages_batch was called without requests",
            ));
            return Status::Invalid;
        }
        // SAFETY: the caller vouches for `count` requests.
        let requests = unsafe { std::slice::from_raw_parts_mut(requests, count) };
        let mut all = Vec::with_capacity(count);
        for r in requests.iter() {
            // SAFETY: the caller waits here until all calls complete.
            match unsafe { wanted(r.space_id, r.page_no, r.min_lsn, r.buf, r.size) } {
                Ok(wanted) => all.push(wanted),
                Err(error) => {
                    remember(&error);
                    return error.status;
                }
            }
        }
        let mut worst = Status::Ok;
        for (request, status) in requests.iter_mut().zip(client.get_pages(&all)) {
            request.status = status.code();
            worst = worst.worst(status);
        }
        worst
    })
}

/// See the header.
///
/// # Safety
/// `data` has `size` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_stream_wal(
    start_lsn: u64,
    data: *const c_void,
    size: usize,
) -> c_int {
    with_client(|client| {
        if size == 0 {
            return Ok(());
        }
        if data.is_null() || isize::try_from(size).is_err() {
            return Err(invalid("xylem_stream_wal was called without data"));
        }
        if start_lsn.checked_add(size as u64).is_none() {
            return Err(invalid("the redo ends beyond the largest LSN"));
        }
        // SAFETY: the caller vouches for the bytes.
        let redo = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) };
        client.stream_wal(start_lsn, redo)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_wait_durable(lsn: u64) -> c_int {
    with_client(|client| client.wait_durable(lsn))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_before_log(send: Option<sidefiles::logs::Hook>) {
    let _ = catch_unwind(|| sidefiles::logs::set_hook(send));
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_mend_log() -> c_int {
    with_client(|_| binlog::mend())
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_log_transactions(
    each: Option<extern "C" fn(*mut c_void, u64)>,
    context: *mut c_void,
) -> c_int {
    with_client(|_| {
        let each = each.ok_or_else(|| invalid("xylem_log_transactions has no callback"))?;
        for xid in binlog::transactions()? {
            each(context, xid);
        }
        Ok(())
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn xylem_durable_lsn() -> u64 {
    catch_unwind(|| client().map_or(0, |client| client.shared().stats.lsn_durable.get()))
        .unwrap_or(0)
}

/// See the header.
///
/// # Safety
/// `round_trip_us` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_ping(round_trip_us: *mut u64) -> c_int {
    with_client(|client| {
        let (_, took) = client.ping()?;
        // SAFETY: the caller vouches for the pointer, when it is not NULL.
        if let Some(out) = unsafe { round_trip_us.as_mut() } {
            *out = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        }
        Ok(())
    })
}

/// See the header.
///
/// # Safety
/// `ids` points to `count` numbers; it may be NULL if there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_fetch_tablespaces(ids: *const u32, count: usize) -> c_int {
    // SAFETY: the caller vouches for the numbers.
    with_client(|client| tablespace::fetch(client, unsafe { numbers(ids, count) }))
}

/// See the header.
///
/// # Safety
/// As for [`xylem_fetch_tablespaces`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_forget_tablespaces(ids: *const u32, count: usize) {
    if let Some(client) = client() {
        // SAFETY: the caller vouches for the numbers.
        client.fetched().forget(unsafe { numbers(ids, count) });
    }
}

/// # Safety
/// `ids` points to `count` numbers that outlive the slice; it may be NULL if there are
/// none.
unsafe fn numbers<'a>(ids: *const u32, count: usize) -> &'a [u32] {
    if ids.is_null() {
        return &[];
    }
    // SAFETY: the caller vouches for the numbers.
    unsafe { std::slice::from_raw_parts(ids, count) }
}

/// See the header.
///
/// # Safety
/// `path` is NULL or has `size` writable bytes; `flags` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_open_tablespace(
    space_id: u32,
    path: *mut c_char,
    size: usize,
    flags: *mut u32,
    make: c_int,
) -> c_int {
    with_client(|client| {
        if path.is_null() || flags.is_null() {
            return Err(invalid(
                "xylem_open_tablespace was called without a path or flags buffer",
            ));
        }
        let _ours = sidefiles::Uncaptured::new();
        let space = tablespace::open(client, space_id, make != 0)?;
        let bytes = space.path.as_bytes();
        if bytes.len() >= size {
            return Err(invalid(&format!(
                "tablespace {space_id}: the path {:?} does not fit into {size} bytes",
                space.path
            )));
        }
        // SAFETY: the caller vouches for `flags` and for `size` bytes. The path
        // and its NUL fit into them.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), path, bytes.len());
            *path.add(bytes.len()) = 0;
            *flags = space.flags;
        }
        Ok(())
    })
}

/// See the header.
///
/// # Safety
/// `stats` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_get_stats(stats: *mut CStats) {
    guarded(|| {
        // SAFETY: the caller vouches for the pointer, when it is not NULL.
        if let Some(out) = unsafe { stats.as_mut() } {
            *out = client().map_or_else(CStats::default, |client| {
                let s = &client.shared().stats;
                CStats {
                    pages_read: s.pages_read.get(),
                    pages_read_async: s.pages_read_async.get(),
                    page_bytes: s.page_bytes.get(),
                    page_wait_us: s.page_wait_us.get(),
                    page_retries: s.page_retries.get(),
                    page_errors: s.page_errors.get(),
                    redo_bytes_sent: s.redo_bytes_sent.get(),
                    lsn_queued: s.lsn_queued.get(),
                    lsn_sent: s.lsn_sent.get(),
                    lsn_durable: s.lsn_durable.get(),
                    lsn_applied: s.lsn_applied.get(),
                    durable_waits: s.durable_waits.get(),
                    durable_wait_us: s.durable_wait_us.get(),
                    side_file_ops: s.side_file_ops.get(),
                    tablespace_waits: s.tablespace_waits.get(),
                    reconnects: s.reconnects.get(),
                    connected: s.connected.get(),
                    stalled: u64::from(client.shared().is_stalled()),
                    ..CStats::default()
                }
            });
            with_cache(|cache| {
                let counters = cache.counters();
                out.cache_size = cache.size();
                out.cache_pages = cache.pages();
                out.cache_hits = counters.hits.get();
                out.cache_puts = counters.puts.get();
                out.cache_evictions = counters.evictions.get();
                out.cache_damaged = counters.damaged.get();
            });
        }
        Status::Ok
    });
}

/// See the header.
///
/// # Safety
/// `buf` is NULL or has `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xylem_last_error(buf: *mut c_char, size: usize) {
    guarded(|| {
        // SAFETY: the caller vouches for the buffer.
        unsafe { copy_text(&last_error(), buf, size) };
        Status::Ok
    });
}
