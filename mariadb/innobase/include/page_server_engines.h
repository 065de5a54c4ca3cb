/*****************************************************************************

InnoDB on a page server: tables of other engines.

Only InnoDB's redo reaches the page server, so rows of a persistent table in
another engine would be lost with the compute.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

namespace page_server
{
/** If enforce_storage_engine is InnoDB at start, give to InnoDB every persistent
table that a later CREATE or ALTER would give to an engine with rows of its own,
whatever the session's variables are, and make the preloaded library refuse data
files of such engines.
@return whether InnoDB can start */
bool engines_start() noexcept;

/** Undo engines_start(), so that this plugin can be unloaded. */
void engines_stop() noexcept;
}
