/*****************************************************************************

InnoDB on a page server: transactions that were prepared when a branch left
another.

With a binary log, a commit is first prepared in InnoDB, then written to the
binary log, then committed in InnoDB. After a crash MariaDB asks the binary log
what becomes of the prepared ones. A branch begins as if after a crash, and the
binary log of the branch that it left is not there to be asked, so MariaDB
would not start.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

struct xid_t;

namespace page_server
{
/** Find out whether a transaction was prepared by MariaDB itself on the branch
that this one left: no binary log of this branch can contain it, so it is to be
rolled back. One that a user has prepared with XA never is.
@param xid  identifier of a recovered transaction in prepared state
@return whether to treat it as one that was active */
bool is_undecided(const xid_t &xid) noexcept;

/** Make the decisions of is_undecided() permanent, and note that from here on
this branch has a binary log of its own, if it has.
@return whether InnoDB can start */
bool prepared_decided() noexcept;
}
