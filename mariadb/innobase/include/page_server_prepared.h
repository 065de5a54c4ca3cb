/*****************************************************************************

InnoDB on a page server: transactions that were prepared at the branch point.

With a binary log, a commit is first prepared in InnoDB, then written to the
binary log, then committed in InnoDB. After a crash MariaDB looks up prepared
transactions in the binary log. A branch begins as if after a crash, and has no
binary log of its parent branch, so MariaDB would not start.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

struct xid_t;

namespace page_server
{
/** Find out whether MariaDB itself prepared a transaction on the parent branch.
No binary log of this branch can contain it, so it must be rolled back. This is
never the case for a transaction that a user prepared with XA.
@param xid  identifier of a recovered transaction in prepared state
@return whether to treat the transaction as active */
bool is_undecided(const xid_t &xid) noexcept;

/** Make the decisions of is_undecided() permanent. If this branch has a binary
log of its own, record that.
@return whether InnoDB can start */
bool prepared_decided() noexcept;
}
