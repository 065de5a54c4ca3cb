/* libxylem_client: a MariaDB server's connection to a Xylem page server.

All functions may be called from any thread. None of them throws or panics. A
call that fails returns one of the codes below. LSNs, sizes and offsets are in
bytes, times in milliseconds. Strings are NUL-terminated UTF-8.

SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef XYLEM_CLIENT_H
#define XYLEM_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum xylem_status {
  XYLEM_OK = 0,
  /* The library is not initialised, or was shut down. */
  XYLEM_DISABLED = 1,
  /* There is no such tablespace, or the page is beyond its end. */
  XYLEM_NOT_FOUND = 2,
  /* The server was silent for retry_limit_ms. While the server responds that it
  cannot answer yet, calls wait without a limit. */
  XYLEM_TIMEOUT = 3,
  /* A newer compute owns the branch. This one must stop. */
  XYLEM_FENCED = 4,
  /* An argument is invalid. */
  XYLEM_INVALID = 5,
  /* The server's data failed a checksum, or the server failed to produce it. */
  XYLEM_CORRUPT = 6,
  /* Any other failure; see xylem_last_error(). */
  XYLEM_ERROR = 7,
  /* The library was shut down before the call completed. */
  XYLEM_CANCELLED = 8
};

typedef struct xylem_config {
  const char *address;          /* host name or address of the page server */
  uint16_t port;                /* its port */
  const char *socket;           /* its Unix socket, used instead; NULL: none */
  const char *branch;           /* name; NULL: "main" */
  uint64_t epoch;               /* from the attach; 0: a reader */
  const char *token;            /* NULL: none */
  const char *tls_ca;           /* file of authorities (PEM); NULL: no TLS */
  const char *tls_cert;         /* file of its own certificate; NULL: none */
  const char *tls_key;          /* file of its key; NULL: that of tls_cert */
  const char *datadir;          /* absolute path of the data directory */
  uint64_t start_lsn;           /* where this compute's own redo begins */
  uint32_t connections;         /* most connections for pages; 0: 4 */
  uint32_t connect_timeout_ms;  /* of an attempt to connect; 0: 2000 */
  uint32_t request_timeout_ms;  /* of an attempt at a request; 0: 10000 */
  uint32_t retry_limit_ms;      /* of the server's silence; 0: 60000 */
  uint64_t queue_bytes;         /* redo that is not durable; 0: 64 MiB */
} xylem_config;

/* Connects and checks the branch, the epoch and the token. On failure writes a
message to error, at most error_size bytes with the NUL. */
int xylem_init(const xylem_config *config, char *error, size_t error_size);

/* Sends all queued redo, waits up to the retry limit until it is durable, and
ends all threads. Page requests in flight complete with XYLEM_CANCELLED. */
void xylem_shutdown(void);

/* The branch's own binary log, binlog.NNNNNN in the data directory. Reads of files that an
earlier server wrote fetch their content from the page server. */

/* Calls send before each write to the log, without any lock of this library. It sends all
redo so far (xylem_stream_wal), so that what the log has is never ahead of the redo. NULL:
nothing is called. */
void xylem_before_log(void (*send)(void));

/* Cuts off the event group at the end of a log that no server has closed, if only a part of
it is there. */
int xylem_mend_log(void);

/* Calls each with the number (my_xid) of every transaction in the log which an engine may
have prepared and not committed, perhaps with older ones as well. */
int xylem_log_transactions(void (*each)(void *context, uint64_t xid), void *context);

/* Returns 1 between xylem_init and xylem_shutdown, else 0. */
int xylem_is_enabled(void);

/* Changes the limits of a running connection; 0 keeps a value. */
int xylem_set_timeouts(uint32_t request_timeout_ms, uint32_t retry_limit_ms);

/* Reads the newest version of a page into buf. It shows at least every change up
to min_lsn. size is the tablespace's physical page size. */
int xylem_get_page(uint32_t space_id, uint32_t page_no, uint64_t min_lsn,
                   void *buf, size_t size);

/* Called exactly once, on a thread of the library, or within the call if the
library is being shut down. The callback must not wait for another page, and
should pass long work to a pool of the caller. */
typedef void (*xylem_page_done)(void *context, int status);

/* Like xylem_get_page, but returns at once. buf must stay valid until done is
called. done is not called if this returns another code than XYLEM_OK. */
int xylem_get_page_async(uint32_t space_id, uint32_t page_no,
                         uint64_t min_lsn, void *buf, size_t size,
                         xylem_page_done done, void *context);

/* The page cache: a file on the local disk that keeps pages which the caller's buffer
pool gave up. A page that it returns is the newest version, because the caller

- forgets a page when it becomes dirty,
- puts a page when it becomes clean, while nobody can change it, and when it was read
  into the buffer pool, before anybody can change it, but never after a read that
  bypassed the buffer pool,
- forgets a tablespace when it is dropped, truncated or made anew.

A file that cannot be read or written turns the cache off, with a warning in the error
log. Without an open cache, xylem_cache_get returns XYLEM_NOT_FOUND, and the others do
nothing. */

/* Opens the cache in the file at path, which takes at most the given number of bytes in
slots of page_size bytes. It takes them as it fills, and leaves a twentieth of the file
system and 256 MiB free. branch must identify the branch for all time. The pages that
xylem_cache_close kept are there again if branch, bytes and page_size are the same and
epoch is the next. epoch 0 keeps nothing. */
int xylem_cache_open(const char *path, uint64_t bytes, uint32_t page_size,
                     const char *branch, uint64_t epoch, uint64_t start_lsn,
                     char *error, size_t error_size);

/* Copies a page into buf. Returns XYLEM_NOT_FOUND if it is not in the cache, and
XYLEM_TIMEOUT if wait is 0 and the disk would have to be read. Stores in *ticket what
xylem_cache_put must be given once the page was read from the page server. */
int xylem_cache_get(uint32_t space_id, uint32_t page_no, void *buf, size_t size,
                    int wait, uint64_t *ticket);

/* Puts a page. ticket is that of xylem_cache_get, or 0 for a page that became clean. */
void xylem_cache_put(uint32_t space_id, uint32_t page_no, const void *buf,
                     size_t size, uint64_t ticket);

/* Forgets a page. */
void xylem_cache_forget(uint32_t space_id, uint32_t page_no);

/* Forgets all pages of a tablespace. */
void xylem_cache_forget_space(uint32_t space_id);

/* Closes the cache. If no page is dirty, end_lsn is the end of the redo, and the next
server of the branch finds the pages again. 0 removes the file. */
void xylem_cache_close(uint64_t end_lsn);

typedef struct xylem_page_request {
  uint32_t space_id;
  uint32_t page_no;
  uint64_t min_lsn;
  void *buf;
  size_t size;
  int status; /* out */
} xylem_page_request;

/* Reads many pages and returns when all reads are complete. Sets the status of
each request, and returns the most severe one. */
int xylem_get_pages_batch(xylem_page_request *requests, size_t count);

/* Queues a copy of redo bytes that begin at start_lsn, which must be the end of
the redo queued before, and sends it. Waits while the queue is full. */
int xylem_stream_wal(uint64_t start_lsn, const void *data, size_t size);

/* Returns when everything queued up to lsn is durable. */
int xylem_wait_durable(uint64_t lsn);

/* The newest LSN known to be durable. */
uint64_t xylem_durable_lsn(void);

/* Pings the server. Stores the round-trip time in microseconds in
*round_trip_us, unless that is NULL. */
int xylem_ping(uint64_t *round_trip_us);

/* Finds a tablespace, which this server has never opened, by its id. Stores the
path of its file relative to the data directory, with a NUL, in the size bytes at
path, and the FSP_SPACE_FLAGS in *flags. After a crash the dictionary may name
another path: that of a statement which will be rolled back. If make is not 0,
creates a sparse file there, with the pages that InnoDB reads without its buffer
pool.

Returns XYLEM_NOT_FOUND if the branch certainly has no such tablespace, and
XYLEM_CORRUPT if its first page is damaged. All other failures, also those of the
local disk, are retried up to the retry limit, and without a limit while the
server responds that it cannot answer yet. */
int xylem_open_tablespace(uint32_t space_id, char *path, size_t size,
                          uint32_t *flags, int make);

/* Asks the server for count tablespaces, 256 at a time. The next xylem_open_tablespace of
each does not ask again: a caller that holds a lock there calls this before it takes the
lock. Returns XYLEM_OK if all were found, and otherwise what xylem_open_tablespace would
for one of the others, but tries nothing again that the server has answered. */
int xylem_fetch_tablespaces(const uint32_t *ids, size_t count);

/* Forgets what xylem_fetch_tablespaces found and no xylem_open_tablespace has used. It
would otherwise stand for the next one, however late. */
void xylem_forget_tablespaces(const uint32_t *ids, size_t count);

/* From this call on, the preloaded library refuses to create files in which
engines other than InnoDB keep rows of persistent tables (EPERM, and an error in
the error log), because such rows would be lost with the data directory. It
allows files of temporary tables and of the server's log tables. */
void xylem_only_innodb(void);

typedef struct xylem_stats {
  uint64_t pages_read;
  uint64_t pages_read_async;
  uint64_t page_bytes;
  uint64_t page_wait_us;      /* total of all page reads */
  uint64_t page_retries;
  uint64_t page_errors;
  uint64_t redo_bytes_sent;
  uint64_t lsn_queued;
  uint64_t lsn_sent;
  uint64_t lsn_durable;
  uint64_t lsn_applied;
  uint64_t durable_waits;
  uint64_t durable_wait_us;
  uint64_t side_file_ops;
  uint64_t tablespace_waits;  /* tablespaces that xylem_open_tablespace asked for */
  uint64_t reconnects;
  uint64_t connected;         /* 1 while the redo stream is connected */
  uint64_t stalled;           /* 1 during a long wait: the server is silent, or
                              responds that it cannot answer yet */
  uint64_t cache_size;        /* bytes that the page cache may take; 0: off */
  uint64_t cache_pages;       /* pages in it */
  uint64_t cache_hits;        /* pages read from it */
  uint64_t cache_puts;        /* pages written to it */
  uint64_t cache_evictions;   /* pages that made room for others */
  uint64_t cache_damaged;     /* pages whose checksum was wrong: read elsewhere */
} xylem_stats;

void xylem_get_stats(xylem_stats *stats);

/* Stores the message of the library's newest error in buf, at most size bytes
with the NUL. */
void xylem_last_error(char *buf, size_t size);

#ifdef __cplusplus
}
#endif
#endif
