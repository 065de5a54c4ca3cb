/*****************************************************************************

Find the binary log that decides on a prepared transaction.

A side file, which is part of the branch's history, names the branch that last
ran with a binary log. If it names another branch, that is a parent branch or one
of its ancestors. No binary log of this branch contains the transactions that were
prepared at the branch point, and this branch has prepared none yet, because it
would have written its own name first. If the file names this branch, or is
missing, MariaDB decides. Without the binary log it then refuses to start, which is
right, because that log may hold commits that were acknowledged.

The order of writes makes this safe at every crash: the redo of all decisions is
durable before the name is written, and the name is durable before the first
transaction can be prepared. A truncated name matches no branch.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#define MYSQL_SERVER
#include "page_server_prepared.h"
#include "page_server.h"
#include "buf0buf.h"
#include "log0log.h"
#include "mtr0mtr.h"
#include "os0file.h"
#include "srv0srv.h"
#include "trx0rseg.h"
#include "trx0sys.h"
#include "trx0undo.h"
#include "mysqld.h"
#include "handler.h"
#include "log.h"
#include <fcntl.h>
#include <unistd.h>
#include <string>

namespace page_server
{
namespace
{
/** The side file, in the data directory */
constexpr char FILE_NAME[]= "xylem.binlog";

/** The number of transactions for which is_undecided() returned true */
unsigned undecided;

/** The branch in FILE_NAME */
enum class Owner { UNKNOWN, NOBODY, US, OTHERS };
Owner owner= Owner::UNKNOWN;

std::string path()
{ return std::string(fil_path_to_mysql_datadir) + "/" + FILE_NAME; }

/** Read FILE_NAME once. Only this plugin changes it. */
Owner find_owner()
{
  if (owner != Owner::UNKNOWN)
    return owner;
  char buf[512];
  const int fd= ::open(path().c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return owner= errno == ENOENT ? Owner::NOBODY : Owner::UNKNOWN;
  /* Not page_server::read(). */
  const ssize_t n= ::read(fd, buf, sizeof buf);
  ::close(fd);
  if (n < 0)
    return Owner::UNKNOWN;
  const std::string mine= std::string(branch) + "\n";
  return owner= mine == std::string(buf, size_t(n))
    ? Owner::US : Owner::OTHERS;
}

/** Write this branch's name to FILE_NAME, durably.
@return whether it was written */
bool take_over()
{
  const std::string mine= std::string(branch) + "\n";
  const int fd= ::open(path().c_str(),
                     O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0660);
  if (fd < 0)
    return false;
  bool ok= ::write(fd, mine.data(), mine.size()) == ssize_t(mine.size()) &&
    !::fsync(fd);
  ok&= !::close(fd);
  return ok;
}

/** Record in the undo log of a transaction that it is not prepared any more.
@param undo  undo log, whose state in memory is already active
@return error code */
dberr_t set_active(const trx_undo_t &undo)
{
  mtr_t mtr;
  mtr.start();
  dberr_t err;
  if (buf_block_t *block=
      buf_page_get_gen(page_id_t(undo.rseg->space->id, undo.hdr_page_no), 0,
                       RW_X_LATCH, nullptr, BUF_GET, &mtr, &err))
    mtr.write<2,mtr_t::MAYBE_NOP>(*block, TRX_UNDO_SEG_HDR + TRX_UNDO_STATE +
                                  block->page.frame, TRX_UNDO_ACTIVE);
  mtr.commit();
  return err;
}
} // namespace

bool is_undecided(const xid_t &xid) noexcept
{
  if (!enabled || !const_cast<xid_t&>(xid).get_my_xid() ||
      find_owner() != Owner::OTHERS)
    return false;
  undecided++;
  return true;
}

bool prepared_decided() noexcept
{
  if (!enabled || high_level_read_only ||
      srv_force_recovery >= SRV_FORCE_NO_TRX_UNDO)
    return true;

  if (undecided)
  {
    sql_print_information("InnoDB: Rolling back %u transactions that were"
                          " being committed at the branch point of branch"
                          " '%s', because no binary log of this branch"
                          " contains them", undecided, branch);
    for (trx_rseg_t &rseg : trx_sys.rseg_array)
      if (rseg.space)
        for (const trx_undo_t *undo= UT_LIST_GET_FIRST(rseg.undo_list); undo;
             undo= UT_LIST_GET_NEXT(undo_list, undo))
          if (undo->state == TRX_UNDO_ACTIVE)
            if (dberr_t err= set_active(*undo))
            {
              sql_print_error("InnoDB: Cannot record in undo page %u of"
                              " tablespace %u that transaction " TRX_ID_FMT
                              " must be rolled back: %s",
                              undo->hdr_page_no, rseg.space->id, undo->trx_id,
                              ut_strerr(err));
              return false;
            }
  }

  if (!opt_bin_log)
    return true;
  switch (find_owner()) {
  case Owner::US:
    return true;
  case Owner::UNKNOWN:
    sql_print_error("InnoDB: Cannot read %s: %s", path().c_str(),
                    strerror(errno));
    return false;
  case Owner::NOBODY:
  case Owner::OTHERS:
    break;
  }
  log_buffer_flush_to_disk();
  if (take_over())
  {
    owner= Owner::US;
    return true;
  }
  sql_print_error("InnoDB: Cannot write %s, which records that branch '%s' has"
                  " a binary log: %s", path().c_str(), branch,
                  strerror(errno));
  return false;
}
}
