/*****************************************************************************

Functions that only the files of page_server/ call.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "univ.i"
#include "buf0types.h"
#include <unordered_set>
#include <vector>

namespace page_server
{
/** A page that the last start read */
struct start_page
{
  page_id_t id;
  /** Physical page size */
  uint32_t size;
  /** Where to put it */
  byte *buf;
};

/** Reads of the start that start_page_take() answered */
extern ulonglong start_pages_used;

/** Begin to note the pages that this start reads.
@return the pages that the branch's last start read */
std::vector<start_page> start_pages();

/** Keep a page of start_pages() that was read from the page server. */
void start_page_fetched(const start_page &page);

/** Note that the start reads a page, and get it if it was fetched.
@param id   page identifier
@param buf  frame
@param len  physical page size
@return whether the page was fetched and did not change since */
bool start_page_take(page_id_t id, void *buf, size_t len) noexcept;

/** Forget the pages of a tablespace that was dropped, truncated or made anew. */
void start_pages_forget_space(uint32_t id) noexcept;

/** @return the tablespaces of pages, apart from the system tablespace */
std::vector<uint32_t> start_spaces(const std::vector<start_page> &pages);

/** Ask the page server for a tablespace, so that the next open_space() of it does not.
@param id  tablespace identifier
@return whether the branch has it and the first page is not damaged */
bool fetch_space(uint32_t id) noexcept;

/** Forget tablespaces that were asked for and that open_space() did not need. */
void forget_fetched_spaces(const uint32_t *ids, size_t count) noexcept;

/** Wait until the list of the pages that this start read is written, if it is being
written. Called at shutdown, while the page server can still be reached. */
void wait_for_start_pages() noexcept;

/** Record whether the first page of a tablespace cannot be read.
@param id  tablespace identifier
@param is  whether the page is unreadable */
void note_damaged(uint32_t id, bool is) noexcept;

/** @return whether this server has dropped a tablespace
@param id  tablespace identifier */
bool was_dropped(uint32_t id) noexcept;

/** From now on, send all redo before each write to the branch's own binary log. */
void log_sends_redo() noexcept;

/** Cut off an event group at the end of the branch's own binary log of which only a
part is there.
@return whether the log can be opened */
bool mend_log() noexcept;

/** Find the transactions in the binary log of the data directory.
@param xids  their numbers, from the last checkpoint of the log on
@return whether the log was read */
bool log_transactions(std::unordered_set<uint64_t> &xids) noexcept;

/** Free the transactions that stay open. Called at shutdown, when there are no
other transactions. */
void forget_kept() noexcept;

/** End this process at once. The caller has logged the reason. This server holds
no data that is needed elsewhere. */
[[noreturn]] void end_server() noexcept;
}
