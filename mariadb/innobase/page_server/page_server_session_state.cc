/*****************************************************************************

The state of a session that its variables do not tell: user variables and prepared
statements.

A gateway that moves a session to another server of the branch reads its own session's
INFORMATION_SCHEMA.INNODB_PAGE_SERVER_SESSION_STATE here, and prepares the statements
again there. The client knows them by their numbers, and sends the types of their
parameters only once: innodb_page_server_statement_id and
innodb_page_server_statement_types give them the same numbers and types.

This file reads private members of the server's classes: it is compiled with
-fno-access-control.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#define MYSQL_SERVER 1
#include "univ.i"
#include "field.h"
#include "sql_class.h"
#include "sql_lex.h"
#include "sql_prepare.h"
#include "sql_show.h"
#include "page_server_sessions.h"
#include "i_s.h"
#include <string>

namespace
{
/** The longest value or statement in bytes: a column has twice as many digits */
constexpr size_t VALUE_MAX{32 << 10};
/** Of a parameter's type: the value has no sign */
constexpr unsigned UNSIGNED{1U << 15};

/** The table that is filled, and the session that asked for it */
struct Fill
{
  THD *thd;
  TABLE *table;
};

/** A row of the table */
struct Row
{
  explicit Row(const char *kind) : kind(kind) {}

  const char *kind;
  ulonglong id{0};
  std::string name{};
  std::string database{};
  const char *value{nullptr};
  size_t length{0};
  std::string type{};
};

std::string hex(const char *bytes, size_t length)
{
  std::string out;
  out.reserve(2 * length);
  for (const char *const end= bytes + length; bytes < end; bytes++)
    for (const uint digit : {uint(uchar(*bytes)) >> 4, uint(uchar(*bytes)) & 15})
      out.push_back("0123456789ABCDEF"[digit]);
  return out;
}

bool store(Field *field, const std::string &text)
{
  field->set_notnull();
  return field->store(text.data(), uint(text.size()), system_charset_info);
}

bool store(const Fill &fill, const Row &row);

/** Stores what cannot be restored */
bool store_tie(const Fill &fill, const char *tie)
{
  Row row{"tie"};
  row.name= tie;
  return store(fill, row);
}

bool store(const Fill &fill, const Row &row)
{
  Field **const fields= fill.table->field;
  fields[1]->store(row.id, true);
  if (row.value && row.length > VALUE_MAX)
    return store_tie(fill, "a value of more than 32768 bytes");
  if (row.value)
  {
    if (store(fields[4], hex(row.value, row.length)))
      return true;
  }
  else
    fields[4]->set_null();
  return store(fields[0], row.kind) || store(fields[2], row.name) ||
    store(fields[3], row.database) || store(fields[5], row.type) ||
    schema_table_store_record(fill.thd, fill.table);
}

/** @return the type of a user variable: a type of number, or the collation of a text */
std::string type_of(const user_var_entry &variable)
{
  switch (variable.type_handler()->result_type()) {
  case INT_RESULT:
    return variable.type_handler()->is_unsigned() ? "INT UNSIGNED" : "INT";
  case REAL_RESULT:
    return "DOUBLE";
  case DECIMAL_RESULT:
    return "DECIMAL";
  default:
    return variable.charset()->coll_name.str;
  }
}

bool store_variables(const Fill &fill)
{
  HASH &variables= fill.thd->user_vars;
  for (ulong i= 0; i < variables.records; i++)
  {
    auto *const variable=
      reinterpret_cast<user_var_entry*>(my_hash_element(&variables, i));
    bool is_null;
    String buffer;
    const String *const value= variable->val_str(&is_null, &buffer, NOT_FIXED_DEC);
    Row row{"variable"};
    row.name.assign(variable->name.str, variable->name.length);
    row.type= type_of(*variable);
    if (value)
    {
      row.value= value->ptr() ? value->ptr() : "";
      row.length= value->length();
    }
    if (store(fill, row))
      return true;
  }
  return false;
}

bool store_statements(const Fill &fill)
{
  HASH &statements= fill.thd->stmt_map.st_hash;
  const CHARSET_INFO *const client= fill.thd->variables.character_set_client;
  for (ulong i= 0; i < statements.records; i++)
  {
    auto *const statement= reinterpret_cast<Statement*>(my_hash_element(&statements, i));
    if (statement->query_charset() != client)
      return store_tie(fill, "a statement in another character set");
    Row row{"statement"};
    row.id= statement->id;
    if (statement->name.str)
      row.name.assign(statement->name.str, statement->name.length);
    if (statement->db.str)
      row.database.assign(statement->db.str, statement->db.length);
    row.value= statement->query();
    row.length= statement->query_length();
    if (!row.value)
      return store_tie(fill, "a statement without a text");
    std::string types;
    List_iterator<Item_param> parameters(statement->lex->param_list);
    while (const Item_param *const parameter= parameters++)
    {
      if (parameter->state == Item_param::LONG_DATA_VALUE)
        return store_tie(fill, "parameters that were sent by themselves");
      const unsigned type= parameter->type_handler()->field_type() |
        (parameter->unsigned_flag ? UNSIGNED : 0);
      types.push_back(char(type));
      types.push_back(char(type >> 8));
    }
    row.type= hex(types.data(), types.size());
    if (store(fill, row))
      return true;
  }
  return false;
}

int fill_state(THD *thd, TABLE_LIST *tables, Item *)
{
  const Fill fill{thd, tables->table};
  return store_variables(fill) || store_statements(fill);
}
} // namespace

namespace Show
{
static ST_FIELD_INFO page_server_session_state_fields[]=
{
  Column("KIND", Varchar(16), NOT_NULL),
  Column("ID", ULonglong(), NOT_NULL),
  Column("NAME", Varchar(64), NOT_NULL),
  Column("DB", Varchar(64), NOT_NULL),
  Column("VALUE", Longtext(65535), NULLABLE),
  Column("TYPE", Longtext(65535), NOT_NULL),
  CEnd()
};
} // namespace Show

static int page_server_session_state_init(void *p)
{
  ST_SCHEMA_TABLE *const schema= static_cast<ST_SCHEMA_TABLE*>(p);
  schema->fields_info= Show::page_server_session_state_fields;
  schema->fill_table= fill_state;
  return 0;
}

static st_mysql_information_schema page_server_session_state_info=
{ MYSQL_INFORMATION_SCHEMA_INTERFACE_VERSION };

st_maria_plugin i_s_innodb_page_server_session_state=
{
  MYSQL_INFORMATION_SCHEMA_PLUGIN,
  &page_server_session_state_info,
  "INNODB_PAGE_SERVER_SESSION_STATE",
  "Xylem",
  "User variables and prepared statements of this session",
  PLUGIN_LICENSE_GPL,
  page_server_session_state_init,
  nullptr,
  MYSQL_VERSION_MAJOR << 8 | MYSQL_VERSION_MINOR, nullptr, nullptr, PACKAGE_VERSION,
  MariaDB_PLUGIN_MATURITY_STABLE
};

/** Reports a value that a variable does not take.
@return 1 */
static int wrong_value(const char *variable, const char *value)
{
  my_error(ER_WRONG_VALUE_FOR_VAR, MYF(0), variable, value);
  return 1;
}

/** No two statements of a session may have one number. The counter does not tell: a
connection that reuses the THD of an earlier one goes on with the counter of that one.
@return whether all statements of the session have smaller numbers */
static bool is_above_all_statements(THD *thd, ulong id)
{
  HASH &statements= thd->stmt_map.st_hash;
  for (ulong i= 0; i < statements.records; i++)
    if (reinterpret_cast<Statement*>(my_hash_element(&statements, i))->id >= id)
      return false;
  return true;
}

int page_server_statement_id(THD *thd, st_mysql_sys_var *, void *save,
                             st_mysql_value *value)
{
  *static_cast<ulong*>(save)= 0;
  longlong id;
  if (value->val_int(value, &id) || id <= 0 || id > STMT_ID_MASK ||
      !is_above_all_statements(thd, ulong(id)))
    return wrong_value("innodb_page_server_statement_id", std::to_string(id).c_str());
  thd->statement_id_counter= ulong(id) - 1;
  return 0;
}

int page_server_statement_types(THD *thd, st_mysql_sys_var *, void *save,
                                st_mysql_value *value)
{
  *static_cast<const char**>(save)= nullptr;
  static constexpr char NAME[]{"innodb_page_server_statement_types"};
  char buf[1024];
  int length{sizeof buf};
  const char *const given= value->val_str(value, buf, &length);
  if (!given || length < 4)
    return wrong_value(NAME, "NULL");
  const auto *const bytes= reinterpret_cast<const uchar*>(given);
  const Statement *const statement= thd->stmt_map.find(uint4korr(bytes));
  if (!statement)
    return wrong_value(NAME, std::to_string(uint4korr(bytes)).c_str());
  List<Item_param> &list= statement->lex->param_list;
  if (size_t(length) != 4 + 2 * size_t(list.elements))
    return wrong_value(NAME, std::to_string(length).c_str());
  List_iterator<Item_param> parameters(list);
  const uchar *type= bytes + 4;
  while (Item_param *const parameter= parameters++)
  {
    parameter->unsigned_flag= uint2korr(type) & UNSIGNED;
    parameter->setup_conversion(thd, *type);
    parameter->sync_clones();
    type+= 2;
  }
  return 0;
}
