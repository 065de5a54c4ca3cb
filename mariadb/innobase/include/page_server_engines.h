/*****************************************************************************

InnoDB on a page server: tables of other engines.

Only InnoDB's redo reaches the page server, so rows of a persistent table that
another engine keeps would be gone with the compute.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

namespace page_server
{
/** With enforce_storage_engine=InnoDB at start: from here on, every CREATE and
ALTER that would give a persistent table to an engine that keeps rows of its
own gives it to InnoDB instead, whatever the session's variables say, and the
preloaded library refuses data files of such engines.
@return whether InnoDB can start */
bool engines_start() noexcept;

/** Undo engines_start(): this plugin may be unloaded. */
void engines_stop() noexcept;
}
