/*****************************************************************************

The system variables innodb_page_server_%. Only ha_innodb.cc includes this file.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "page_server.h"
#include "page_server_ahead.h"
#include "page_server_sessions.h"

void page_server_update_timeouts(THD *, st_mysql_sys_var *, void *var,
                                 const void *save);

static MYSQL_SYSVAR_BOOL(page_server_enabled, page_server::enabled,
  PLUGIN_VAR_OPCMDARG | PLUGIN_VAR_READONLY,
  "Read pages from a Xylem page server and stream redo to it; this server"
  " keeps no data of its own",
  nullptr, nullptr, FALSE);

static MYSQL_SYSVAR_STR(page_server_address, page_server::address,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "Host name or address of the page server",
  nullptr, nullptr, "127.0.0.1");

static MYSQL_SYSVAR_UINT(page_server_port, page_server::port,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "TCP port of the page server",
  nullptr, nullptr, 8080, 1, 65535, 0);

static MYSQL_SYSVAR_STR(page_server_socket, page_server::socket,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "Unix socket of a page server on this machine, used in place of address and"
  " port; empty: none",
  nullptr, nullptr, "");

static MYSQL_SYSVAR_STR(page_server_branch, page_server::branch,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "Branch that this server reads and writes",
  nullptr, nullptr, "main");

static MYSQL_SYSVAR_ULONGLONG(page_server_epoch, page_server::epoch,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "Epoch of this server, from attaching to the branch; only the branch's"
  " newest epoch may write to it",
  nullptr, nullptr, 0, 0, ~0ULL, 0);

static MYSQL_SYSVAR_ULONGLONG(page_server_start_lsn, page_server::start_lsn,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "Log sequence number at which this server's own redo begins, from attaching"
  " to the branch",
  nullptr, nullptr, 0, 0, ~0ULL, 0);

static MYSQL_SYSVAR_STR(page_server_token_file, page_server::token_file,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "File that holds the project's token, if the page server requires one",
  nullptr, nullptr, nullptr);

static MYSQL_SYSVAR_STR(page_server_tls_ca, page_server::tls_ca,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "File of the authorities (PEM) whose page server this server trusts; without"
  " it, TCP to the page server has no TLS",
  nullptr, nullptr, nullptr);

static MYSQL_SYSVAR_STR(page_server_tls_cert, page_server::tls_cert,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "File of this server's own certificate (PEM), if the page server requires one",
  nullptr, nullptr, nullptr);

static MYSQL_SYSVAR_STR(page_server_tls_key, page_server::tls_key,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "File of the private key (PEM) of innodb_page_server_tls_cert, if it is another",
  nullptr, nullptr, nullptr);

static MYSQL_SYSVAR_UINT(page_server_connections, page_server::connections,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "Largest number of connections for page reads that threads wait for",
  nullptr, nullptr, 4, 1, 64, 0);

static MYSQL_SYSVAR_UINT(page_server_connect_timeout,
  page_server::connect_timeout,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "Timeout of an attempt to connect, in milliseconds",
  nullptr, nullptr, 2000, 1, 600000, 0);

static MYSQL_SYSVAR_UINT(page_server_request_timeout,
  page_server::request_timeout,
  PLUGIN_VAR_RQCMDARG,
  "Time after which a request without an answer is retried, in milliseconds",
  nullptr, page_server_update_timeouts, 10000, 1, 3600000, 0);

static MYSQL_SYSVAR_UINT(page_server_retry_limit, page_server::retry_limit,
  PLUGIN_VAR_RQCMDARG,
  "Time in seconds for which reads and commits wait for a silent page server"
  " before this server stops. While the page server responds that it cannot"
  " answer yet, they wait without a limit",
  nullptr, page_server_update_timeouts, 300, 1, 86400, 0);

static MYSQL_SYSVAR_ULONGLONG(page_server_queue_size,
  page_server::queue_size,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "Maximum amount of redo that is not durable yet, in bytes; writers wait"
  " beyond that",
  nullptr, nullptr, 64ULL << 20, 4ULL << 20, 16ULL << 30, 0);

static MYSQL_SYSVAR_UINT(page_server_read_ahead, page_server::read_ahead,
  PLUGIN_VAR_RQCMDARG,
  "Maximum number of leaf pages that are requested ahead of the scan of an index;"
  " 0: none",
  nullptr, nullptr, 256, 0, 1024, 0);

static MYSQL_SYSVAR_UINT(page_server_hot_pages_interval,
  page_server::hot_pages_interval,
  PLUGIN_VAR_RQCMDARG,
  "Time in seconds after which the list of hot pages is written again, which the"
  " branch's next server begins with; 0: only at shutdown",
  nullptr, nullptr, 300, 0, 86400, 0);

static MYSQL_SYSVAR_ULONGLONG(page_server_cache_size,
  page_server::cache_size,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "Maximum size in bytes of the page cache, a local file that keeps pages which"
  " the buffer pool gave up; 0: none",
  nullptr, nullptr, 1ULL << 30, 0, ~0ULL, 0);

static MYSQL_SYSVAR_STR(page_server_cache_file, page_server::cache_file,
  PLUGIN_VAR_RQCMDARG | PLUGIN_VAR_READONLY,
  "File of the page cache; a clean shutdown leaves it, with its index beside"
  " it, to the next server of the branch",
  nullptr, nullptr, "./ib_page_cache");

static MYSQL_THDVAR_STR(page_server_act_as,
  PLUGIN_VAR_NOCMDOPT | PLUGIN_VAR_MEMALLOC,
  "Setting it turns a session of Xylem's own account into one of another account:"
  " its user, host and address, and the account's host, each ended by a NUL",
  page_server_act_as, nullptr, nullptr);

static MYSQL_THDVAR_ULONG(page_server_statement_id,
  PLUGIN_VAR_NOCMDOPT,
  "Setting it gives the next prepared statement this number",
  page_server_statement_id, nullptr, 0, 0, ~0U, 0);

static MYSQL_THDVAR_STR(page_server_statement_types,
  PLUGIN_VAR_NOCMDOPT | PLUGIN_VAR_MEMALLOC,
  "Setting it gives the parameters of a prepared statement their types: the statement's"
  " number (4 bytes), and 2 bytes for each parameter, as COM_STMT_EXECUTE has them",
  page_server_statement_types, nullptr, nullptr);

#define PAGE_SERVER_SYSTEM_VARIABLES \
  MYSQL_SYSVAR(page_server_enabled), \
  MYSQL_SYSVAR(page_server_address), \
  MYSQL_SYSVAR(page_server_port), \
  MYSQL_SYSVAR(page_server_socket), \
  MYSQL_SYSVAR(page_server_branch), \
  MYSQL_SYSVAR(page_server_epoch), \
  MYSQL_SYSVAR(page_server_start_lsn), \
  MYSQL_SYSVAR(page_server_token_file), \
  MYSQL_SYSVAR(page_server_tls_ca), \
  MYSQL_SYSVAR(page_server_tls_cert), \
  MYSQL_SYSVAR(page_server_tls_key), \
  MYSQL_SYSVAR(page_server_connections), \
  MYSQL_SYSVAR(page_server_connect_timeout), \
  MYSQL_SYSVAR(page_server_request_timeout), \
  MYSQL_SYSVAR(page_server_retry_limit), \
  MYSQL_SYSVAR(page_server_queue_size), \
  MYSQL_SYSVAR(page_server_read_ahead), \
  MYSQL_SYSVAR(page_server_hot_pages_interval), \
  MYSQL_SYSVAR(page_server_cache_size), \
  MYSQL_SYSVAR(page_server_cache_file), \
  MYSQL_SYSVAR(page_server_act_as), \
  MYSQL_SYSVAR(page_server_statement_id), \
  MYSQL_SYSVAR(page_server_statement_types)
