/*****************************************************************************

InnoDB on a page server: how many commits are on their way at a time.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "univ.i"

namespace page_server
{
/** The time from sending redo until it is durable */
class round_trip
{
  const ulonglong begin;
public:
  /** Begin to wait.
  @param sent  whether this thread just sent what it waits for; otherwise the time
  says nothing */
  explicit round_trip(bool sent) noexcept :
    begin(sent ? my_interval_timer() : 0) {}

  /** Stop waiting.
  @return how many threads may send redo and wait for it at a time

  Redo that is sent at once arrives as early as possible, but each commit then
  costs a message. On a fast link those that arrive while one is on its way are
  sent together when it is done, as InnoDB does between two syncs of a file. On a
  slow link nobody could wait for that: a commit may be sent about every half
  millisecond. The shortest time counts, because a loaded server also takes long,
  and more messages would add to its load. */
  unsigned end() const noexcept;
};
}
