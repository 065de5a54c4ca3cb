/*****************************************************************************

Reads, locks and lock errors of MariaDB's own tables.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#define MYSQL_SERVER
#include "page_server_system.h"
#include "page_server.h"
#include "dict0mem.h"
#include "sql_class.h"
#include "sql_parse.h"
#include <string.h>

namespace page_server
{
namespace
{
/** Tables of the database mysql that stock servers keep in Aria, as created by
scripts/mysql_system_tables.sql. The tables that all servers keep in InnoDB
(gtid_slave_pos, innodb_table_stats, innodb_index_stats, transaction_registry)
must be transactional. */
constexpr const char *SYSTEM_TABLES[]= {
  "column_stats", "columns_priv", "db", "event", "func", "global_priv",
  "help_category", "help_keyword", "help_relation", "help_topic",
  "index_stats", "plugin", "proc", "procs_priv", "proxies_priv",
  "roles_mapping", "servers", "table_stats", "tables_priv", "time_zone",
  "time_zone_leap_second", "time_zone_name", "time_zone_transition",
  "time_zone_transition_type"
};

bool is_system(const dict_table_t &table) noexcept
{
  const char *name= table.name.m_name;
  if (strncmp(name, "mysql/", 6))
    return false;
  for (const char *one : SYSTEM_TABLES)
    if (!strcmp(name + 6, one))
      return true;
  return false;
}

/** @return whether a statement is about accounts and privileges */
bool is_about_accounts(int sql_command) noexcept
{
  switch (sql_command) {
  case SQLCOM_GRANT:
  case SQLCOM_GRANT_ROLE:
  case SQLCOM_REVOKE:
  case SQLCOM_REVOKE_ALL:
  case SQLCOM_REVOKE_ROLE:
  case SQLCOM_CREATE_USER:
  case SQLCOM_ALTER_USER:
  case SQLCOM_DROP_USER:
  case SQLCOM_RENAME_USER:
  case SQLCOM_CREATE_ROLE:
  case SQLCOM_DROP_ROLE:
  case SQLCOM_SET_OPTION:
    return true;
  }
  return false;
}
} // namespace

void set_system_read(row_prebuilt_t *prebuilt, THD *thd, bool read_only)
  noexcept
{
  /* A statement that ends the transaction keeps no locks, and may act on the rows
  that it reads: FLUSH PRIVILEGES must not see uncommitted rows. */
  prebuilt->reads_newest= read_only && enabled &&
    thd_test_options(thd, OPTION_NOT_AUTOCOMMIT | OPTION_BEGIN) &&
    is_system(*prebuilt->table) &&
    !stmt_causes_implicit_commit(thd, CF_IMPLICIT_COMMIT_END);
  if (prebuilt->reads_newest)
    prebuilt->select_lock_type= prebuilt->stored_select_lock_type= LOCK_NONE;
}

dberr_t lock_for_accounts(row_prebuilt_t *prebuilt, const THD *thd) noexcept
{
  if (!enabled || prebuilt->select_lock_type != LOCK_X ||
      !is_about_accounts(thd_sql_command(thd)) ||
      !is_system(*prebuilt->table))
    return DB_SUCCESS;
  return row_lock_table(prebuilt);
}

void report_lock_wait(const row_prebuilt_t *prebuilt, const THD *thd, int error)
  noexcept
{
  if (!enabled || !is_about_accounts(thd_sql_command(thd)) ||
      !is_system(*prebuilt->table))
    return;
  if (error == HA_ERR_LOCK_WAIT_TIMEOUT)
    my_error(ER_LOCK_WAIT_TIMEOUT, MYF(0));
  else if (error == HA_ERR_LOCK_DEADLOCK)
    my_error(ER_LOCK_DEADLOCK, MYF(0));
}
}
