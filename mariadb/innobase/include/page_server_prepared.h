/*****************************************************************************

InnoDB on a page server: transactions that were prepared at the branch point.

With a binary log, a commit is first prepared in InnoDB, then written to the
binary log, then committed in InnoDB. After a crash MariaDB looks up prepared
transactions in the binary log. A branch begins as if after a crash, but its parent's
binary log is not its own, so MariaDB would not start. What the parent's log had at the
branch point decides instead.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

struct xid_t;

namespace page_server
{
/** What becomes of a recovered transaction in prepared state */
enum class Decision
{
  /** MariaDB decides, or the user that prepared it with XA. */
  LEAVE,
  /** Treat it as active, so that it is rolled back. */
  ROLL_BACK,
  /** Treat it as committed: this server is read-only. */
  COMMITTED,
  /** The parent's binary log, which decides, cannot be read: InnoDB must not start. */
  REFUSE
};

/** Decide on a recovered transaction that MariaDB itself prepared on the parent branch.
@param xid  identifier of the transaction
@return what to do now */
Decision decide(const xid_t &xid) noexcept;

/** Make the decisions permanent, and commit what the parent's binary log has. If this
branch has a binary log of its own, record that.
@return whether InnoDB can start */
bool prepared_decided() noexcept;

/** @return whether the redo of a transaction that was prepared need not be sent or waited
for, because the binary log sends it and waits
@param xid  identifier of the transaction */
bool log_waits(const xid_t &xid) noexcept;
}
