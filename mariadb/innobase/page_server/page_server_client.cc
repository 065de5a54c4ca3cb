/*****************************************************************************

InnoDB's side of libxylem_client: settings, page reads, redo, status.

libxylem_client.so is preloaded into the server process, because it also captures
the files that MariaDB keeps beside InnoDB. This plugin looks up its functions when
the feature is enabled, so that it can be loaded without the library.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#include "page_server.h"
#include "page_server_clean.h"
#include "page_server_engines.h"
#include "page_server_private.h"
#include "buf0buf.h"
#include "fil0fil.h"
#include "fsp0sysspace.h"
#include "log0log.h"
#include "os0file.h"
#include "srv0srv.h"
#include "srv0start.h"
#include "ut0byte.h"
#include <mysql/plugin.h>
#include <mysqld_error.h>
#include "log.h"
#include "tpool.h"
#include "xylem_client.h"
#include <atomic>
#include <dlfcn.h>
#include <string>

namespace page_server
{
my_bool enabled;
char *address;
uint port;
char *socket;
char *branch;
ulonglong epoch;
ulonglong start_lsn;
char *token_file;
char *tls_ca;
char *tls_cert;
char *tls_key;
uint connections;
uint connect_timeout;
uint request_timeout;
uint retry_limit;
ulonglong queue_size;
ulonglong cache_size;
char *cache_file;
bool caches;

namespace
{
/** The functions of libxylem_client.so */
struct
{
#define CLIENT_FUNCTION(name) decltype(&xylem_ ## name) name
  CLIENT_FUNCTION(init);
  CLIENT_FUNCTION(shutdown);
  CLIENT_FUNCTION(set_timeouts);
  CLIENT_FUNCTION(get_page);
  CLIENT_FUNCTION(get_page_async);
  CLIENT_FUNCTION(get_pages_batch);
  CLIENT_FUNCTION(stream_wal);
  CLIENT_FUNCTION(wait_durable);
  CLIENT_FUNCTION(fetch_tablespaces);
  CLIENT_FUNCTION(forget_tablespaces);
  CLIENT_FUNCTION(open_tablespace);
  CLIENT_FUNCTION(before_log);
  CLIENT_FUNCTION(mend_log);
  CLIENT_FUNCTION(log_transactions);
  CLIENT_FUNCTION(cache_open);
  CLIENT_FUNCTION(cache_get);
  CLIENT_FUNCTION(cache_put);
  CLIENT_FUNCTION(cache_forget);
  CLIENT_FUNCTION(cache_forget_space);
  CLIENT_FUNCTION(cache_close);
  CLIENT_FUNCTION(get_stats);
  CLIENT_FUNCTION(last_error);
#undef CLIENT_FUNCTION
} client;

/** Whether start() succeeded and stop() was not called */
bool connected;

/** The values of status_variables */
xylem_stats stats;
char last_error[512];

/** LSNs at which pages last became clean */
clean_lsns clean;

/** Make the table of clean pages, with room for 7/4 of the pages that the buffer
pool holds, in 0.2% of its size. Pages that became clean before that many others are
no longer distinguished.
@return whether there was enough memory */
bool make_clean_lsns() noexcept
{
  static constexpr uint64_t SETS_MIN{1U << 14}, SETS_MAX{1U << 31};
  const uint64_t pages{buf_pool.size_in_bytes_requested >> srv_page_size_shift};
  if (clean.create(std::min(std::max(pages / 4, SETS_MIN), SETS_MAX)))
    return true;
  sql_print_error("InnoDB: Cannot allocate memory for the LSNs of clean pages");
  return false;
}

template<typename F> bool look_up(F &function, const char *name) noexcept
{
  function= reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  if (function)
    return true;
  sql_print_error("InnoDB: innodb_page_server_enabled=ON needs"
                  " libxylem_client.so to be preloaded (LD_PRELOAD) into this"
                  " process: %s was not found", name);
  return false;
}

bool look_up_all() noexcept
{
#define LOOK_UP(name) look_up(client.name, "xylem_" #name)
  return LOOK_UP(init) && LOOK_UP(shutdown) && LOOK_UP(set_timeouts) &&
    LOOK_UP(get_page) && LOOK_UP(get_page_async) &&
    LOOK_UP(get_pages_batch) && LOOK_UP(stream_wal) &&
    LOOK_UP(wait_durable) && LOOK_UP(fetch_tablespaces) &&
    LOOK_UP(forget_tablespaces) && LOOK_UP(open_tablespace) &&
    LOOK_UP(before_log) && LOOK_UP(mend_log) && LOOK_UP(log_transactions) &&
    LOOK_UP(cache_open) && LOOK_UP(cache_get) && LOOK_UP(cache_put) &&
    LOOK_UP(cache_forget) && LOOK_UP(cache_forget_space) &&
    LOOK_UP(cache_close) && LOOK_UP(get_stats) && LOOK_UP(last_error);
#undef LOOK_UP
}

/** @return whether a path is empty or the data directory itself */
bool is_datadir(const char *path) noexcept
{
  char datadir[PATH_MAX], there[PATH_MAX];
  return !path || !*path ||
    (realpath(fil_path_to_mysql_datadir, datadir) && realpath(path, there) &&
     !strcmp(datadir, there));
}

/** Refuse settings with which the page server would not have all data.
@return whether all settings are allowed */
bool check_settings() noexcept
{
  bool ok{true};
  const auto refuse= [&ok](const char *what, const char *why)
  {
    sql_print_error("InnoDB: innodb_page_server_enabled=ON cannot work with"
                    " %s: %s", what, why);
    ok= false;
  };

  if (srv_encrypt_log)
    refuse("innodb_encrypt_log=ON",
           "the page server must read the redo; set it to OFF and encrypt"
           " the page server's disks instead");
  if (srv_encrypt_tables)
    refuse("innodb_encrypt_tables",
           "InnoDB encrypts pages only when it writes them to files, which"
           " it does not do here; set it to OFF and encrypt the page"
           " server's disks instead");
  if (srv_force_recovery >= SRV_FORCE_NO_LOG_REDO)
    refuse("innodb_force_recovery=6", "it ignores the redo log; use 5 or less");
  unsigned files{0};
  bool ibdata1{true};
  for (const Datafile &file : srv_sys_space)
  {
    const char *name= strrchr(file.filepath(), '/');
    ibdata1&= !strcmp(name ? name + 1 : file.filepath(), "ibdata1");
    files++;
  }
  if (files != 1 || !ibdata1)
    refuse("this innodb_data_file_path",
           "the system tablespace must be one file called ibdata1, of any"
           " size");
  static constexpr char only_datadir[]=
    "the page server identifies files by their path in the data directory;"
    " remove the setting";
  if (!is_datadir(srv_data_home))
    refuse("innodb_data_home_dir", only_datadir);
  if (!is_datadir(srv_log_group_home_dir))
    refuse("innodb_log_group_home_dir", only_datadir);
  if (!is_datadir(srv_undo_dir))
    refuse("innodb_undo_directory", only_datadir);
  if (srv_operation != SRV_OPERATION_NORMAL)
    refuse("mariadb-backup", "there are no data files to copy");
  if (!srv_read_only_mode && !epoch)
    refuse("innodb_page_server_epoch=0",
           "writing to a branch requires the epoch of an attach; start the"
           " server with \"xylem compute start\"");
  return ok;
}

/** Adjust settings that have only one useful value here. */
void adjust_settings() noexcept
{
  /* Pages are not written, so they cannot be torn. */
  srv_use_doublewrite_buf= false;

  /* ib_logfile0 holds only a start position. The attach sets its size, and InnoDB
  must not try to resize it. */
  struct stat st;
  if (!stat(get_log_file_path().c_str(), &st) && st.st_size > 0)
    srv_log_file_size= ulonglong(st.st_size);
}

/** @return the token, or an empty string
@param ok  set to false on error */
std::string read_token(bool &ok)
{
  std::string token;
  if (!token_file || !*token_file)
    return token;
  FILE *f= fopen(token_file, "r");
  if (!f)
  {
    sql_print_error("InnoDB: Cannot open innodb_page_server_token_file=%s: %s",
                    token_file, strerror(errno));
    ok= false;
    return token;
  }
  char buf[1024];
  if (fgets(buf, sizeof buf, f))
    token.assign(buf, strcspn(buf, "\r\n"));
  fclose(f);
  if (token.empty())
  {
    sql_print_error("InnoDB: innodb_page_server_token_file=%s is empty",
                    token_file);
    ok= false;
  }
  return token;
}

/** Open the page cache. This server also works without one. */
void open_cache() noexcept
{
  if (!cache_size)
    return;
  char error[512];
  caches= !client.cache_open(cache_file, cache_size, uint32_t(srv_page_size),
                             branch, srv_read_only_mode ? 0 : epoch, start_lsn,
                             error, sizeof error);
  if (!caches)
    sql_print_warning("InnoDB: %s; all pages are read from the page server",
                      error);
}

/** @return whether every page is clean, so that the page cache has no page older
than the branch */
bool all_clean() noexcept
{
  bool clean{true};
  mysql_mutex_lock(&buf_pool.flush_list_mutex);
  for (const buf_page_t *b= UT_LIST_GET_FIRST(buf_pool.flush_list); b;
       b= UT_LIST_GET_NEXT(list, b))
    clean&= b->oldest_modification() <= 1;
  mysql_mutex_unlock(&buf_pool.flush_list_mutex);
  return clean;
}

/** End this process at once, without a core dump, because the page server does not
accept redo or return pages any more. Nothing after the last acknowledged commit
may appear to succeed, and an unavailable page must not be treated as corrupted.
This server holds no data that is needed elsewhere.
@param what    the operation that failed
@param status  its status */
[[noreturn]] ATTRIBUTE_COLD void give_up(const char *what, int status) noexcept
{
  static std::atomic_flag said= ATOMIC_FLAG_INIT;
  while (said.test_and_set())
    /* Another thread is about to end the process. */
    pause();

  char detail[512];
  client.last_error(detail, sizeof detail);
  if (status == XYLEM_FENCED)
    sql_print_error("[FATAL] InnoDB: branch '%s' was taken over by a newer"
                    " server (%s). This server stops; what it had not"
                    " acknowledged is not in the branch.", branch, detail);
  else if (status == XYLEM_TIMEOUT)
    sql_print_error("[FATAL] InnoDB: %s failed: %s. This server stops; every"
                    " acknowledged commit is on the page server. Start it"
                    " again when the page server at %s:%u is back.",
                    what, detail, address, port);
  else
    sql_print_error("[FATAL] InnoDB: %s failed: %s. This server stops; every"
                    " acknowledged commit is on the page server. Remove the"
                    " cause and start it again.", what, detail);
  end_server();
}

/** Fetch the pages that the last start read and the tablespaces that they belong to,
before InnoDB asks for them one by one. */
void fetch_start_pages()
{
  /* Without the timer of end_start() they would be kept for ever. */
  if (srv_read_only_mode || srv_force_recovery >= SRV_FORCE_NO_BACKGROUND)
    return;
  const std::vector<start_page> pages{start_pages()};
  std::vector<xylem_page_request> requests;
  requests.reserve(pages.size());
  for (const start_page &page : pages)
    requests.push_back({page.id.space(), page.id.page_no(),
                        clean.of(page.id.raw()), page.buf, page.size,
                        XYLEM_CANCELLED});
  if (requests.empty())
    return;
  client.get_pages_batch(requests.data(), requests.size());
  for (size_t i= 0; i < pages.size(); i++)
    switch (const int status= requests[i].status) {
    case XYLEM_OK:
      start_page_fetched(pages[i]);
      break;
    case XYLEM_TIMEOUT:
    case XYLEM_FENCED:
      give_up("reading a page", status);
    default:
      /* It will be read again, with what there is to say about it. */
      break;
    }

  const std::vector<uint32_t> spaces{start_spaces(pages)};
  switch (const int status= client.fetch_tablespaces(spaces.data(),
                                                     spaces.size())) {
  case XYLEM_TIMEOUT:
  case XYLEM_FENCED:
    give_up("opening a tablespace", status);
  default:
    break;
  }
}

/** Shows in SHOW PROCESSLIST what a connection waits for */
class stage
{
  THD *const thd;
  const char *before;
public:
  stage(const char *text) noexcept : thd(current_thd), before(nullptr)
  {
    if (thd)
      before= thd_proc_info(thd, text);
  }
  ~stage()
  {
    if (thd)
      thd_proc_info(thd, before);
  }
  stage(const stage&)= delete;
  stage &operator=(const stage&)= delete;
};
} // namespace

void end_server() noexcept
{
  fflush(stderr);
  _exit(3);
}

bool start() noexcept
{
  if (!look_up_all() || !check_settings() || !make_clean_lsns() ||
      !engines_start())
    return false;

  bool ok{true};
  const std::string token{read_token(ok)};
  if (!ok)
    return false;

  adjust_settings();

  char datadir[PATH_MAX];
  if (!realpath(fil_path_to_mysql_datadir, datadir))
  {
    sql_print_error("InnoDB: Cannot resolve the data directory %s: %s",
                    fil_path_to_mysql_datadir, strerror(errno));
    return false;
  }

  xylem_config config= {};
  config.address= address;
  config.port= uint16_t(port);
  config.socket= socket;
  config.branch= branch;
  config.epoch= epoch;
  config.token= token.empty() ? nullptr : token.c_str();
  config.tls_ca= tls_ca;
  config.tls_cert= tls_cert;
  config.tls_key= tls_key;
  config.datadir= datadir;
  config.start_lsn= start_lsn;
  config.connections= connections;
  config.connect_timeout_ms= connect_timeout;
  config.request_timeout_ms= request_timeout;
  config.retry_limit_ms= retry_limit * 1000;
  config.queue_bytes= queue_size;

  char error[512];
  if (client.init(&config, error, sizeof error))
  {
    sql_print_error("InnoDB: Cannot use the page server at %s:%u: %s",
                    address, port, error);
    return false;
  }

  connected= true;
  open_cache();
  fetch_start_pages();
  sql_print_information("InnoDB: Using branch '%s' of the page server at %s:%u%s%s;"
                        " epoch %llu, start LSN %llu",
                        branch, address, port, *socket ? ", " : "", socket,
                        epoch, start_lsn);
  return true;
}

void stop(lsn_t lsn) noexcept
{
  if (!connected)
    return;
  /* MariaDB has closed the binary log. */
  client.before_log(nullptr);
  /* It ends when the redo before it is durable, which a shutdown waits for, too. */
  wait_for_start_pages();
  forget_kept();
  connected= false;
  if (caches)
  {
    caches= false;
    client.cache_close(srv_was_started && all_clean() ? lsn : 0);
  }
  client.shutdown();
  engines_stop();
}

void log_sends_redo() noexcept
{
  client.before_log([]() { log_write_up_to(log_sys.get_lsn(), false); });
}

bool mend_log() noexcept
{
  if (client.mend_log() == XYLEM_OK)
    return true;
  char error[512];
  client.last_error(error, sizeof error);
  sql_print_error("InnoDB: Cannot repair the binary log: %s", error);
  return false;
}

bool log_transactions(std::unordered_set<uint64_t> &xids) noexcept
{
  const int status= client.log_transactions([](void *to, uint64_t xid) {
    static_cast<std::unordered_set<uint64_t>*>(to)->insert(xid);
  }, &xids);
  if (status == XYLEM_OK)
    return true;
  char error[512];
  client.last_error(error, sizeof error);
  sql_print_error("InnoDB: Cannot read the binary log at the branch point, which"
                  " decides on transactions that were being committed there: %s;"
                  " hint: if the log itself is damaged, make the branch at an"
                  " earlier moment", error);
  return false;
}

bool serves(const fil_space_t &space) noexcept
{
  return enabled && !space.is_temporary() && !space.is_being_imported();
}

bool is_temporary(const char *name) noexcept
{
  for (const Datafile &file : srv_tmp_space)
    if (!strcmp(file.filepath(), name))
      return true;
  return false;
}

/** @return the InnoDB error code for a status of the client library. Does not
return if pages cannot be read any more. */
static dberr_t to_dberr(int status, page_id_t id, void *buf, size_t len)
  noexcept
{
  switch (status) {
  case XYLEM_OK:
    return DB_SUCCESS;
  case XYLEM_NOT_FOUND:
    /* Read-ahead may request pages beyond the end. On a local disk, too, pages of
    a file that was extended but not written are zeros. */
    memset(buf, 0, len);
    return DB_SUCCESS;
  case XYLEM_CORRUPT:
    sql_print_error("InnoDB: The page server reports page [page id: space="
                    UINT32PF ", page number=" UINT32PF "] as corrupted",
                    id.space(), id.page_no());
    return DB_PAGE_CORRUPTED;
  case XYLEM_CANCELLED:
  case XYLEM_DISABLED:
    /* This server is being shut down. */
    return DB_IO_ERROR;
  default:
    give_up("reading a page", status);
  }
}

dberr_t read(page_id_t id, void *buf, size_t len, bool pool) noexcept
{
  if (start_page_take(id, buf, len))
    return DB_SUCCESS;
  const bool cached{pool && caches};
  uint64_t ticket;
  if (cached && !client.cache_get(id.space(), id.page_no(), buf, len, true,
                                  &ticket))
    return DB_SUCCESS;
  const stage waiting{"Reading a page from the page server"};
  const lsn_t lsn{clean.of(id.raw())};
  const int status= client.get_page(id.space(), id.page_no(), lsn, buf, len);
  if (cached && status == XYLEM_OK)
    client.cache_put(id.space(), id.page_no(), buf, len, ticket);
  return to_dberr(status, id, buf, len);
}

dberr_t read_many(page_id_t id, uint32_t n, byte *buf, size_t len) noexcept
{
  ut_ad(n <= READ_MANY);
  const stage waiting{"Reading pages from the page server"};
  xylem_page_request requests[READ_MANY];
  for (uint32_t i= 0; i < n; i++)
  {
    const page_id_t page{id.space(), id.page_no() + i};
    requests[i]= {page.space(), page.page_no(), clean.of(page.raw()),
                  buf + i * len, len, XYLEM_CANCELLED};
  }
  client.get_pages_batch(requests, n);
  for (uint32_t i= 0; i < n; i++)
  {
    const page_id_t page{id.space(), id.page_no() + i};
    const dberr_t err{to_dberr(requests[i].status, page, requests[i].buf, len)};
    if (err != DB_SUCCESS)
      return err;
  }
  return DB_SUCCESS;
}

/** Put a page that was received into the page cache, and call back InnoDB. m_ret_len
holds the ticket.
@param arg  request */
static void read_received(void *arg)
{
  tpool::aiocb *cb= static_cast<tpool::aiocb*>(arg);
  const page_id_t id{cb->m_offset};
  client.cache_put(id.space(), id.page_no(), cb->m_buffer, cb->m_len,
                   cb->m_ret_len);
  cb->m_ret_len= cb->m_len;
  cb->m_callback(cb);
}

/** Let a thread of the pool go on with an asynchronous read, because InnoDB may need
other pages when it is called back.
@param cb     request
@param go_on  function to call with the request */
static void submit(tpool::aiocb *cb, tpool::callback_func go_on) noexcept
{
  cb->m_internal_task.m_func= go_on;
  srv_thread_pool->submit_task(&cb->m_internal_task);
}

/** Receive the outcome of an asynchronous read, on a thread of the client
library. */
static void read_done(void *context, int status)
{
  tpool::aiocb *cb= static_cast<tpool::aiocb*>(context);
  const page_id_t id{cb->m_offset};
  const bool put{caches && status == XYLEM_OK};
  if (to_dberr(status, id, cb->m_buffer, cb->m_len) == DB_SUCCESS)
  {
    cb->m_err= 0;
    if (!put)
      cb->m_ret_len= cb->m_len;
  }
  else
  {
    cb->m_err= EIO;
    cb->m_ret_len= 0;
  }
  submit(cb, put ? read_received : cb->m_callback);
}

/** Request a page of an asynchronous read from the page server.
@return whether the request was accepted */
static bool request(tpool::aiocb *cb) noexcept
{
  const page_id_t id{cb->m_offset};
  const lsn_t lsn{clean.of(id.raw())};
  return client.get_page_async(id.space(), id.page_no(), lsn, cb->m_buffer,
                               cb->m_len, read_done, cb) == XYLEM_OK;
}

/** Look for a page in the page cache. Store the ticket in m_ret_len.
@param cb    request
@param wait  whether to wait for the disk
@return status of the client library */
static int read_cached(tpool::aiocb *cb, bool wait) noexcept
{
  const page_id_t id{cb->m_offset};
  uint64_t ticket;
  const int status= client.cache_get(id.space(), id.page_no(), cb->m_buffer,
                                     cb->m_len, wait, &ticket);
  cb->m_err= 0;
  cb->m_ret_len= status == XYLEM_OK ? cb->m_len : size_t(ticket);
  return status;
}

/** Wait for the disk of the page cache, on a thread of the pool.
@param arg  request */
static void read_disk(void *arg)
{
  tpool::aiocb *cb= static_cast<tpool::aiocb*>(arg);
  if (read_cached(cb, true) == XYLEM_OK)
    cb->m_callback(cb);
  else if (!request(cb))
  {
    cb->m_err= EIO;
    cb->m_ret_len= 0;
    cb->m_callback(cb);
  }
}

bool read_async(tpool::aiocb *cb, page_id_t id) noexcept
{
  /* There is no file position, so m_offset holds the page identifier. */
  cb->m_offset= id.raw();
  cb->m_internal_task.m_arg= cb;
  cb->m_internal_task.m_group= cb->m_group;
  if (caches)
    switch (read_cached(cb, false)) {
    case XYLEM_OK:
      submit(cb, cb->m_callback);
      return true;
    case XYLEM_TIMEOUT:
      submit(cb, read_disk);
      return true;
    }
  return request(cb);
}

void cache_put(page_id_t id, const void *page, size_t len) noexcept
{
  /* At shutdown, the pages of a large buffer pool would only displace each other. */
  static std::atomic<uint64_t> last;
  if (srv_shutdown_state >= SRV_SHUTDOWN_CLEANUP &&
      last.fetch_add(srv_page_size, std::memory_order_relaxed) >= cache_size)
    return;
  client.cache_put(id.space(), id.page_no(), page, len, 0);
}

void cache_forget_low(page_id_t id) noexcept
{
  client.cache_forget(id.space(), id.page_no());
}

void cache_forget_space(uint32_t id) noexcept
{
  if (caches)
    client.cache_forget_space(id);
  if (starting.load(std::memory_order_relaxed))
    start_pages_forget_space(id);
}

void note_clean(page_id_t id, lsn_t lsn) noexcept
{
  clean.note(id.raw(), lsn);
}

void stream_redo(lsn_t lsn, const byte *data, size_t size) noexcept
{
  if (int status= client.stream_wal(lsn, data, size))
    give_up("streaming redo", status);
}

void wait_durable(lsn_t lsn) noexcept
{
  if (int status= client.wait_durable(lsn))
    give_up("making redo durable", status);
}

bool fetch_space(uint32_t id) noexcept
{
  if (!connected || was_dropped(id))
    return false;
  switch (int status= client.fetch_tablespaces(&id, 1)) {
  case XYLEM_TIMEOUT:
  case XYLEM_FENCED:
    give_up("opening a tablespace", status);
  default:
    /* A statement that opens the table says what is wrong with it. */
    return status == XYLEM_OK;
  }
}

void forget_fetched_spaces(const uint32_t *ids, size_t count) noexcept
{
  if (connected)
    client.forget_tablespaces(ids, count);
}

fil_space_t *open_space(uint32_t id, uint32_t flags, bool make) noexcept
{
  if (!connected || was_dropped(id))
    return nullptr;
  const stage waiting{"Opening a tablespace of the page server"};
  char place[FN_REFLEN];
  uint32_t flags_there;
  switch (int status= client.open_tablespace(id, place, sizeof place,
                                             &flags_there, make)) {
  case XYLEM_OK:
    break;
  case XYLEM_NOT_FOUND:
  case XYLEM_CANCELLED:
  case XYLEM_DISABLED:
    return nullptr;
  case XYLEM_CORRUPT:
    note_damaged(id, true);
    char detail[512];
    client.last_error(detail, sizeof detail);
    sql_print_error("InnoDB: The table of tablespace " UINT32PF " is refused:"
                    " %s. Drop it, or restore the branch to a moment before"
                    " the damage.", id, detail);
    return nullptr;
  default:
    give_up("opening a tablespace", status);
  }

  if (make)
    note_damaged(id, false);
  const std::string name{std::string{"./"} + place};
  mysql_mutex_lock(&fil_system.mutex);
  fil_space_t *space= fil_space_get_by_id(id);
  if (!space &&
      (space= fil_space_t::create(id, flags == UINT32_MAX ? flags_there : flags,
                                  false, nullptr)))
    space->add(name.c_str(), OS_FILE_CLOSED, 0, false, true);
  mysql_mutex_unlock(&fil_system.mutex);
  return space;
}

void make_file(uint32_t id, const char *name, unsigned *failures) noexcept
{
  static constexpr unsigned FIRST_PAUSE{100}, LONGEST_PAUSE{5000};
  unsigned waited{0}, pause{FIRST_PAUSE};
  for (unsigned i= 0; i < *failures; i++)
  {
    waited+= pause;
    pause= std::min(2 * pause, LONGEST_PAUSE);
  }
  if (waited > retry_limit * 1000)
  {
    sql_print_error("[FATAL] InnoDB: Cannot open %s (see above). This server"
                    " stops; every acknowledged commit is on the page server."
                    " Remove the cause and start it again.", name);
    end_server();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(pause));
  ++*failures;
  char place[FN_REFLEN];
  uint32_t flags;
  switch (int status= client.open_tablespace(id, place, sizeof place, &flags,
                                             true)) {
  case XYLEM_OK:
  case XYLEM_NOT_FOUND:
  case XYLEM_CORRUPT:
  case XYLEM_CANCELLED:
  case XYLEM_DISABLED:
    break;
  default:
    give_up("opening a tablespace", status);
  }
}

bool excuses_wait() noexcept
{
  /* Time in seconds after such a wait during which other waits are excused */
  static constexpr time_t REST{60};
  static std::atomic<time_t> last;
  if (!connected)
    return false;
  const time_t now= my_time(0);
  xylem_stats current;
  client.get_stats(&current);
  if (current.stalled)
    last.store(now, std::memory_order_relaxed);
  const time_t then= last.load(std::memory_order_relaxed);
  return then && now - then <= REST;
}

void refresh_status() noexcept
{
  if (!connected)
    return;
  client.get_stats(&stats);
  client.last_error(last_error, sizeof last_error);
}

st_mysql_show_var status_variables[]=
{
  {"cache_damaged", (char*) &stats.cache_damaged, SHOW_ULONGLONG},
  {"cache_evictions", (char*) &stats.cache_evictions, SHOW_ULONGLONG},
  {"cache_hits", (char*) &stats.cache_hits, SHOW_ULONGLONG},
  {"cache_pages", (char*) &stats.cache_pages, SHOW_ULONGLONG},
  {"cache_puts", (char*) &stats.cache_puts, SHOW_ULONGLONG},
  {"cache_size", (char*) &stats.cache_size, SHOW_ULONGLONG},
  {"connected", (char*) &stats.connected, SHOW_ULONGLONG},
  {"durable_wait_us", (char*) &stats.durable_wait_us, SHOW_ULONGLONG},
  {"durable_waits", (char*) &stats.durable_waits, SHOW_ULONGLONG},
  {"last_error", (char*) last_error, SHOW_CHAR},
  {"lsn_applied", (char*) &stats.lsn_applied, SHOW_ULONGLONG},
  {"lsn_durable", (char*) &stats.lsn_durable, SHOW_ULONGLONG},
  {"lsn_queued", (char*) &stats.lsn_queued, SHOW_ULONGLONG},
  {"lsn_sent", (char*) &stats.lsn_sent, SHOW_ULONGLONG},
  {"page_bytes", (char*) &stats.page_bytes, SHOW_ULONGLONG},
  {"page_errors", (char*) &stats.page_errors, SHOW_ULONGLONG},
  {"page_retries", (char*) &stats.page_retries, SHOW_ULONGLONG},
  {"page_wait_us", (char*) &stats.page_wait_us, SHOW_ULONGLONG},
  {"pages_read", (char*) &stats.pages_read, SHOW_ULONGLONG},
  {"pages_read_async", (char*) &stats.pages_read_async, SHOW_ULONGLONG},
  {"reconnects", (char*) &stats.reconnects, SHOW_ULONGLONG},
  {"redo_bytes_sent", (char*) &stats.redo_bytes_sent, SHOW_ULONGLONG},
  {"side_file_ops", (char*) &stats.side_file_ops, SHOW_ULONGLONG},
  {"stalled", (char*) &stats.stalled, SHOW_ULONGLONG},
  {"start_pages_used", (char*) &start_pages_used, SHOW_ULONGLONG},
  {"tablespace_waits", (char*) &stats.tablespace_waits, SHOW_ULONGLONG},
  {nullptr, nullptr, SHOW_LONG}
};
} // namespace page_server

/** SET GLOBAL innodb_page_server_request_timeout, _retry_limit */
void page_server_update_timeouts(THD *, st_mysql_sys_var *, void *var,
                                 const void *save)
{
  *static_cast<uint*>(var)= *static_cast<const uint*>(save);
  if (page_server::connected)
    page_server::client.set_timeouts(page_server::request_timeout,
                                     page_server::retry_limit * 1000);
}
