/*****************************************************************************

Read-ahead of scans of B-trees: see page_server_ahead.h.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#include "page_server_ahead.h"
#include "page_server.h"
#include "btr0btr.h"
#include "btr0cur.h"
#include "buf0buf.h"
#include "buf0rea.h"
#include "dict0mem.h"
#include "fil0fil.h"
#include "mariadb_stats.h"
#include "os0file.h"
#include "srv0srv.h"
#include "srv0start.h"
#include "transactional_lock_guard.h"
#include <vector>

namespace page_server
{
uint read_ahead;

namespace
{
/** A scan requests at most this part of the buffer pool, which has other users. */
constexpr size_t POOL_PART{32};
/** A scan requests at most this part of the reads that may begin without waiting for
others to end: it holds the latch of a leaf. */
constexpr size_t READS_PART{2};

/** Finds the leaves after the current one of a scan */
class finder
{
  const btr_cur_t &cursor;
  mtr_t *const mtr;
  /** The current leaf; FIL_NULL once it was found */
  uint32_t leaf;
  /** Leaves to skip */
  size_t skip;
  /** The largest number of leaves to find */
  const size_t wanted;
public:
  /** The leaves found */
  std::vector<uint32_t> found;
  /** Whether there are no more leaves in the index */
  bool ended{false};
  /** A page of level 1 that is not in the buffer pool; FIL_NULL: none */
  uint32_t missing{FIL_NULL};

  finder(const btr_cur_t &cursor, mtr_t *mtr, uint32_t leaf, size_t skip,
         size_t wanted) :
    cursor(cursor), mtr(mtr), leaf(leaf), skip(skip), wanted(wanted)
  { found.reserve(wanted); }

  /** Walk along the pages of level 1.
  @param parent  the first page; updated to the one that names the leaf
  @return whether such a page was found, or could not be latched at once */
  bool walk(uint32_t &parent) noexcept
  {
    /* The cursor has moved on by one page since the last time, or one was split. */
    static constexpr unsigned PAGES{4};
    uint32_t page_no{parent};
    for (unsigned i= 0; i < PAGES; i++)
    {
      const page_id_t id{cursor.index()->table->space_id, page_no};
      buf_block_t *const block= buf_page_try_get(id, mtr);
      if (!block)
      {
        missing= page_no;
        return true;
      }
      const bool before{leaf == FIL_NULL};
      page_no= is_parent(*block) && take(*block)
        ? btr_page_get_next(block->page.frame) : 0;
      mtr->release_last_page();
      if (!before && leaf == FIL_NULL)
        parent= id.page_no();
      if (!page_no)
        return false;
      if (found.size() == wanted)
        return true;
      if (page_no == FIL_NULL)
      {
        ended= true;
        return leaf == FIL_NULL;
      }
    }
    return leaf == FIL_NULL;
  }

private:
  bool is_parent(const buf_block_t &block) const noexcept
  {
    const page_t *page= block.page.frame;
    const dict_index_t &index= *cursor.index();
    return fil_page_index_page_check(page) &&
      btr_page_get_level(page) == 1 &&
      btr_page_get_index_id(page) == index.id &&
      !page_is_comp(page) == !index.table->not_redundant();
  }

  /** Take the leaves that a page names.
  @return whether its records are as they should be */
  bool take(const buf_block_t &block) noexcept
  {
    const page_t *page= block.page.frame;
    const rec_t *rec= page_get_infimum_rec(page);
    mem_heap_t *heap= nullptr;
    rec_offs offsets_[REC_OFFS_NORMAL_SIZE];
    rec_offs *offsets= offsets_;
    rec_offs_init(offsets_);
    size_t left{page_get_n_recs(page)};
    while ((rec= page_rec_get_next_const(rec)) && !page_rec_is_supremum(rec) &&
           left-- && found.size() < wanted)
    {
      offsets= rec_get_offsets(rec, cursor.index(), offsets, 0, ULINT_UNDEFINED,
                               &heap);
      const uint32_t child= btr_node_ptr_get_child_page_no(rec, offsets);
      if (child == leaf)
        leaf= FIL_NULL;
      else if (leaf != FIL_NULL);
      else if (skip)
        skip--;
      else
        found.push_back(child);
    }
    if (UNIV_LIKELY_NULL(heap))
      mem_heap_free(heap);
    return rec;
  }
};

/** @return the number of reads that may begin now without waiting */
size_t reads_left() noexcept
{
  const size_t all{srv_n_read_io_threads * OS_AIO_N_PENDING_IOS_PER_THREAD};
  const size_t pending{os_aio_pending_reads_approx()};
  return all > pending ? all - pending : 0;
}

/** Request a page unless the buffer pool has it.
@return whether it was requested */
TRANSACTIONAL_TARGET
bool request_page(fil_space_t *space, page_id_t id) noexcept
{
  buf_pool_t::hash_chain &chain= buf_pool.page_hash.cell_get(id.fold());
  if (buf_pool.page_hash_contains(id, chain) || space->is_stopping())
    return false;
  space->reacquire();
  buf_read_page_background(space, id, space->zip_size());
  return true;
}
} // namespace

void scan::request(btr_cur_t &cursor, const buf_block_t &leaf, mtr_t *mtr)
  noexcept
{
  /* The cursor may stop soon: one more leaf is not a scan yet. */
  static constexpr uint16_t FIRST{2};
  const dict_index_t &index= *cursor.index();
  const page_id_t id{leaf.page.id()};
  const size_t limit{std::min(size_t{read_ahead},
                              buf_pool.curr_size() / POOL_PART)};
  if (!enabled || !parent || limit < FIRST || index.is_spatial() ||
      srv_startup_is_before_trx_rollback_phase)
    return;
  if (!window)
  {
    window= FIRST;
    return;
  }
  fil_space_t *const space= fil_space_t::get(id.space());
  if (!space)
    return;
  window= uint16_t(std::min(size_t{window} * 2, limit));
  const size_t wanted{std::min(size_t(window > ahead ? window - ahead : 0),
                               reads_left() / READS_PART)};
  if (wanted && serves(*space))
  {
    finder leaves{cursor, mtr, id.page_no(), ahead, wanted};
    if (!leaves.walk(parent) || leaves.ended)
      parent= 0;
    size_t count{0};
    for (const uint32_t page_no : leaves.found)
      count+= request_page(space, {id.space(), page_no});
    if (leaves.missing == FIL_NULL)
      /* In a small buffer pool, it may be evicted again. */
      requested= 0;
    else if (request_page(space, {id.space(), leaves.missing}))
    {
      count++;
      /* The read of the page failed if it is missing again. */
      if (requested == leaves.missing)
        parent= 0;
      requested= leaves.missing;
    }
    ahead= uint16_t(ahead + leaves.found.size());
    if (count)
    {
      mariadb_increment_pages_prefetched(count);
      mysql_mutex_lock(&buf_pool.mutex);
      buf_LRU_stat_inc_io();
      buf_pool.stat.n_ra_pages_read+= count;
      mysql_mutex_unlock(&buf_pool.mutex);
    }
  }
  space->release();
}
} // namespace page_server
