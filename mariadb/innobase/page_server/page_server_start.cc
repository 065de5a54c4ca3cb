/*****************************************************************************

The pages that a start reads.

A start reads some 200 pages one after the other, because each says which one is
next: over a network that takes 200 round trips. So a server notes which pages it
read until it was started, in the side file xylem.start_pages, and the branch's next
server requests them all at once before InnoDB starts.

A page that was fetched so is what the page server has as of the start LSN. It stands
for a read until this server changes the page: so long it is the newest version. The
tablespaces of these pages are requested with them: until a tablespace is opened, this
server has not changed its name or its size.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#include "page_server.h"
#include "page_server_private.h"
#include "fil0fil.h"
#include "log.h"
#include "srv0srv.h"
#include "srv0start.h"
#include "tpool.h"
#include <algorithm>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace page_server
{
std::atomic<bool> starting;
ulonglong start_pages_used;

namespace
{
/** The largest number of pages that are fetched, and of bytes */
constexpr size_t PAGES_MAX{512}, BYTES_MAX{16U << 20};
/** Part of the pages read that the list may lack before it is written again */
constexpr size_t LACKS_PART{8};
/** Seconds after InnoDB has started in which it reads for the first connections */
constexpr unsigned TAIL{2};
constexpr char FILE_NAME[]{"xylem.start_pages"};

/** Protects what follows while starting */
std::mutex mutex;
/** The pages that were fetched and did not change */
std::unordered_map<uint64_t, start_page> fetched;
/** The memory of all */
std::vector<byte> memory;
/** The tablespaces that were fetched */
std::vector<uint32_t> fetched_spaces;
/** The first PAGES_MAX pages that this start read, with their sizes */
std::vector<std::pair<page_id_t, uint32_t>> read_now;
/** Those of them that no fetched page stood for */
size_t lacking;

std::string path()
{ return std::string{fil_path_to_mysql_datadir} + '/' + FILE_NAME; }

/** Write the list of read_now, which no longer changes. Waits until the page server has
it, so this is a task of its own. */
void write_list(void *)
{
  if (srv_shutdown_state != SRV_SHUTDOWN_NONE)
    return;
  std::sort(read_now.begin(), read_now.end());
  read_now.erase(std::unique(read_now.begin(), read_now.end()), read_now.end());
  /* The preloaded library sends a file that gets the name of a side file. */
  const std::string to{path()}, from{to + ".new"};
  FILE *f= fopen(from.c_str(), "we");
  bool written{f != nullptr};
  if (f)
  {
    for (const auto &page : read_now)
      written= written && fprintf(f, "%u,%u,%u\n", page.first.space(),
                                  page.first.page_no(), page.second) > 0;
    written= !fclose(f) && written;
  }
  if (!written || rename(from.c_str(), to.c_str()))
    sql_print_warning("InnoDB: Cannot write %s: %s; the next start takes longer",
                      to.c_str(), strerror(errno));
  read_now= decltype(read_now){};
}

tpool::waitable_task write_task{write_list, nullptr};
} // namespace

std::vector<start_page> start_pages()
{
  std::vector<start_page> pages;
  starting.store(true, std::memory_order_relaxed);
  FILE *f= fopen(path().c_str(), "re");
  if (!f)
    return pages;
  size_t bytes{0};
  uint32_t space, page_no, size;
  while (pages.size() < PAGES_MAX &&
         fscanf(f, "%u,%u,%u", &space, &page_no, &size) == 3 &&
         size >= UNIV_ZIP_SIZE_MIN && size <= UNIV_PAGE_SIZE_MAX &&
         ut_is_2pow(size) && (bytes+= size) <= BYTES_MAX)
    pages.push_back({{space, page_no}, size, nullptr});
  fclose(f);
  memory.resize(bytes);
  byte *buf{memory.data()};
  for (start_page &page : pages)
  {
    page.buf= buf;
    buf+= page.size;
  }
  return pages;
}

void start_page_fetched(const start_page &page)
{
  const std::lock_guard<std::mutex> lock{mutex};
  fetched.emplace(page.id.raw(), page);
}

std::vector<uint32_t> start_spaces(const std::vector<start_page> &pages)
{
  const std::lock_guard<std::mutex> lock{mutex};
  for (const start_page &page : pages)
    if (page.id.space() != TRX_SYS_SPACE)
      fetched_spaces.push_back(page.id.space());
  std::sort(fetched_spaces.begin(), fetched_spaces.end());
  fetched_spaces.erase(std::unique(fetched_spaces.begin(), fetched_spaces.end()),
                       fetched_spaces.end());
  return fetched_spaces;
}

bool start_page_take(page_id_t id, void *buf, size_t len) noexcept
{
  if (!starting.load(std::memory_order_relaxed))
    return false;
  const std::lock_guard<std::mutex> lock{mutex};
  /* The start may have ended since. */
  if (!starting.load(std::memory_order_relaxed))
    return false;
  const auto found= fetched.find(id.raw());
  const bool there{found != fetched.end() && found->second.size == len};
  if (read_now.size() < PAGES_MAX)
  {
    read_now.emplace_back(id, uint32_t(len));
    lacking+= !there;
  }
  if (!there)
    return false;
  memcpy(buf, found->second.buf, len);
  start_pages_used++;
  return true;
}

void start_page_forget(page_id_t id) noexcept
{
  const std::lock_guard<std::mutex> lock{mutex};
  fetched.erase(id.raw());
}

void start_pages_forget_space(uint32_t id) noexcept
{
  forget_fetched_spaces(&id, 1);
  const std::lock_guard<std::mutex> lock{mutex};
  for (auto i= fetched.begin(); i != fetched.end(); )
    if (page_id_t{i->first}.space() == id)
      i= fetched.erase(i);
    else
      ++i;
}

void end_start() noexcept
{
  static unsigned seconds;
  if (!starting.load(std::memory_order_relaxed) || seconds++ < TAIL)
    return;
  {
    const std::lock_guard<std::mutex> lock{mutex};
    starting.store(false, std::memory_order_relaxed);
    fetched.clear();
    memory= decltype(memory){};
  }
  forget_fetched_spaces(fetched_spaces.data(), fetched_spaces.size());
  fetched_spaces= decltype(fetched_spaces){};
  if (enabled && !high_level_read_only && lacking > read_now.size() / LACKS_PART)
    srv_thread_pool->submit_task(&write_task);
  else
    read_now= decltype(read_now){};
}

void wait_for_start_pages() noexcept
{
  write_task.wait();
}
} // namespace page_server
