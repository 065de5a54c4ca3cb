/*****************************************************************************

Choose the engine of a table on a compute.

The server chooses it in check_engine(), by enforce_storage_engine and sql_mode.
Any session may change these variables, also by SET STATEMENT and in stored
programs, and they apply to all engines and to temporary tables alike. Therefore
this file makes the choice before the server does, when the whole statement is
known: before the execute() of CREATE TABLE, CREATE SEQUENCE and ALTER TABLE. All
ways to execute a statement (text, prepared, routines, events, replication) call
execute() through the virtual table of the statement's class. This file replaces
the entry there and leaves the server's code unchanged.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#define MYSQL_SERVER
#include "univ.i"
#include "page_server_engines.h"
#include "sql_class.h"
#include "sql_base.h"
#include "sql_table.h"
#include "sql_alter.h"
#include "sql_plugin.h"
#include "partition_info.h"
#include "create_options.h"
#include "log.h"
#include "mysqld.h"
#include "xylem_client.h"
#include <dlfcn.h>
#include <sys/mman.h>

extern handlerton *innodb_hton_ptr;

namespace page_server
{
namespace
{
/** The decision on a persistent table that a statement wants in some engine */
enum class Verdict { AS_ASKED, INNODB, REFUSED };

struct Judgement
{
  Verdict verdict;
  /** Reason of a refusal */
  const char *why;
};

/** Engines whose tables hold no rows of their own, so that none can be lost */
constexpr const char *NO_ROWS[]= {
  "BLACKHOLE", "FEDERATED", "SPIDER", "SPHINX", "OQGRAPH", "SEQUENCE",
  "SQL_SEQUENCE", "PERFORMANCE_SCHEMA"
};

/** Types of CONNECT tables whose rows are on other servers or in other tables */
constexpr const char *CONNECT_ELSEWHERE[]= {
  "MYSQL", "ODBC", "JDBC", "MONGO", "PROXY", "TBL", "XCOL", "OCCUR", "PIVOT",
  "VIR", "DIR"
};

bool same(const char *a, const char *b) noexcept
{
  return !my_strcasecmp(&my_charset_latin1, a, b);
}

template<size_t n>
bool is_one_of(const char *name, const char *const (&names)[n]) noexcept
{
  for (const char *one : names)
    if (same(name, one))
      return true;
  return false;
}

/** @return whether a table is the general or the slow query log, or one that a
rotation of those creates. Their rows are local to a compute. */
bool is_log_table(const TABLE_LIST &table) noexcept
{
  return same(table.db.str, MYSQL_SCHEMA_NAME.str) &&
    (!strncasecmp(table.table_name.str, "general_log", 11) ||
     !strncasecmp(table.table_name.str, "slow_log", 8));
}

/** @return whether the rows of a CONNECT table are not in files of this server
@param options  options of the statement */
bool connects_elsewhere(const engine_option_value *options) noexcept
{
  for (; options; options= options->next)
    if (options->value.str && same(options->name.str, "TABLE_TYPE"))
      return is_one_of(options->value.str, CONNECT_ELSEWHERE);
  return false;
}

/** Decide on a persistent table.
@param name     name of the engine that the statement wants
@param table    the table
@param options  options of the statement
@return the decision */
Judgement judge(const char *name, const TABLE_LIST &table,
                const engine_option_value *options) noexcept
{
  if (same(name, "InnoDB") || is_one_of(name, NO_ROWS))
    return {Verdict::AS_ASKED, nullptr};
  if (same(name, "CSV") && is_log_table(table))
    return {Verdict::AS_ASKED, nullptr};
  if (same(name, "MRG_MyISAM") || same(name, "MERGE"))
    return {Verdict::REFUSED,
      "a MERGE table is a union of MyISAM tables, which become InnoDB tables"
      " here; use a view with UNION ALL, or partitions"};
  if (same(name, "CONNECT"))
  {
    if (connects_elsewhere(options))
      return {Verdict::AS_ASKED, nullptr};
    return {Verdict::REFUSED,
      "its rows would be in a local file, which is lost with this server; use"
      " a TABLE_TYPE with remote rows (MYSQL, ODBC, JDBC), or InnoDB"};
  }
  return {Verdict::INNODB, nullptr};
}

/** Changes settings of the session and parts of the statement during its
execution, and restores them afterwards, because a prepared statement is executed
again. */
class Execution
{
  THD *const m_thd;
  LEX *const m_lex;
  const TABLE_LIST *const m_table;
  Storage_engine_name *const m_engine;
  const Storage_engine_name m_saved_engine;
  const plugin_ref m_enforced;
  const sql_mode_t m_sql_mode;
  const ulong m_used_fields;
  const enum row_type m_row_type;
  const ulong m_key_block_size;

  static constexpr ulong FORMAT=
    HA_CREATE_USED_ROW_FORMAT | HA_CREATE_USED_KEY_BLOCK_SIZE;
public:
  Execution(THD *thd, Storage_engine_name *engine) noexcept :
    m_thd(thd), m_lex(thd->lex),
    m_table(m_lex->first_select_lex()->table_list.first),
    m_engine(engine), m_saved_engine(*engine),
    m_enforced(thd->variables.enforced_table_plugin),
    m_sql_mode(thd->variables.sql_mode),
    m_used_fields(m_lex->create_info.used_fields),
    m_row_type(m_lex->create_info.row_type),
    m_key_block_size(m_lex->create_info.key_block_size) {}

  ~Execution()
  {
    *m_engine= m_saved_engine;
    m_thd->variables.enforced_table_plugin= m_enforced;
    m_thd->variables.sql_mode|= m_sql_mode & MODE_NO_ENGINE_SUBSTITUTION;
    Table_specification_st &info= m_lex->create_info;
    info.used_fields|= m_used_fields & FORMAT;
    info.row_type= m_row_type;
    info.key_block_size= m_key_block_size;
  }

  Execution(const Execution&)= delete;
  Execution &operator=(const Execution&)= delete;

  /** Keep the engine that the statement names. */
  void as_asked() noexcept
  { m_thd->variables.enforced_table_plugin= nullptr; }

  /** Make the server create an InnoDB table, with its own note, even if
  NO_ENGINE_SUBSTITUTION would make it refuse. */
  void enforce() noexcept
  {
    m_thd->variables.enforced_table_plugin=
      plugin_int_to_ref(hton2plugin[innodb_hton_ptr->slot]);
    m_thd->variables.sql_mode&= ~MODE_NO_ENGINE_SUBSTITUTION;
  }

  /** Name InnoDB in place of the engine that the statement names. */
  void substitute() noexcept
  {
    static const LEX_CSTRING innodb= { STRING_WITH_LEN("InnoDB") };
    *m_engine= Storage_engine_name(innodb);
    enforce();
    warn();

    /* With innodb_strict_mode=ON, InnoDB refuses the row formats and block sizes
    of other engines. */
    Table_specification_st &info= m_lex->create_info;
    switch (info.row_type) {
    case ROW_TYPE_DYNAMIC:
    case ROW_TYPE_COMPACT:
    case ROW_TYPE_REDUNDANT:
      break;
    default:
      info.row_type= ROW_TYPE_DEFAULT;
      info.used_fields&= ~HA_CREATE_USED_ROW_FORMAT;
    }
    info.key_block_size= 0;
    info.used_fields&= ~HA_CREATE_USED_KEY_BLOCK_SIZE;
  }

  void warn() const noexcept
  {
    push_warning_printf(m_thd, Sql_condition::WARN_LEVEL_WARN,
                        ER_WARN_USING_OTHER_HANDLER,
                        ER_THD(m_thd, ER_WARN_USING_OTHER_HANDLER),
                        "InnoDB", m_table->table_name.str);
  }

  /** Report an error.
  @return true, because the statement fails */
  bool refuse(const char *engine, const char *why) const noexcept
  {
    my_printf_error(ER_NOT_SUPPORTED_YET,
                    "Table '%s.%s' cannot have engine %s here: %s",
                    MYF(0), m_table->db.str, m_table->table_name.str, engine,
                    why);
    return true;
  }

  /** Decide on a statement that names an engine.
  @return whether it is refused; the error was reported */
  bool decide_named() noexcept
  {
    const char *name= m_engine->name()->str;
    const plugin_ref plugin=
      ha_resolve_by_name(m_thd, m_engine->name(), false);
    if (!plugin && !same(name, "ARCHIVE"))
    {
      /* The server refuses the statement, or uses the default engine. */
      if (!(m_thd->variables.sql_mode & MODE_NO_ENGINE_SUBSTITUTION))
        enforce();
      return false;
    }
    /* The name in the statement may be an alias. */
    if (plugin)
      name= hton_name(plugin_hton(plugin))->str;
    const Judgement it{judge(name, *m_table, m_lex->create_info.option_list)};
    switch (it.verdict) {
    case Verdict::REFUSED:
      return refuse(name, it.why);
    case Verdict::INNODB:
      substitute();
      break;
    case Verdict::AS_ASKED:
      as_asked();
    }
    return false;
  }

  /** Decide on CREATE TABLE ... LIKE.
  @param source  the table after LIKE */
  void decide_like(const TABLE_LIST &source) noexcept
  {
    enforce();
    if (source.schema_table)
      return;
    const char *name= nullptr;
    LEX_CSTRING partitions= {nullptr, 0};
    handlerton *hton= nullptr;
    if (m_thd->has_temporary_tables())
      if (TMP_TABLE_SHARE *share= m_thd->find_tmp_table_share(&source))
        name= hton_name(share->db_type())->str;
    if (!name &&
        ha_table_exists(m_thd, &source.db, &source.table_name, nullptr,
                        &partitions, &hton) &&
        hton && hton != view_pseudo_hton)
      name= partitions.str ? partitions.str : hton_name(hton)->str;
    if (!name)
      return;
    /* The type of a CONNECT table is unknown here. The source table was allowed
    when it was created, so the new one is, too. */
    if (same(name, "CONNECT") ||
        judge(name, *m_table, nullptr).verdict == Verdict::AS_ASKED)
      as_asked();
  }

  /** Decide on the engines that partitions name.
  @return whether the statement is refused; the error was reported */
  bool decide_partitions() noexcept
  {
    partition_info *const part_info= m_lex->part_info;
    if (!part_info)
      return false;
    bool substituted{false};
    const auto decide= [&](handlerton *&engine)
    {
      if (!engine || engine == innodb_hton_ptr)
        return false;
      const char *name= hton_name(engine)->str;
      const Judgement it{judge(name, *m_table,
                               m_lex->create_info.option_list)};
      if (it.verdict == Verdict::REFUSED)
        return refuse(name, it.why);
      if (it.verdict == Verdict::INNODB)
      {
        engine= innodb_hton_ptr;
        substituted= true;
      }
      return false;
    };

    /* The parser stores the last named engine here, too. */
    if (decide(part_info->default_engine_type))
      return true;
    List_iterator<partition_element> parts(part_info->partitions);
    while (partition_element *part= parts++)
    {
      if (decide(part->engine_type))
        return true;
      List_iterator<partition_element> subparts(part->subpartitions);
      while (partition_element *subpart= subparts++)
        if (decide(subpart->engine_type))
          return true;
    }
    if (substituted && !m_engine->is_set())
      warn();
    return false;
  }
};

/** CREATE TABLE and CREATE SEQUENCE */
bool create(Sql_cmd_create_table_like *statement, THD *thd)
{
  LEX *const lex= thd->lex;
  Execution execution(thd, statement);

  if (lex->create_info.tmp_table())
    /* The rows are local to this session, in memory or in tmpdir. */
    execution.as_asked();
  else
  {
    if (execution.decide_partitions())
      return true;
    if (lex->create_info.like() && lex->create_last_non_select_table &&
        lex->create_last_non_select_table->next_global)
      execution.decide_like(*lex->create_last_non_select_table->next_global);
    else if (!statement->is_set())
    {
      /* The default engine is allowed if it is InnoDB or keeps no rows. */
      if (judge(hton_name(ha_default_handlerton(thd))->str,
                *lex->first_select_lex()->table_list.first,
                lex->create_info.option_list).verdict == Verdict::AS_ASKED)
        execution.as_asked();
      else
        execution.enforce();
    }
    else if (execution.decide_named())
      return true;
  }
  /* A call through the virtual table would come back to this function. */
  return statement->Sql_cmd_create_table_like::execute(thd);
}

/** ALTER TABLE */
bool alter(Sql_cmd_alter_table *statement, THD *thd)
{
  const TABLE_LIST *table= thd->lex->first_select_lex()->table_list.first;
  Execution execution(thd, statement);

  if (thd->has_temporary_tables() && thd->find_tmp_table_share(table))
    execution.as_asked();
  else if (execution.decide_partitions() ||
           (statement->is_set() && execution.decide_named()))
    return true;
  return statement->Sql_cmd_alter_table::execute(thd);
}

/** An entry of a virtual table of the server */
struct Door
{
  /** Symbol of the virtual table */
  const char *table;
  /** Symbol of the function in the entry */
  const char *function;
  /** The replacement */
  void *ours;
  /** The entry, while it holds the replacement */
  void **entry;
  /** The original function */
  void *theirs;
};

Door doors[]= {
  {"_ZTV20Sql_cmd_create_table",
   "_ZN25Sql_cmd_create_table_like7executeEP3THD",
   reinterpret_cast<void*>(create), nullptr, nullptr},
  {"_ZTV23Sql_cmd_create_sequence",
   "_ZN25Sql_cmd_create_table_like7executeEP3THD",
   reinterpret_cast<void*>(create), nullptr, nullptr},
  {"_ZTV19Sql_cmd_alter_table",
   "_ZN19Sql_cmd_alter_table7executeEP3THD",
   reinterpret_cast<void*>(alter), nullptr, nullptr},
};

/** Change an entry of a virtual table, whose memory is read-only. Other threads
read the old or the new function, because the entry is one aligned word.
@return whether it was changed */
bool set_entry(void **entry, void *function) noexcept
{
  const uintptr_t page_size= uintptr_t(sysconf(_SC_PAGESIZE));
  void *const page=
    reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(entry) &
                            ~(page_size - 1));
  if (mprotect(page, page_size, PROT_READ | PROT_WRITE))
    return false;
  __atomic_store_n(entry, function, __ATOMIC_RELEASE);
  mprotect(page, page_size, PROT_READ);
  return true;
}

/** Replace the function in an entry.
@return the reason of a failure
@retval nullptr on success */
const char *open_door(Door &door) noexcept
{
  /* The first two words of a virtual table are not functions. The size of a
  symbol cannot be looked up, so the number of entries is a constant here. */
  static constexpr size_t first{2}, last{8};
  auto *const table= static_cast<void**>(dlsym(RTLD_DEFAULT, door.table));
  void *const function= dlsym(RTLD_DEFAULT, door.function);
  if (!table || !function)
    return "the server lacks a symbol";
  for (size_t i= first; i < last; i++)
    if (table[i] == function)
    {
      if (!set_entry(&table[i], door.ours))
        return "the memory of the virtual table cannot be changed";
      door.entry= &table[i];
      door.theirs= function;
      return nullptr;
    }
  return "the server's classes differ from those that this plugin was built"
    " for";
}
} // namespace

bool engines_start() noexcept
{
  if (!enforced_storage_engine || !same(enforced_storage_engine, "InnoDB"))
    return true;

  for (Door &door : doors)
    if (const char *problem= open_door(door))
    {
      sql_print_error("InnoDB: Cannot prevent tables of other engines, whose"
                      " rows would be lost: %s (%s). Use the server that this"
                      " plugin was built for", problem, door.table);
      engines_stop();
      return false;
    }

  auto *const only_innodb= reinterpret_cast<decltype(&xylem_only_innodb)>(
    dlsym(RTLD_DEFAULT, "xylem_only_innodb"));
  if (!only_innodb)
  {
    sql_print_error("InnoDB: libxylem_client.so is older than this plugin:"
                    " xylem_only_innodb was not found");
    engines_stop();
    return false;
  }
  only_innodb();
  return true;
}

void engines_stop() noexcept
{
  for (Door &door : doors)
    if (door.entry && set_entry(door.entry, door.theirs))
      door.entry= nullptr;
}
}
