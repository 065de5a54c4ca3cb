/*****************************************************************************

Read-ahead of scans of B-trees.

A scan goes from leaf to leaf along FIL_PAGE_NEXT, so it learns the number of a leaf
only once it has the one before, and waits for each that the buffer pool does not
have. The pages of level 1 name the leaves in order. A scan remembers the page of
level 1 that it came through. As it reaches leaves that were not accessed before, it
requests the ones after them, more and more of them at a time.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "univ.i"

struct btr_cur_t;
struct buf_block_t;
struct mtr_t;

namespace page_server
{
/** innodb_page_server_read_ahead: the largest number of leaves that are requested
ahead of a scan; 0: none */
extern uint read_ahead;

/** The read-ahead of a cursor that moves to the right. All zero in a new cursor. */
class scan
{
  /** Number of a page of level 1 that names the leaf, or was split since; 0: none is
  known, or the scan has requested all leaves */
  uint32_t parent;
  /** Number of a page of level 1 that was requested last; 0: none */
  uint32_t requested;
  /** Leaves after the current one that were requested */
  uint16_t ahead;
  /** The largest number of leaves after the current one to request now; 0: the cursor
  did not move to a leaf that was not accessed before */
  uint16_t window;

  void request(btr_cur_t &cursor, const buf_block_t &leaf, mtr_t *mtr) noexcept;
public:
  /** The cursor goes down to a leaf.
  @param page_no  page of level 1 */
  void descend(uint32_t page_no) noexcept
  {
    parent= page_no;
    requested= 0;
    ahead= window= 0;
  }

  /** The cursor moved to the next leaf. Does not wait for latches of pages.
  @param cursor        the cursor that this belongs to
  @param leaf          latched leaf page
  @param first_access  whether the leaf was not accessed since it was read
  @param mtr           mini-transaction */
  void next(btr_cur_t &cursor, const buf_block_t &leaf, bool first_access,
            mtr_t *mtr) noexcept
  {
    if (ahead)
      ahead--;
    if (first_access && ahead <= window / 2)
      request(cursor, leaf, mtr);
  }
};
} // namespace page_server
