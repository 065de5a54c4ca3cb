/*****************************************************************************

InnoDB on a page server: this server keeps no data of its own.

With innodb_page_server_enabled=ON, persistent pages are read from a page
server, what InnoDB would write to ib_logfile0 is streamed to it, and flushing
a dirty page sends nothing: the page server makes the page from the redo. The
few places in InnoDB that touch files call the functions declared here.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "univ.i"
#include "buf0types.h"
#include "db0err.h"
#include "log0types.h"

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
/** innodb_page_server_branch */
extern char *branch;
/** innodb_page_server_epoch */
extern ulonglong epoch;
/** innodb_page_server_start_lsn */
extern ulonglong start_lsn;
/** innodb_page_server_token_file; the token itself is never shown */
extern char *token_file;
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

/** Check the settings, adjust those of InnoDB that must follow, and connect.
@return whether InnoDB can start */
bool start() noexcept;

/** Send what is queued, wait until it is durable, disconnect; let go of the
transactions that stay open. */
void stop() noexcept;

/** @return whether the pages of a tablespace live on the page server */
bool serves(const fil_space_t &space) noexcept;

/** @return whether a file is one of the temporary tablespace's, which is local
and must have room on the disk before it is written to
@param name  file name */
bool is_temporary(const char *name) noexcept;

/** Read a page and wait for it: without a limit, while the page server is there
and says that it cannot answer yet. Does not return if the page server is gone
for longer than the retry limit, or this server lost the branch.
@param id    page identifier
@param buf   frame
@param len   physical page size
@return error code */
dberr_t read(page_id_t id, void *buf, size_t len) noexcept;

/** Start reading a page; cb->m_callback will be executed in srv_thread_pool.
@param cb    asynchronous request: m_buffer, m_len, m_callback are set
@param id    page identifier
@return whether the request was accepted */
bool read_async(tpool::aiocb *cb, page_id_t id) noexcept;

/** Note that a dirty page is about to be called clean: when it is read again,
it must show at least this LSN. That LSN is durable.
@param id   page identifier
@param lsn  FIL_PAGE_LSN */
void note_clean(page_id_t id, lsn_t lsn) noexcept;

/** Stream redo log. Does not return if the log service cannot take it.
@param lsn   log sequence number of the first byte
@param data  log records
@param size  number of bytes */
void stream_redo(lsn_t lsn, const byte *data, size_t size) noexcept;

/** Wait until redo log is durable. Does not return if it cannot become so.
@param lsn   log sequence number */
void wait_durable(lsn_t lsn) noexcept;

/** Make a tablespace known that InnoDB does not know yet, with its file where
the page server says that it is. After a crash that may be another place than
the dictionary says: InnoDB would know it from the log, of which a compute gets
none; rollback renames it.

To InnoDB a tablespace that it cannot open needs no rollback and no purge. So
this does not return because of a fault that may pass: it tries again, and ends
this server at last.
@param id     tablespace identifier
@param flags  FSP_SPACE_FLAGS and flags of the dictionary, or UINT32_MAX
@param make   whether the file is needed: not to drop the tablespace
@return tablespace
@retval nullptr if the branch has none, for certain, or is_damaged(id) */
fil_space_t *open_space(uint32_t id, uint32_t flags, bool make) noexcept;

/** The file of a tablespace could not be opened. Make it, if it is gone, and
wait a little before the next attempt. Does not return if the retry limit has
passed since the first one.
@param id        tablespace identifier
@param name      file name
@param failures  number of attempts, 0 at first */
void make_file(uint32_t id, const char *name, unsigned *failures) noexcept;

/** Note that this server drops a tablespace. The page server may not have read
that yet when somebody asks for it again.
@param id  tablespace identifier */
void note_dropped(uint32_t id) noexcept;

/** @return whether the page server has a tablespace but cannot read its first
page; its table is refused, and nothing that was done to it is rolled back
@param id  tablespace identifier */
bool is_damaged(uint32_t id) noexcept;

/** Note that this thread wanted a page that exists and could not be read. */
void note_unreadable() noexcept;

/** As note_unreadable(), for a table that is not accessible, unless the branch
does not have its tablespace at all.
@param table  table that is not accessible */
void note_refused(const dict_table_t &table) noexcept;

/** Whether this thread could read what it wanted, from a moment on. What InnoDB
cannot read it takes for what is not there. In a rollback that would make
permanent what must go away. */
class reads
{
  const uint64_t before;
  static uint64_t noted() noexcept;
public:
  reads() noexcept : before(noted()) {}
  /** @return whether note_unreadable() was called since */
  bool failed() const noexcept { return noted() != before; }
};

/** A recovered transaction cannot be rolled back because of damage in a table.
Refuse the table, and let it be dropped: free what the transaction locks of it.
The rows stay the transaction's, as long as it is open.
@param table  table
@param trx    transaction; nothing is done for one of a connection */
void refuse(dict_table_t &table, trx_t *trx) noexcept;

/** Decide on an error in a rollback. If a recovered transaction met damage, its
rollback stops: it stays open and its undo log stays. Does not return if a
transaction of a connection did: this server ends, and when it is started again
that is a recovered one.
@param trx  transaction
@param err  error code
@return whether the rollback stops here; false if this is another error */
bool stops_rollback(const trx_t &trx, dberr_t err) noexcept;

/** @return whether a recovered transaction stays open until this server ends
@param trx  transaction */
bool keeps(const trx_t &trx) noexcept;

/** @return whether something waits, or has just waited, for a page server that
is there and cannot answer yet: then a long wait for a latch is no hang */
bool excuses_wait() noexcept;

/** FLUSH TABLES ... FOR EXPORT: write all pages of a tablespace to its file,
where they stay, ever older, until this server's directory goes.
@param space  tablespace whose dirty pages were flushed; not to be written to
@param trx    transaction whose connection may be killed
@return error code */
dberr_t export_space(const fil_space_t &space, const trx_t &trx) noexcept;

/** ALTER TABLE ... IMPORT TABLESPACE: log every page of an imported file, so
that the page server has the tablespace.
@param space  tablespace, converted and written back to its file
@param trx    transaction whose connection may be killed
@return error code */
dberr_t import_space(fil_space_t *space, const trx_t &trx) noexcept;

/** Update the values behind status_variables. */
void refresh_status() noexcept;

/** Innodb_page_server_% */
extern st_mysql_show_var status_variables[];
}
