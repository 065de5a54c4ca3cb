/*****************************************************************************

Damaged pages and tablespaces.

InnoDB treats a tablespace that it cannot open, and a page that it cannot read,
as missing, and continues. In a rollback this would make uncommitted changes
permanent. This file records damage: the table is refused, the transaction stays
open, its undo log is kept, and all else works.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#include "page_server.h"
#include "dict0mem.h"
#include "fil0fil.h"
#include "lock0lock.h"
#include "trx0roll.h"
#include "trx0sys.h"
#include "trx0trx.h"
#include "log.h"
#include "page_server_private.h"
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <vector>

namespace page_server
{
namespace
{
/** Protects the sets of tablespaces, which are small and read at each open */
std::mutex spaces_mutex;
/** Tablespaces whose first page the page server could not read */
std::set<uint32_t> damaged;
/** Tablespaces that this server dropped, in groups of 4096. Identifiers are
consecutive, so that a million of them take 128 KiB. */
std::map<uint32_t, std::vector<bool>> dropped;
constexpr uint32_t DROPPED_GROUP{4096};

/** Transactions that stay open */
std::mutex kept_mutex;
std::vector<trx_t*> kept;
std::atomic<size_t> n_kept;

/** See note_unreadable() */
thread_local uint64_t unreadable;
} // namespace

void note_damaged(uint32_t id, bool is) noexcept
{
  std::lock_guard<std::mutex> g{spaces_mutex};
  if (is)
    damaged.emplace(id);
  else
    damaged.erase(id);
}

bool is_damaged(uint32_t id) noexcept
{
  if (!enabled)
    return false;
  std::lock_guard<std::mutex> g{spaces_mutex};
  return damaged.count(id) != 0;
}

void note_dropped(uint32_t id) noexcept
{
  if (!enabled)
    return;
  cache_forget_space(id);
  std::lock_guard<std::mutex> g{spaces_mutex};
  std::vector<bool> &group= dropped[id / DROPPED_GROUP];
  group.resize(DROPPED_GROUP);
  group[id % DROPPED_GROUP]= true;
}

bool was_dropped(uint32_t id) noexcept
{
  std::lock_guard<std::mutex> g{spaces_mutex};
  const auto group= dropped.find(id / DROPPED_GROUP);
  return group != dropped.end() && group->second[id % DROPPED_GROUP];
}

void note_unreadable() noexcept
{
  if (enabled)
    unreadable++;
}

uint64_t reads::noted() noexcept { return unreadable; }

void note_refused(const dict_table_t &table) noexcept
{
  if (!table.is_temporary() && (table.space || is_damaged(table.space_id)))
    note_unreadable();
}

void refuse(dict_table_t &table, trx_t *trx) noexcept
{
  if (trx != trx_roll_crash_recv_trx || trx->dict_operation)
    return;
  if (!table.corrupted)
    sql_print_error("InnoDB: Table %s is refused: changes of transaction "
                    TRX_ID_FMT " to it cannot be rolled back, because the"
                    " page server cannot read all of the table",
                    table.name.m_name, trx->id);
  table.file_unreadable= true;
  table.corrupted= true;
  lock_release_table(trx, &table);
}

bool stops_rollback(const trx_t &trx, dberr_t err) noexcept
{
  if (!enabled)
    return false;
  switch (err) {
  case DB_CORRUPTION:
  case DB_PAGE_CORRUPTED:
  case DB_TABLE_CORRUPT:
  case DB_INDEX_CORRUPT:
  case DB_IO_ERROR:
  case DB_TABLESPACE_DELETED:
  case DB_TABLESPACE_NOT_FOUND:
    break;
  default:
    return false;
  }
  if (&trx != trx_roll_crash_recv_trx)
  {
    sql_print_error("[FATAL] InnoDB: Transaction " TRX_ID_FMT " cannot be"
                    " rolled back: the page server cannot read all pages that"
                    " it changed (see above). This server stops; every"
                    " acknowledged commit is on the page server. After a"
                    " restart the transaction stays open and all else works.",
                    trx.id);
    end_server();
  }
  sql_print_error("InnoDB: The rollback of transaction " TRX_ID_FMT " stops at"
                  " damage (see above). The transaction stays open: its"
                  " changes are neither committed nor undone. The next start"
                  " tries again, without the damaged table if that was"
                  " dropped.", trx.id);
  std::lock_guard<std::mutex> g{kept_mutex};
  kept.emplace_back(const_cast<trx_t*>(&trx));
  n_kept.store(kept.size(), std::memory_order_release);
  return true;
}

bool keeps(const trx_t &trx) noexcept
{
  if (!n_kept.load(std::memory_order_acquire))
    return false;
  std::lock_guard<std::mutex> g{kept_mutex};
  for (const trx_t *t : kept)
    if (t == &trx)
      return true;
  return false;
}

void forget_kept() noexcept
{
  std::lock_guard<std::mutex> g{kept_mutex};
  for (trx_t *trx : kept)
  {
    trx_sys.deregister_rw(trx);
    trx_free_at_shutdown(trx);
  }
  kept.clear();
  n_kept.store(0, std::memory_order_release);
}
} // namespace page_server
