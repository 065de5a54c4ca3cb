/*****************************************************************************

InnoDB on a page server: the LSNs at which pages were last called clean.

This file needs nothing of InnoDB, so that it can be tested by itself.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <thread>

namespace page_server
{
/** For each page, an LSN that is at least the one at which it last became clean.

A page's own LSN is kept in an entry while there is room. The pages are spread over
sets of a few entries. When a set is full, its oldest entry makes room, and its LSN
becomes the floor of the set: the answer for all pages of the set without an entry.
A page that was not clean for long is thus asked for with an LSN from long ago,
whatever hot pages it shares a set with; the page server has read up to there and
need not make the reader wait. */
class clean_lsns
{
  /** An entry is unused if its LSN is 0. */
  struct entry { uint64_t page, lsn; };
  static constexpr unsigned WAYS{7};

  /** Two cache lines. All zeros is an empty set. */
  struct alignas(64) set
  {
    std::atomic<uint32_t> locked;
    /** The largest LSN of an entry that made room */
    uint64_t floor;
    entry entries[WAYS];

    /** Nobody holds the lock for longer than it takes to look at the entries. */
    void lock() noexcept
    {
      while (locked.exchange(1, std::memory_order_acquire))
        std::this_thread::yield();
    }
    void unlock() noexcept { locked.store(0, std::memory_order_release); }
  };
  static_assert(sizeof(set) == 128, "two cache lines");

  void *memory= nullptr;
  set *sets= nullptr;
  uint64_t count= 0;

  set &set_of(uint64_t page) const noexcept
  {
    /* Fibonacci hashing spreads consecutive pages over the table. */
    const uint64_t hash{page * 0x9e3779b97f4a7c15ULL};
    return sets[(hash >> 32) * count >> 32];
  }
public:
  /** The number of pages for which there is room, for each set */
  static constexpr unsigned PAGES_PER_SET{WAYS};
  /** Bytes of memory for each set */
  static constexpr size_t SET_SIZE{sizeof(set)};

  clean_lsns()= default;
  clean_lsns(const clean_lsns&)= delete;
  clean_lsns &operator=(const clean_lsns&)= delete;
  ~clean_lsns() { free(memory); }

  /** Make an empty table.
  @param n  number of sets, less than 2**32
  @return whether there was enough memory */
  bool create(uint64_t n) noexcept
  {
    free(memory);
    /* The system gives zeroed pages as they are first used. */
    memory= calloc(n + 1, sizeof(set));
    sets= reinterpret_cast<set*>((uintptr_t(memory) + alignof(set) - 1) &
                                 ~uintptr_t{alignof(set) - 1});
    count= n;
    return memory != nullptr;
  }

  /** Record that a page is called clean.
  @param page  page identifier
  @param lsn   LSN of its last change, not 0 */
  void note(uint64_t page, uint64_t lsn) noexcept
  {
    set &s= set_of(page);
    s.lock();
    entry *oldest= s.entries;
    for (entry &e : s.entries)
    {
      if (e.lsn && e.page == page)
      {
        e.lsn= std::max(e.lsn, lsn);
        s.unlock();
        return;
      }
      if (e.lsn < oldest->lsn)
        oldest= &e;
    }
    /* At or below the floor, an entry would say nothing new. */
    if (lsn > s.floor)
    {
      if (lsn < oldest->lsn)
        s.floor= lsn;
      else
      {
        s.floor= std::max(s.floor, oldest->lsn);
        oldest->page= page;
        oldest->lsn= lsn;
      }
    }
    s.unlock();
  }

  /** @return an LSN that a page must show when it is read; 0 if it never became
  clean
  @param page  page identifier */
  uint64_t of(uint64_t page) const noexcept
  {
    set &s= set_of(page);
    s.lock();
    uint64_t lsn{s.floor};
    for (const entry &e : s.entries)
      if (e.lsn && e.page == page)
      {
        lsn= e.lsn;
        break;
      }
    s.unlock();
    return lsn;
  }
};
}
