/*****************************************************************************

What the files of page_server/ call of each other.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "univ.i"

namespace page_server
{
/** Remember whether the first page of a tablespace cannot be read.
@param id  tablespace identifier
@param is  whether it cannot */
void note_damaged(uint32_t id, bool is) noexcept;

/** @return whether this server has dropped a tablespace
@param id  tablespace identifier */
bool was_dropped(uint32_t id) noexcept;

/** Free the transactions that stay open, at shutdown, when nobody else has
transactions any more. */
void forget_kept() noexcept;

/** End at once, after the reason was written to the error log. This server
holds nothing that another one needs. */
[[noreturn]] void end_server() noexcept;
}
