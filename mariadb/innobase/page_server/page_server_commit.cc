/*****************************************************************************

How many commits are on their way to the page server at a time.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#include "page_server_commit.h"
#include "srw_lock.h"
#include <algorithm>

namespace page_server
{
namespace
{
/** Nanoseconds of the round trip for which there may be one more message */
constexpr ulonglong PER_MESSAGE{500000};
/** The largest number of messages on their way */
constexpr ulonglong MESSAGES_MAX{256};
/** Nanoseconds for which a short round trip counts, at least; twice that at most */
constexpr ulonglong WINDOW{1000000000};

/** The shortest round trips in the current and the previous window. Threads update
them without a lock: at worst a measurement is lost. */
std::atomic<ulonglong> shortest{ULLONG_MAX}, shortest_before{ULLONG_MAX};
/** When the current window began */
std::atomic<ulonglong> window_begin;

void note(ulonglong now, ulonglong took) noexcept
{
  ulonglong window{window_begin.load(std::memory_order_relaxed)};
  if (now - window >= WINDOW &&
      window_begin.compare_exchange_strong(window, now,
                                           std::memory_order_relaxed))
  {
    shortest_before.store(shortest.load(std::memory_order_relaxed),
                          std::memory_order_relaxed);
    shortest.store(took, std::memory_order_relaxed);
  }
  else if (took < shortest.load(std::memory_order_relaxed))
    shortest.store(took, std::memory_order_relaxed);
}
} // namespace

unsigned round_trip::end() const noexcept
{
  if (begin)
  {
    const ulonglong now{my_interval_timer()};
    note(now, now - begin);
  }
  const ulonglong trip{std::min(shortest.load(std::memory_order_relaxed),
                                shortest_before.load(std::memory_order_relaxed))};
  /* Until there is a measurement, as on a fast link. */
  return trip == ULLONG_MAX
    ? 1 : unsigned(std::min(1 + trip / PER_MESSAGE, MESSAGES_MAX));
}
} // namespace page_server
