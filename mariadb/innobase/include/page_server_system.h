/*****************************************************************************

InnoDB on a page server: MariaDB's own tables, which stock servers keep in Aria.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "row0mysql.h"
#include "trx0trx.h"

class THD;

namespace page_server
{
/** Decide how a statement reads one of MariaDB's own tables. Aria locks such a
table for at most one statement and always shows its newest rows. InnoDB would
lock rows until the transaction ends, so that GRANT in other connections would
wait for it, or would read from the transaction's snapshot, which lacks routines
that were created later.
@param prebuilt   handle, whose lock mode may be changed
@param thd        connection
@param read_only  whether the table is locked for reading */
void set_system_read(row_prebuilt_t *prebuilt, THD *thd, bool read_only)
  noexcept;

/** Lock one of MariaDB's own tables for a statement on accounts, as Aria does,
before the server takes its own locks on accounts. With those, a wait for a row
lock would block all logins.
@param prebuilt   handle, in the lock mode that the statement needs
@param thd        connection
@return error code */
dberr_t lock_for_accounts(row_prebuilt_t *prebuilt, const THD *thd) noexcept;

/** Report that a statement on accounts failed because of a lock wait timeout or
a deadlock. The server treats any error of a read as a missing row, and would
report that there is no such account (1133). Only the first error counts.
@param prebuilt   handle
@param thd        connection
@param error      handler's error code */
void report_lock_wait(const row_prebuilt_t *prebuilt, const THD *thd, int error)
  noexcept;

/** While an object of this class exists, a handle that set_system_read() chose
reads the newest rows. */
class System_read
{
  trx_t *const m_trx;
  const unsigned m_isolation_level;
public:
  explicit System_read(const row_prebuilt_t &prebuilt) noexcept :
    m_trx(prebuilt.reads_newest ? prebuilt.trx : nullptr),
    m_isolation_level(prebuilt.trx->isolation_level)
  {
    if (UNIV_UNLIKELY(m_trx != nullptr))
      m_trx->isolation_level= TRX_ISO_READ_UNCOMMITTED;
  }
  ~System_read()
  {
    if (UNIV_UNLIKELY(m_trx != nullptr))
      m_trx->isolation_level= m_isolation_level & 3;
  }
  System_read(const System_read&)= delete;
  System_read &operator=(const System_read&)= delete;
};
}
