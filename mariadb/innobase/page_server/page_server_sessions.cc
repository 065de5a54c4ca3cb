/*****************************************************************************

Sessions that move to another server of the branch.

A gateway that lets an idle server end keeps the clients' connections, and gives each
client a session on the branch's next server when it speaks again. It sees in
INFORMATION_SCHEMA.INNODB_PAGE_SERVER_SESSIONS what the next server could not give
back, such as a temporary table, and when the event scheduler wants to run. It does not
know the clients' passwords, so its own account, which can do everything, becomes the
client's by setting innodb_page_server_act_as.

This file reads private members of the server's classes: it is compiled with
-fno-access-control.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#define MYSQL_SERVER 1
#include "univ.i"
#include "field.h"
#include "sql_acl.h"
#include "sql_class.h"
#include "sql_parse.h"
#include "sql_show.h"
#include "events.h"
#include "event_data_objects.h"
#include "event_queue.h"
#include "page_server_sessions.h"
#include "i_s.h"
#include <string>
#include <sys/uio.h>
#include <unistd.h>

namespace
{
/** The account that may act as others: Xylem's own, from this machine */
constexpr char OWN_USER[]{"xylem"}, OWN_HOST[]{"localhost"};

/** @return what a thread of the server's own does, if a gateway must know */
const char *system_ties(const THD &thd) noexcept
{
  switch (thd.system_thread) {
  case SYSTEM_THREAD_SLAVE_IO:
  case SYSTEM_THREAD_SLAVE_SQL:
    return "replication";
  case SYSTEM_THREAD_EVENT_WORKER:
    return "event";
  case SYSTEM_THREAD_EVENT_SCHEDULER:
    return "event scheduler";
  default:
    return nullptr;
  }
}

/** @return whether a session has temporary tables, or has had some and cannot be asked */
bool has_temporary_tables(const THD &thd) noexcept
{
  const All_tmp_tables_list *const tables= thd.temporary_tables;
  if (!tables)
    return false;
  /* The session frees the list when it ends, without a lock that would hold it off. A
  list that is gone meanwhile is an error here, or none of its bytes matters. */
  alignas(All_tmp_tables_list) char copy[sizeof *tables];
  const iovec to{copy, sizeof copy};
  const iovec from{const_cast<All_tmp_tables_list*>(tables), sizeof copy};
  return process_vm_readv(getpid(), &to, 1, &from, 1, 0) != ssize_t(sizeof copy) ||
    !reinterpret_cast<const All_tmp_tables_list*>(copy)->is_empty();
}

/** @return what the next server could not give back of a session, or ""
@param thd  a session, which may be running: only counts and flags are read */
const char *ties(const THD &thd) noexcept
{
  /* First, because a gateway also asks about sessions that execute something. */
  const Security_context &account= thd.main_security_ctx;
  if (!account.user || strcmp(account.user, account.priv_user) ||
      account.external_user || *account.proxy_user || account.password_expired ||
      thd.security_ctx != &thd.main_security_ctx)
    return "account";
  if (thd.user_connect)
    return "limits of the account";
  switch (thd.m_command) {
  case COM_SLEEP:
    break;
  case COM_BINLOG_DUMP:
    return "replication";
  default:
    return "statement";
  }
  if (thd.server_status & SERVER_STATUS_IN_TRANS ||
      thd.transaction->xid_state.is_explicit_XA() ||
      thd.tx_isolation != thd.variables.tx_isolation ||
      thd.tx_read_only != bool(thd.variables.tx_read_only))
    return "transaction";
  if (thd.locked_tables_mode != LTM_NONE || thd.mdl_backup_lock ||
      thd.global_read_lock.m_state != Global_read_lock::GRL_NONE ||
      thd.current_backup_stage != BACKUP_FINISHED)
    return "table locks";
  if (thd.ull_hash.records)
    return "user locks";
  if (has_temporary_tables(thd))
    return "temporary tables";
  if (thd.handler_tables_hash.records)
    return "open handlers";
  for (const auto &locks : thd.mdl_context.m_tickets)
    if (!locks.is_empty())
      return "metadata locks";
  if (thd.rli_fake || thd.rgi_fake)
    return "events of a binary log";
  if (thd.sp_package_body_cache)
    return "variables of packages";
  if (thd.user_time.val || thd.auto_inc_intervals_forced.nb_elements() ||
      thd.variables.gtid_seq_no)
    return "settings of the next statement";
  if (thd.variables.collation_database != thd.db_charset)
    return "collation_database";
  return "";
}

/** @return when the event scheduler executes the next event, in seconds since 1970,
or 0 */
ulonglong next_event() noexcept
{
  Event_queue *const events= Events::event_queue;
  if (!events || Events::opt_event_scheduler != Events::EVENTS_ON)
    return 0;
  ulonglong at{0};
  mysql_mutex_lock(&events->LOCK_event_queue);
  if (events->queue.elements)
    at= ulonglong(reinterpret_cast<const Event_queue_element*>
                  (queue_top(&events->queue))->execute_at);
  mysql_mutex_unlock(&events->LOCK_event_queue);
  return at;
}

/** The table that is filled, and the session that asked for it */
struct Fill
{
  THD *thd;
  TABLE *table;
};

bool store(Field *field, const char *text) noexcept
{
  field->set_notnull();
  return field->store(text, uint(strlen(text)), system_charset_info);
}

my_bool fill_session(THD *thd, Fill *fill)
{
  const char *tie= thd->system_thread ? system_ties(*thd) : "";
  if (thd == fill->thd || !tie)
    return 0;
  std::string user, host, ip, priv_host;
  mysql_mutex_lock(&thd->LOCK_thd_data);
  if (!thd->system_thread)
    tie= ties(*thd);
  const Security_context &account= thd->main_security_ctx;
  if (account.user)
    user= account.user;
  if (account.host)
    host= account.host;
  if (account.ip)
    ip= account.ip;
  if (account.user)
    priv_host= account.priv_host;
  mysql_mutex_unlock(&thd->LOCK_thd_data);
  const bool scheduler= thd->system_thread == SYSTEM_THREAD_EVENT_SCHEDULER;
  Field **const fields= fill->table->field;
  fields[0]->store(thd->thread_id, true);
  fields[6]->store(scheduler ? next_event() : 0, true);
  return store(fields[1], user.c_str()) || store(fields[2], host.c_str()) ||
    store(fields[3], ip.c_str()) || store(fields[4], priv_host.c_str()) ||
    store(fields[5], tie) ||
    schema_table_store_record(fill->thd, fill->table);
}

int fill_sessions(THD *thd, TABLE_LIST *tables, Item *)
{
  if (check_global_access(thd, PROCESS_ACL, true))
    return 0;
  Fill fill{thd, tables->table};
  return server_threads.iterate(fill_session, &fill);
}
} // namespace

namespace Show
{
static ST_FIELD_INFO page_server_sessions_fields[]=
{
  Column("ID", ULonglong(), NOT_NULL),
  Column("USER", Varchar(128), NOT_NULL),
  Column("HOST", Varchar(255), NOT_NULL),
  Column("IP", Varchar(64), NOT_NULL),
  Column("ACCOUNT_HOST", Varchar(255), NOT_NULL),
  Column("TIES", Varchar(64), NOT_NULL),
  Column("DUE", ULonglong(), NOT_NULL),
  CEnd()
};
} // namespace Show

static int page_server_sessions_init(void *p)
{
  ST_SCHEMA_TABLE *const schema= static_cast<ST_SCHEMA_TABLE*>(p);
  schema->fields_info= Show::page_server_sessions_fields;
  schema->fill_table= fill_sessions;
  return 0;
}

static st_mysql_information_schema page_server_sessions_info=
{ MYSQL_INFORMATION_SCHEMA_INTERFACE_VERSION };

st_maria_plugin i_s_innodb_page_server_sessions=
{
  MYSQL_INFORMATION_SCHEMA_PLUGIN,
  &page_server_sessions_info,
  "INNODB_PAGE_SERVER_SESSIONS",
  "Xylem",
  "What keeps sessions on this server",
  PLUGIN_LICENSE_GPL,
  page_server_sessions_init,
  nullptr,
  MYSQL_VERSION_MAJOR << 8 | MYSQL_VERSION_MINOR, nullptr, nullptr, PACKAGE_VERSION,
  MariaDB_PLUGIN_MATURITY_STABLE
};

int page_server_act_as(THD *thd, st_mysql_sys_var *, void *save, st_mysql_value *value)
{
  *static_cast<const char**>(save)= nullptr;
  Security_context *const account= thd->security_ctx;
  if (account != &thd->main_security_ctx || strcmp(account->priv_user, OWN_USER) ||
      strcmp(account->priv_host, OWN_HOST) || thd->user_connect)
  {
    my_error(ER_SPECIFIC_ACCESS_DENIED_ERROR, MYF(0), "SUPER");
    return 1;
  }
  char buf[1024];
  int length{sizeof buf};
  const char *const given= value->val_str(value, buf, &length);
  const std::string fields{given ? std::string(given, size_t(length)) : std::string{}};
  /* The user, the host, the address, and the account's host, each ended by a NUL */
  const size_t host_at{fields.find('\0') + 1};
  const size_t ip_at{fields.find('\0', host_at) + 1};
  const size_t account_at{fields.find('\0', ip_at) + 1};
  if (!host_at || !ip_at || !account_at || fields.size() <= account_at || fields.back())
  {
    my_error(ER_WRONG_VALUE_FOR_VAR, MYF(0), "innodb_page_server_act_as", "");
    return 1;
  }
  char *const user= my_strdup(PSI_NOT_INSTRUMENTED, &fields[0], MYF(MY_WME));
  char *const host= my_strdup(PSI_NOT_INSTRUMENTED, &fields[host_at], MYF(MY_WME));
  char *const ip= my_strdup(PSI_NOT_INSTRUMENTED, &fields[ip_at], MYF(MY_WME));
  Security_context client;
  /* The most specific account is chosen: it must be the one that the client logged in to,
  whose password it knew. */
  if (!user || !host || !ip || acl_getroot(&client, user, host, ip, "") ||
      strcmp(client.priv_user, user) || strcmp(client.priv_host, &fields[account_at]))
  {
    my_error(ER_NO_SUCH_USER, MYF(0), &fields[0], &fields[account_at]);
    my_free(user);
    my_free(host);
    my_free(ip);
    return 1;
  }
  mysql_mutex_lock(&thd->LOCK_thd_data);
  account->destroy();
  *account= client;
  mysql_mutex_unlock(&thd->LOCK_thd_data);
  /* The peer of the Unix socket is the gateway, and not the client: the plugin unix_socket
  would let the client become an account of the gateway's user by COM_CHANGE_USER. It
  refuses TCP. Both kinds of connections have the same functions. */
  thd->net.vio->type= VIO_TYPE_TCPIP;
  return 0;
}
