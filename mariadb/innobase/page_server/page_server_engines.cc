/*****************************************************************************

Which engine a table gets on a compute.

The server decides in check_engine(), by enforce_storage_engine and sql_mode,
which any session may change, SET STATEMENT and stored programs included, and
knows one rule for all engines, temporary tables included. So the decision is
made here, before the server's own, where the statement is known whole: in
front of the execute() of CREATE TABLE, CREATE SEQUENCE and ALTER TABLE. All
ways to execute a statement (text, prepared, routines, events, replication)
call it through its class's virtual table, and that is where our function
stands. The server's code is left as it is.

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
/** What becomes of a persistent table that is asked for with some engine */
enum class Verdict { AS_ASKED, INNODB, REFUSED };

struct Judgement
{
  Verdict verdict;
  /** Why it is refused */
  const char *why;
};

/** Engines whose tables hold no rows of their own: there is nothing to lose. */
constexpr const char *NO_ROWS[]= {
  "BLACKHOLE", "FEDERATED", "SPIDER", "SPHINX", "OQGRAPH", "SEQUENCE",
  "SQL_SEQUENCE", "PERFORMANCE_SCHEMA"
};

/** CONNECT's table types whose rows are elsewhere, or in other tables */
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
rotation of those puts in its place: rows of them are local to a compute */
bool is_log_table(const TABLE_LIST &table) noexcept
{
  return same(table.db.str, MYSQL_SCHEMA_NAME.str) &&
    (!strncasecmp(table.table_name.str, "general_log", 11) ||
     !strncasecmp(table.table_name.str, "slow_log", 8));
}

/** @return whether a CONNECT table's rows are elsewhere
@param options  options of the statement */
bool connects_elsewhere(const engine_option_value *options) noexcept
{
  for (; options; options= options->next)
    if (options->value.str && same(options->name.str, "TABLE_TYPE"))
      return is_one_of(options->value.str, CONNECT_ELSEWHERE);
  return false;
}

/** Judge a persistent table.
@param name     name of the engine that is asked for
@param table    the table
@param options  options of the statement
@return what becomes of it */
Judgement judge(const char *name, const TABLE_LIST &table,
                const engine_option_value *options) noexcept
{
  if (same(name, "InnoDB") || is_one_of(name, NO_ROWS))
    return {Verdict::AS_ASKED, nullptr};
  if (same(name, "CSV") && is_log_table(table))
    return {Verdict::AS_ASKED, nullptr};
  if (same(name, "MRG_MyISAM") || same(name, "MERGE"))
    return {Verdict::REFUSED,
      "a MERGE table is a union of MyISAM tables, which become InnoDB here;"
      " use a view with UNION ALL, or partitions"};
  if (same(name, "CONNECT"))
  {
    if (connects_elsewhere(options))
      return {Verdict::AS_ASKED, nullptr};
    return {Verdict::REFUSED,
      "its rows would be in a file of this server, which keeps none; use a"
      " TABLE_TYPE whose rows are elsewhere (MYSQL, ODBC, JDBC), or InnoDB"};
  }
  return {Verdict::INNODB, nullptr};
}

/** Settings of a session and parts of a statement that are changed while the
statement is executed, and put back behind it: a prepared statement is executed
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

  /** Let the engine be as the statement has it. */
  void as_asked() noexcept
  { m_thd->variables.enforced_table_plugin= nullptr; }

  /** Have the server make an InnoDB table whatever else it finds, with its own
  note, also where NO_ENGINE_SUBSTITUTION would have it refuse. */
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

    /* Other engines' row formats and block sizes mean nothing to InnoDB, which
    refuses the table with innodb_strict_mode=ON. */
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

  /** @return true, for the statement failed */
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
      /* The server refuses it, or takes the default engine. */
      if (!(m_thd->variables.sql_mode & MODE_NO_ENGINE_SUBSTITUTION))
        enforce();
      return false;
    }
    /* Not what may be an alias. */
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
  @param source  the table that the new one is to be like */
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
    /* Of a CONNECT table's type nothing is known here, but it exists, so it was
    judged when it was made. */
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

    /* The parser has put the last one named here as well. */
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
    /* Its rows are this session's, in memory or in tmpdir. */
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
      /* Unless it is one of InnoDB or without rows. */
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
  /* Not through the virtual table, which leads here. */
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

/** One entry of a virtual table of the server */
struct Door
{
  /** Symbol of the class's virtual table */
  const char *table;
  /** Symbol of the function that the entry leads to */
  const char *function;
  /** What it is to lead to */
  void *ours;
  /** The entry, while it leads to ours */
  void **entry;
  /** Where it led before */
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

/** Change an entry of a virtual table, which is read-only once the server is
linked. Nobody reads half of it: it is one aligned word.
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

/** Stand in front of a door.
@return what failed
@retval nullptr on success */
const char *open_door(Door &door) noexcept
{
  /* The first two words of a virtual table are not functions. More entries
  than this the classes do not have; a symbol's own size is not to be had. */
  static constexpr size_t first{2}, last{8};
  auto *const table= static_cast<void**>(dlsym(RTLD_DEFAULT, door.table));
  void *const function= dlsym(RTLD_DEFAULT, door.function);
  if (!table || !function)
    return "the server lacks a symbol";
  for (size_t i= first; i < last; i++)
    if (table[i] == function)
    {
      if (!set_entry(&table[i], door.ours))
        return "its memory cannot be changed";
      door.entry= &table[i];
      door.theirs= function;
      return nullptr;
    }
  return "the server's classes are not as they were when this was built";
}
} // namespace

bool engines_start() noexcept
{
  if (!enforced_storage_engine || !same(enforced_storage_engine, "InnoDB"))
    return true;

  for (Door &door : doors)
    if (const char *problem= open_door(door))
    {
      sql_print_error("InnoDB: tables of other engines cannot be kept out: %s"
                      " (%s). Rows of such tables would be lost; use the"
                      " server that this plugin was built for", problem,
                      door.table);
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
