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

/** Check function of innodb_page_server_act_as: turns the session into one of another
account. The caller must be Xylem's own account.
@param save   gets NULL, because the value is not kept
@param value  the user, the host and the address of the client, each ended by a NUL
@return 0, or 1 after an error was set */
int page_server_act_as(THD *thd, st_mysql_sys_var *, void *save, st_mysql_value *value);
