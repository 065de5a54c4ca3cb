/*****************************************************************************

InnoDB on a page server: MariaDB's own tables, which are in Aria elsewhere.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

#include "row0mysql.h"
#include "trx0trx.h"

class THD;

namespace page_server
{
/** Decide how a statement reads one of MariaDB's own tables. Aria locks such a
table for a statement at most and always shows its newest rows. InnoDB would
lock rows until the transaction ends, and GRANT and the like of all others
would wait for it, or read from the transaction's snapshot, in which a routine
made since is not there.
@param prebuilt   handle; its lock mode is changed if so
@param thd        connection
@param read_only  whether the table is locked for reading */
void set_system_read(row_prebuilt_t *prebuilt, THD *thd, bool read_only)
  noexcept;

/** Lock one of MariaDB's own tables for a statement on accounts, as Aria does:
before the server takes its own locks on accounts, with which it would keep
everybody from logging in while it waits for a row.
@param prebuilt   handle, in the lock mode that the statement needs
@param thd        connection
@return error code */
dberr_t lock_for_accounts(row_prebuilt_t *prebuilt, const THD *thd) noexcept;

/** Report that a statement on accounts failed because it waited for a lock too
long: the server takes any error of a read for a missing row and would say that
there is no such account (1133). Only the first error counts.
@param prebuilt   handle
@param thd        connection
@param error      handler's error code */
void report_lock_wait(const row_prebuilt_t *prebuilt, const THD *thd, int error)
  noexcept;

/** While it lives, a handle that set_system_read() chose reads newest rows. */
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
