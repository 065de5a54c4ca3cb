/*****************************************************************************

The list of hot pages that a server leaves to the next one of its branch.

It is the list that InnoDB reads at start to fill the buffer pool, ib_buffer_pool.
That is a side file here, so the next server of the branch has it, and so have those
of branches made later. InnoDB writes it at shutdown. A server that is killed would
leave an old one, or none, so it is also written now and then.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#include "page_server.h"
#include "buf0buf.h"
#include "buf0dump.h"
#include "srv0srv.h"
#include "srv0start.h"
#include "mysqld.h"
#include <thread>

namespace page_server
{
uint hot_pages_interval;

void keep_hot_pages() noexcept
{
  /* Part of the pages in the buffer pool; when fewer were read or created since, the
  list says little new. An idle server thus writes nothing. */
  static constexpr size_t NEW_PART{10};
  static time_t last;
  static ulint seen;

  if (!enabled || !hot_pages_interval || high_level_read_only ||
      srv_shutdown_state != SRV_SHUTDOWN_NONE)
    return;
  const time_t now= my_time(0);
  if (!last)
    last= now;
  if (now - last < time_t(hot_pages_interval))
    return;
  mysql_mutex_lock(&buf_pool.mutex);
  const ulint pages{UT_LIST_GET_LEN(buf_pool.LRU)};
  const ulint current{buf_pool.stat.n_pages_read + buf_pool.stat.n_pages_created};
  mysql_mutex_unlock(&buf_pool.mutex);
  if (current - seen <= pages / NEW_PART ||
      export_vars.innodb_buffer_pool_load_incomplete)
    return;
  last= now;
  seen= current;
  buf_dump_start();
}

void wait_until_started() noexcept
{
  /* Upper bound in milliseconds: an SQL statement of the start may wait for a lock. */
  static constexpr unsigned LIMIT{2000}, PAUSE{2};
  for (unsigned waited{0}; enabled && waited < LIMIT && !mysqld_server_started &&
         srv_shutdown_state == SRV_SHUTDOWN_NONE; waited+= PAUSE)
    std::this_thread::sleep_for(std::chrono::milliseconds{PAUSE});
}
} // namespace page_server
