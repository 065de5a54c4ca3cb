/*****************************************************************************

What cannot be read and is there all the same.

InnoDB takes a tablespace that it cannot open, and a page that it cannot read,
for one that is gone, and goes on without. In a rollback that would make
permanent what was never committed. Here damage is remembered: the table is
refused, the transaction stays open, its undo log stays, and the rest goes on.

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
/** Sets of tablespaces are small or empty and looked at when one is opened */
std::mutex spaces_mutex;
/** Tablespaces whose first page the page server could not read */
std::set<uint32_t> damaged;
/** Tablespaces that this server dropped, 4096 to a group: identifiers are given
out in order, so that a million of them takes 128 KiB. */
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
    sql_print_error("InnoDB: Table %s is refused: transaction " TRX_ID_FMT
                    " changed it and cannot be rolled back in it, because the"
                    " page server cannot read all of it", table.name.m_name,
                    trx->id);
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
                    " rolled back: the page server cannot read all of what it"
                    " changed (see above). This server stops; every"
                    " acknowledged commit is on the page server. When it is"
                    " started again, the transaction stays open and the rest"
                    " works.", trx.id);
    end_server();
  }
  sql_print_error("InnoDB: The rollback of transaction " TRX_ID_FMT " stops at"
                  " damage (see above). The transaction stays open: what it"
                  " changed is neither committed nor undone. The next start"
                  " tries again; without the damaged table, if that is"
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
