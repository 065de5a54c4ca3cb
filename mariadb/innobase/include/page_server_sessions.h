/*****************************************************************************

Sessions that move to another server of the branch.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#pragma once

class THD;
struct st_maria_plugin;
struct st_mysql_sys_var;
struct st_mysql_value;

/** INFORMATION_SCHEMA.INNODB_PAGE_SERVER_SESSIONS */
extern st_maria_plugin i_s_innodb_page_server_sessions;

/** INFORMATION_SCHEMA.INNODB_PAGE_SERVER_SESSION_STATE */
extern st_maria_plugin i_s_innodb_page_server_session_state;

/** Check function of innodb_page_server_act_as: turns the session into one of another
account. The caller must be Xylem's own account.
@param save   gets NULL, because the value is not kept
@param value  the user, the host and the address of the client, and the host of its
              account, each ended by a NUL
@return 0, or 1 after an error was set */
int page_server_act_as(THD *thd, st_mysql_sys_var *, void *save, st_mysql_value *value);

/** Check function of innodb_page_server_statement_id: sets the number of the next prepared
statement.
@param save   gets 0, because the value is not kept
@param value  a number above those of all prepared statements that the session has
@return 0, or 1 after an error was set */
int page_server_statement_id(THD *thd, st_mysql_sys_var *, void *save,
                             st_mysql_value *value);

/** Check function of innodb_page_server_statement_types: sets the types of a prepared
statement's parameters, as its first execution does.
@param save   gets NULL, because the value is not kept
@param value  the statement's number (4 bytes, little-endian), and for each parameter the
              type and flags that COM_STMT_EXECUTE has (2 bytes, little-endian)
@return 0, or 1 after an error was set */
int page_server_statement_types(THD *thd, st_mysql_sys_var *, void *save,
                                st_mysql_value *value);
