/*****************************************************************************

Functions that only the files of page_server/ call.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "univ.i"

namespace page_server
{
/** Record whether the first page of a tablespace cannot be read.
@param id  tablespace identifier
@param is  whether the page is unreadable */
void note_damaged(uint32_t id, bool is) noexcept;

/** @return whether this server has dropped a tablespace
@param id  tablespace identifier */
bool was_dropped(uint32_t id) noexcept;

/** Free the transactions that stay open. Called at shutdown, when there are no
other transactions. */
void forget_kept() noexcept;

/** End this process at once. The caller has logged the reason. This server holds
no data that is needed elsewhere. */
[[noreturn]] void end_server() noexcept;
}
