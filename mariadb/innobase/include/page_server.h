/*****************************************************************************

InnoDB on a page server: this server keeps no data of its own.

With innodb_page_server_enabled=ON, InnoDB reads persistent pages from a page
server, and streams to it the redo that it would write to ib_logfile0. Flushing a
dirty page sends nothing, because the page server makes the page from the redo. The
few places in InnoDB that access files call the functions declared here.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "univ.i"
#include "buf0types.h"
#include "db0err.h"
#include "log0types.h"
#include <atomic>
#include <set>

struct dict_table_t;
struct fil_space_t;
struct trx_t;
struct st_mysql_show_var;
namespace tpool { struct aiocb; }

namespace page_server
{
/** innodb_page_server_enabled */
extern my_bool enabled;
/** innodb_page_server_address */
extern char *address;
/** innodb_page_server_port */
extern uint port;
/** innodb_page_server_socket */
extern char *socket;
/** innodb_page_server_branch */
extern char *branch;
/** innodb_page_server_epoch */
extern ulonglong epoch;
/** innodb_page_server_start_lsn */
extern ulonglong start_lsn;
/** innodb_page_server_token_file; the token itself is never shown */
extern char *token_file;
/** innodb_page_server_tls_ca */
extern char *tls_ca;
/** innodb_page_server_tls_cert */
extern char *tls_cert;
/** innodb_page_server_tls_key */
extern char *tls_key;
/** innodb_page_server_connections */
extern uint connections;
/** innodb_page_server_connect_timeout, in milliseconds */
extern uint connect_timeout;
/** innodb_page_server_request_timeout, in milliseconds */
extern uint request_timeout;
/** innodb_page_server_retry_limit, in seconds */
extern uint retry_limit;
/** innodb_page_server_queue_size, in bytes */
extern ulonglong queue_size;
/** innodb_page_server_cache_size, in bytes */
extern ulonglong cache_size;
/** innodb_page_server_cache_file */
extern char *cache_file;
/** Whether there is a page cache */
extern bool caches;
/** innodb_page_server_hot_pages_interval, in seconds */
extern uint hot_pages_interval;

/** Write the list of hot pages if it is time to. */
void keep_hot_pages() noexcept;

/** Wait until the server accepts connections, two seconds at most: the start's own reads
and statements come before hot pages. */
void wait_until_started() noexcept;

/** The largest number of hot pages that are listed: the list is sent as a whole, at
most 22 bytes for each */
static constexpr ulint HOT_PAGES_MAX{1U << 18};

/** Open the tablespaces of hot pages that the branch still has. Stops at shutdown.
@param ids  tablespace identifiers */
void open_spaces(const std::set<uint32_t> &ids) noexcept;

/** Bytes of ib_logfile0 from the checkpoint on that a start reads: it holds no more than
the checkpoint's mini-transaction, and zeros */
static constexpr size_t LOG_SCANNED{64U << 10};

/** Check the settings, adjust dependent settings of InnoDB, and connect.
@return whether InnoDB can start */
bool start() noexcept;

/** Free the transactions that stay open, send all queued redo, wait until it is
durable, and disconnect.
@param lsn  end of the redo */
void stop(lsn_t lsn) noexcept;

/** @return whether the pages of a tablespace are on the page server */
bool serves(const fil_space_t &space) noexcept;

/** @return whether a file belongs to the temporary tablespace, which is local and
needs space on the disk before it is written
@param name  file name */
bool is_temporary(const char *name) noexcept;

/** Read a page and wait for it, without a limit while the page server responds
that it cannot answer yet. Does not return if the page server is silent for longer
than the retry limit, or if this server lost the branch.
@param id    page identifier
@param buf   frame
@param len   physical page size
@param pool  whether the page is read for the buffer pool, which does not have it.
Other reads bypass the page cache.
@return error code */
dberr_t read(page_id_t id, void *buf, size_t len, bool pool) noexcept;

/** Read consecutive pages, all of them on their way at a time, otherwise like read()
past the buffer pool.
@param id    identifier of the first page
@param n     number of pages, at most READ_MANY
@param buf   buffer for n pages
@param len   physical page size
@return error code */
dberr_t read_many(page_id_t id, uint32_t n, byte *buf, size_t len) noexcept;

/** The largest number of pages of read_many() */
static constexpr uint32_t READ_MANY{64};

/** Start reading a page for the buffer pool. srv_thread_pool will execute cb->m_callback.
@param cb    asynchronous request: m_buffer, m_len, m_callback are set
@param id    page identifier
@return whether the request was accepted */
bool read_async(tpool::aiocb *cb, page_id_t id) noexcept;

/** Record that a dirty page is about to become clean. When it is read again, it
must show at least this LSN, which is durable.
@param id   page identifier
@param lsn  FIL_PAGE_LSN */
void note_clean(page_id_t id, lsn_t lsn) noexcept;

/** Put a page that is about to become clean into the page cache.
@param id    page identifier
@param page  frame with a valid checksum, which nobody changes during the call
@param len   physical page size */
void cache_put(page_id_t id, const void *page, size_t len) noexcept;

/** Forget the pages of a tablespace that was dropped, truncated or made anew.
@param id  tablespace identifier */
void cache_forget_space(uint32_t id) noexcept;

/** Whether the pages that the start reads are noted, and some were fetched */
extern std::atomic<bool> starting;

/** Slow parts of cache_forget() */
void cache_forget_low(page_id_t id) noexcept;
void start_page_forget(page_id_t id) noexcept;

/** Forget a page that becomes dirty, so that nothing outside the buffer pool has an old
version.
@param id  page identifier */
inline void cache_forget(page_id_t id) noexcept
{
  if (caches)
    cache_forget_low(id);
  if (UNIV_UNLIKELY(starting.load(std::memory_order_relaxed)))
    start_page_forget(id);
}

/** Have a thread of the pool write down the pages that the start read, some time after
it. Called once a second. Does not wait. */
void end_start() noexcept;

/** Stream redo. Does not return if the page server cannot take it.
@param lsn   log sequence number of the first byte
@param data  redo records
@param size  number of bytes */
void stream_redo(lsn_t lsn, const byte *data, size_t size) noexcept;

/** Wait until redo is durable. Does not return if it cannot become durable.
@param lsn   log sequence number */
void wait_durable(lsn_t lsn) noexcept;

/** Create the fil_space_t of a tablespace, with the file name that the page server
gives. After a crash the dictionary may give another name. Stock InnoDB would read
the right one from the redo log, but a compute has none. Rollback renames the file.

InnoDB skips rollback and purge in a tablespace that it cannot open. Therefore this
does not return after a temporary failure. It tries again, and finally ends this
server.
@param id     tablespace identifier
@param flags  FSP_SPACE_FLAGS and flags of the dictionary, or UINT32_MAX
@param make   whether to create the file, which is not needed for a drop
@return tablespace
@retval nullptr if the branch certainly has none, or is_damaged(id) */
fil_space_t *open_space(uint32_t id, uint32_t flags, bool make) noexcept;

/** Handle a failure to open the file of a tablespace: wait before the next
attempt, and create the file if it is missing. Does not return if the retry limit
has passed since the first failure.
@param id        tablespace identifier
@param name      file name
@param failures  number of failures so far, initially 0 */
void make_file(uint32_t id, const char *name, unsigned *failures) noexcept;

/** Record that this server drops a tablespace. The page server may not have read
the redo of the drop when the tablespace is looked up again.
@param id  tablespace identifier */
void note_dropped(uint32_t id) noexcept;

/** @return whether the page server has a tablespace but cannot read its first
page. Its table is refused, and no change to it is rolled back.
@param id  tablespace identifier */
bool is_damaged(uint32_t id) noexcept;

/** Record that this thread could not read a page that exists. */
void note_unreadable() noexcept;

/** Call note_unreadable() for a table that is not accessible, unless the branch
does not have its tablespace.
@param table  table that is not accessible */
void note_refused(const dict_table_t &table) noexcept;

/** Detects whether this thread failed to read a page since the construction of an
object. InnoDB treats unreadable pages as missing. In a rollback this would make
uncommitted changes permanent. */
class reads
{
  const uint64_t before;
  static uint64_t noted() noexcept;
public:
  reads() noexcept : before(noted()) {}
  /** @return whether note_unreadable() was called since */
  bool failed() const noexcept { return noted() != before; }
};

/** Refuse a table in which a recovered transaction cannot be rolled back because
of damage. Release the transaction's locks on the table, so that it can be dropped.
The rows still belong to the transaction while it is open.
@param table  table
@param trx    transaction; if it belongs to a connection, this does nothing */
void refuse(dict_table_t &table, trx_t *trx) noexcept;

/** Decide on an error in a rollback. Damage stops the rollback of a recovered
transaction, which stays open with its undo log. For a transaction of a connection
this does not return: this server ends, and after a restart the transaction is a
recovered one.
@param trx  transaction
@param err  error code
@return whether the rollback stops; false if the error is not due to damage */
bool stops_rollback(const trx_t &trx, dberr_t err) noexcept;

/** @return whether a recovered transaction stays open until this server ends
@param trx  transaction */
bool keeps(const trx_t &trx) noexcept;

/** @return whether something waits for the page server, or did shortly before, so
that a long wait for a latch is not a hang */
bool excuses_wait() noexcept;

/** FLUSH TABLES ... FOR EXPORT: write all pages of a tablespace to its file. They
stay there, and become outdated, until this server's data directory is removed.
@param space  tablespace whose dirty pages were flushed, and which is not written to
@param trx    transaction whose connection may be killed
@return error code */
dberr_t export_space(const fil_space_t &space, const trx_t &trx) noexcept;

/** ALTER TABLE ... IMPORT TABLESPACE: log every page of an imported file, so
that the page server gets the tablespace.
@param space  tablespace, converted and written back to its file
@param trx    transaction whose connection may be killed
@return error code */
dberr_t import_space(fil_space_t *space, const trx_t &trx) noexcept;

/** Update the values of status_variables. */
void refresh_status() noexcept;

/** The status variables Innodb_page_server_% */
extern st_mysql_show_var status_variables[];
}
