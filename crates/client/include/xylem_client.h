/* libxylem_client: a MariaDB server's connection to a Xylem page server.

All functions may be called from any thread. None throws, none lets a panic
out; what fails returns one of the codes below. LSNs, sizes and offsets are in
bytes, times in milliseconds. Strings are NUL terminated UTF-8.

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
  /* The library was not initialised, or was shut down. */
  XYLEM_DISABLED = 1,
  /* No such tablespace or page (also: beyond the tablespace's end). */
  XYLEM_NOT_FOUND = 2,
  /* The server was gone for retry_limit_ms. One that is there and says that it
  cannot answer yet is waited for without a limit. */
  XYLEM_TIMEOUT = 3,
  /* A newer compute owns the branch: this one must stop. */
  XYLEM_FENCED = 4,
  /* An argument makes no sense. */
  XYLEM_INVALID = 5,
  /* The server has the data but it failed a checksum, or cannot make it. */
  XYLEM_CORRUPT = 6,
  /* The server refused in another way; see xylem_last_error(). */
  XYLEM_ERROR = 7,
  /* The call's deadline or the shutdown came first. */
  XYLEM_CANCELLED = 8
};

typedef struct xylem_config {
  const char *address;          /* host name or address of the page server */
  uint16_t port;                /* its gRPC port */
  const char *branch;           /* NULL: "main" */
  uint64_t epoch;               /* from the attach; 0: a reader */
  const char *token;            /* NULL: none */
  const char *datadir;          /* absolute; side files below it are sent */
  uint64_t start_lsn;           /* where this compute's own redo begins */
  uint32_t connections;         /* page connections in the pool; 0: 2 */
  uint32_t connect_timeout_ms;  /* one attempt; 0: 2000 */
  uint32_t request_timeout_ms;  /* one attempt; 0: 10000 */
  uint32_t retry_limit_ms;      /* a server that is gone; 0: 60000 */
  uint64_t queue_bytes;         /* redo kept until durable; 0: 64 MiB */
} xylem_config;

/* Connects and checks branch, epoch and token. On failure `error` (at most
error_size bytes with the NUL) says what, where and what to do. */
int xylem_init(const xylem_config *config, char *error, size_t error_size);

/* Sends what is queued, waits for its durability up to the retry limit, ends
all threads. Page requests still under way complete with XYLEM_CANCELLED. */
void xylem_shutdown(void);

int xylem_is_enabled(void);

/* Changes the limits of a running connection; 0 leaves a value as it is. */
int xylem_set_timeouts(uint32_t request_timeout_ms, uint32_t retry_limit_ms);

/* Reads the newest version of a page that shows at least min_lsn into buf,
which holds size bytes: the tablespace's physical page size. */
int xylem_get_page(uint32_t space_id, uint32_t page_no, uint64_t min_lsn,
                   void *buf, size_t size);

/* Called exactly once, on a thread of the library, which must not be made to
wait for another page: hand long work to a pool of your own. */
typedef void (*xylem_page_done)(void *context, int status);

/* As xylem_get_page, but returns at once; buf must stay valid until done is
called. When this returns other than XYLEM_OK, done is not called. */
int xylem_get_page_async(uint32_t space_id, uint32_t page_no,
                         uint64_t min_lsn, void *buf, size_t size,
                         xylem_page_done done, void *context);

typedef struct xylem_page_request {
  uint32_t space_id;
  uint32_t page_no;
  uint64_t min_lsn;
  void *buf;
  size_t size;
  int status; /* out */
} xylem_page_request;

/* Reads many pages at once and returns when all are there; the worst status
is returned, each page's own stands in its request. */
int xylem_get_pages_batch(xylem_page_request *requests, size_t count);

/* Queues redo bytes whose first has LSN start_lsn; they must follow the bytes
queued before without a gap. Copies them. Waits while the queue is full. */
int xylem_stream_wal(uint64_t start_lsn, const void *data, size_t size);

/* Returns when everything queued up to lsn is durable. */
int xylem_wait_durable(uint64_t lsn);

/* The newest LSN known to be durable. */
uint64_t xylem_durable_lsn(void);

/* One round trip; microseconds into *round_trip_us when not NULL. */
int xylem_ping(uint64_t *round_trip_us);

/* A tablespace by its id, which this server has never opened: path receives
where the page server says that its file is, relative to the data directory,
with its NUL, and flags the FSP_SPACE_FLAGS. After a crash the dictionary may
name another place: that of a statement which will be rolled back. With make
other than 0, the sparse file with the pages that InnoDB reads past its buffer
pool is made there.

XYLEM_NOT_FOUND: the branch has no such tablespace, for certain. XYLEM_CORRUPT:
its first page is damaged. All other failures, of the local disk too, are tried
again for the retry limit first; and while the server is there and says that it
cannot answer yet, there is no limit. */
int xylem_open_tablespace(uint32_t space_id, char *path, size_t size,
                          uint32_t *flags, int make);

/* From here on the preloaded library refuses to make files in which engines
other than InnoDB keep rows of persistent tables (EPERM, and a line in the
error log): such rows would be gone with the data directory. Temporary tables
and the server's log tables are left alone. */
void xylem_only_innodb(void);

typedef struct xylem_stats {
  uint64_t pages_read;
  uint64_t pages_read_async;
  uint64_t page_bytes;
  uint64_t page_wait_us;      /* sum over all page reads */
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
  uint64_t reconnects;
  uint64_t connected;         /* 1 while the redo stream is up */
  uint64_t stalled;           /* 1 while something waits for long: the server is
                              gone, or there and cannot answer yet */
} xylem_stats;

void xylem_get_stats(xylem_stats *stats);

/* The newest error of the library, for a message; at most size bytes. */
void xylem_last_error(char *buf, size_t size);

#ifdef __cplusplus
}
#endif
#endif
