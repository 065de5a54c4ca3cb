/*****************************************************************************

Find the binary log that decides on a prepared transaction.

A side file, which is part of the branch's history, names the branch that last
ran with a binary log, and says whether that log is a part of the branch. If it names
another branch, that is a parent branch or one of its ancestors, and this branch has
prepared no transaction yet, because it would have written its own name first. What
that log had at the branch point is committed, as MariaDB's recovery would do there;
the rest is rolled back, and so is all if the log is elsewhere. If the file names this
branch, or is missing, MariaDB decides. Without the binary log it then refuses to start,
which is right, because that log may hold commits that were acknowledged.

The order of writes makes this safe at every crash: the redo of all decisions is
durable before another branch's log is removed, the log is gone before the name is
written, and the name is durable before the first transaction can be prepared. A
truncated name matches no branch.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#define MYSQL_SERVER
#include "page_server_prepared.h"
#include "page_server.h"
#include "page_server_private.h"
#include "buf0buf.h"
#include "log0log.h"
#include "mtr0mtr.h"
#include "os0file.h"
#include "srv0srv.h"
#include "trx0rseg.h"
#include "trx0sys.h"
#include "trx0trx.h"
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

/** What follows the branch in FILE_NAME if the log is not a part of the branch */
constexpr char ELSEWHERE[]= " elsewhere";

/** The number of transactions that are rolled back */
unsigned undecided;

/** Transactions that the parent's binary log has */
std::vector<xid_t> decided;

/** The numbers of the transactions in the parent's binary log */
std::unordered_set<uint64_t> logged;
/** Whether that log was read */
bool log_read;

/** The branch in FILE_NAME */
enum class Owner { UNKNOWN, NOBODY, US, OTHERS };
Owner owner= Owner::UNKNOWN;
/** Whether FILE_NAME says so of the log */
bool elsewhere;

/** Whether this server writes a binary log that is a part of the branch */
bool own_log;

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
  std::string named(buf, size_t(n));
  const std::string end= std::string(ELSEWHERE) + "\n";
  elsewhere= named.size() > end.size() &&
    !named.compare(named.size() - end.size(), std::string::npos, end);
  if (elsewhere)
    named.replace(named.size() - end.size(), std::string::npos, "\n");
  return owner= named == std::string(branch) + "\n"
    ? Owner::US : Owner::OTHERS;
}

/** @return whether a file of the data directory has events of a binary log, or its
state; the index is MariaDB's already */
bool is_log(const char *name)
{
  constexpr char BASE[]= "binlog.";
  if (strncmp(name, BASE, sizeof BASE - 1))
    return false;
  name+= sizeof BASE - 1;
  return !strcmp(name, "state") ||
    (strlen(name) >= 6 && name[strspn(name, "0123456789")] == 0);
}

/** Remove the files of a binary log that is not this branch's from this branch.
@return whether none is left */
bool remove_log()
{
  MY_DIR *dir= my_dir(fil_path_to_mysql_datadir, MYF(0));
  if (!dir)
    return false;
  bool ok= true;
  for (size_t i= 0; i < dir->number_of_files; i++)
    if (is_log(dir->dir_entry[i].name))
      ok&= !::unlink((std::string(fil_path_to_mysql_datadir) + "/" +
                      dir->dir_entry[i].name).c_str());
  my_dirend(dir);
  return ok;
}

/** Write this branch's name to FILE_NAME, durably.
@return whether it was written */
bool take_over()
{
  if (own_log && !remove_log())
    return false;
  const std::string mine= std::string(branch) + (own_log ? "" : ELSEWHERE) + "\n";
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

Decision decide(const xid_t &xid) noexcept
{
  const my_xid number= const_cast<xid_t&>(xid).get_my_xid();
  if (!enabled || !number || srv_force_recovery >= SRV_FORCE_NO_TRX_UNDO ||
      find_owner() != Owner::OTHERS)
    return Decision::LEAVE;
  if (!log_read)
  {
    if (!elsewhere && !log_transactions(logged))
      return Decision::REFUSE;
    log_read= true;
  }
  if (logged.count(number))
  {
    if (high_level_read_only)
      return Decision::COMMITTED;
    decided.push_back(xid);
    return Decision::LEAVE;
  }
  undecided++;
  return Decision::ROLL_BACK;
}

bool log_waits(const xid_t &xid) noexcept
{ return own_log && const_cast<xid_t&>(xid).get_my_xid(); }

bool prepared_decided() noexcept
{
  if (!enabled || high_level_read_only ||
      srv_force_recovery >= SRV_FORCE_NO_TRX_UNDO)
    return true;

  for (const xid_t &xid : decided)
    if (trx_t *trx= trx_get_trx_by_xid(&xid))
    {
      trx_commit_for_mysql(trx);
      trx->free();
    }
  if (!decided.empty())
    sql_print_information("InnoDB: Committed %zu transactions that the binary log"
                          " had at the branch point of branch '%s'",
                          decided.size(), branch);

  if (undecided)
  {
    sql_print_information("InnoDB: Rolling back %u transactions that were"
                          " being committed at the branch point of branch"
                          " '%s', because the binary log did not have them there",
                          undecided, branch);
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
  own_log= opt_bin_logname && !strcmp(opt_bin_logname, "binlog");
  switch (find_owner()) {
  case Owner::US:
    if (elsewhere == !own_log)
    {
      if (!own_log)
        return true;
      log_sends_redo();
      return mend_log();
    }
    break;
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
    if (own_log)
      log_sends_redo();
    return true;
  }
  sql_print_error("InnoDB: Cannot remove another branch's binary log, or write"
                  " %s, which records that branch '%s' has a binary log: %s",
                  path().c_str(), branch, strerror(errno));
  return false;
}
}
