/* The table of LSNs of clean pages, by itself: page_server_clean.h.

SPDX-License-Identifier: GPL-2.0-or-later */

#include "page_server_clean.h"
#include <cstdio>
#include <unordered_map>
#include <vector>

using page_server::clean_lsns;

#define CHECK(condition) \
  do if (!(condition)) { \
    fprintf(stderr, "%d: %s\n", __LINE__, #condition); \
    return 1; \
  } while (0)

static uint64_t state= 1;
static uint64_t next()
{
  state^= state << 13, state^= state >> 7, state^= state << 17;
  return state;
}

/** An answer is never below what was noted, and exact while there is room. */
static int answers()
{
  clean_lsns table;
  CHECK(table.create(64));
  std::unordered_map<uint64_t, uint64_t> noted;
  for (uint64_t lsn= 1; lsn < 200000; lsn++)
  {
    /* Some pages often, most rarely; page 0 is a page like any other. */
    const uint64_t page{next() % 2 ? next() % 50 : next() % 5000};
    table.note(page, lsn);
    noted[page]= lsn;
    if (lsn % 97 == 0)
      for (const auto &p : noted)
        CHECK(table.of(p.first) >= p.second);
    CHECK(table.of(page) == lsn);
  }
  return 0;
}

/** A page that was not clean for long, or never, is not asked for with the LSN of
hot pages, whatever set it shares with them. */
static int cold_pages()
{
  clean_lsns table;
  const uint64_t sets{1024};
  CHECK(table.create(sets));
  const uint64_t cold{20 * sets}, hot{sets};
  for (uint64_t page= 0; page < cold; page++)
    table.note(page, 1 + page);
  /* Hot pages become clean again and again: fewer than there is room for. */
  for (uint64_t lsn= 1 << 20, round= 0; round < 50; round++)
    for (uint64_t page= 0; page < hot; page++, lsn++)
      table.note((uint64_t{7} << 32) + page, lsn);
  uint64_t late{0};
  for (uint64_t page= 0; page < 2 * cold; page++)
    late+= table.of(page) >= 1 << 20;
  /* A set gets more than seven hot pages about once in 100,000. */
  CHECK(late * 1000 < 2 * cold);
  return 0;
}

/** Older LSNs than those of the entries neither get lost nor push others out. */
static int old_lsns()
{
  clean_lsns table;
  CHECK(table.create(1));
  for (uint64_t page= 1; page <= clean_lsns::PAGES_PER_SET; page++)
    table.note(page, 100 + page);
  CHECK(table.of(99) == 0);
  table.note(99, 50);
  CHECK(table.of(99) == 50);
  CHECK(table.of(98) == 50);
  CHECK(table.of(1) == 101);
  table.note(1, 60);
  CHECK(table.of(1) == 101);
  table.note(97, 200);
  CHECK(table.of(97) == 200);
  CHECK(table.of(1) == 101);
  CHECK(table.of(2) == 102);
  CHECK(table.of(96) == 101);
  return 0;
}

int main() { return answers() || cold_pages() || old_lsns(); }
