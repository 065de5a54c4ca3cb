/*****************************************************************************

Data files on a server that keeps none: FLUSH TABLES ... FOR EXPORT and ALTER TABLE
... IMPORT TABLESPACE, which need whole ones, and those of hot pages, which are opened
before a statement asks for them.

SPDX-License-Identifier: GPL-2.0-or-later

*****************************************************************************/

#include "page_server.h"
#include "page_server_private.h"
#include "buf0buf.h"
#include "buf0lru.h"
#include "dict0dict.h"
#include "fil0fil.h"
#include "log0log.h"
#include "mtr0log.h"
#include "mtr0mtr.h"
#include "os0file.h"
#include "page0zip.h"
#include "srv0srv.h"
#include "srv0start.h"
#include "trx0trx.h"
#include "ut0byte.h"
#include "log.h"
#include <fcntl.h>
#include <unistd.h>

namespace page_server
{
namespace
{
/** A file descriptor that is closed at the end of the scope */
struct descriptor
{
  const int fd;
  descriptor(const char *name, int flags) noexcept :
    fd(open(name, flags | O_CLOEXEC)) {}
  ~descriptor() { if (fd >= 0) close(fd); }
  descriptor(const descriptor&)= delete;
  descriptor &operator=(const descriptor&)= delete;
};

/** Report why a data file could not be read or written.
@param name   file name
@param doing  the operation that failed
@param error  error number
@return error code */
ATTRIBUTE_COLD dberr_t file_error(const char *name, const char *doing,
                                  int error) noexcept
{
  char text[MYSYS_STRERROR_SIZE];
  sql_print_error("InnoDB: Cannot %s %s: %s", doing, name,
                  my_strerror(text, sizeof text, error));
  return error == ENOSPC ? DB_OUT_OF_FILE_SPACE : DB_IO_ERROR;
}

/** Log the whole contents of an imported page, as if it were new.
@param block  page
@param mtr    mini-transaction */
void log_page(buf_block_t *block, mtr_t *mtr) noexcept
{
  mtr->init(block);
  const bool zip= block->page.zip.data != nullptr;
  const size_t size{block->physical_size()};
  if (zip && fil_page_index_page_check(block->page.zip.data))
  {
    page_zip_log(*block, mtr);
    return;
  }
  /* INIT_PAGE writes the page identifier. Applying the mini-transaction writes the
  LSN, and the trailer, which repeats it and which pages of ROW_FORMAT=COMPRESSED
  tables do not have. */
  const size_t end{zip ? size : size - FIL_PAGE_DATA_END};
  mtr->memcpy(*block, FIL_PAGE_PREV, 8);
  mtr->memcpy(*block, FIL_PAGE_TYPE, end - FIL_PAGE_TYPE);
}

/** Put a page of an imported file into the buffer pool and log it.
@param space  tablespace
@param id     page identifier
@param page   contents
@return error code */
dberr_t import_page(fil_space_t *space, page_id_t id, const byte *page) noexcept
{
  mtr_t mtr;
  mtr.start();
  mtr.set_named_space(space);
  buf_block_t *free_block= buf_LRU_get_free_block(false);
  buf_block_t *block= buf_page_create(space, id.page_no(), space->zip_size(),
                                      &mtr, free_block);
  if (UNIV_UNLIKELY(block != free_block))
    buf_pool.free_block(free_block);
  byte *const zip= block->page.zip.data;
  memcpy(zip ? zip : block->page.frame, page, block->physical_size());
  const bool ok= !zip || buf_zip_decompress(block, true);
  if (ok)
  {
    if (id.page_no() == 0)
      /* The discarded tablespace may have had the same identifier. */
      fil_log_create(*space, &mtr);
    log_page(block, &mtr);
  }
  mtr.commit();
  if (!ok)
    return DB_PAGE_CORRUPTED;
  note_clean(id, mtr.commit_lsn());
  return DB_SUCCESS;
}
} // namespace

dberr_t export_space(const fil_space_t &space, const trx_t &trx) noexcept
{
  static constexpr char doing[]= "export to";
  const char *const name= UT_LIST_GET_FIRST(space.chain)->name;
  const descriptor file{name, O_WRONLY};
  if (file.fd < 0)
    return file_error(name, doing, errno);

  const size_t size{space.physical_size()};
  byte *const pages= static_cast<byte*>(aligned_malloc(READ_MANY * size, size));
  if (!pages)
    return DB_OUT_OF_MEMORY;
  dberr_t err{DB_SUCCESS};
  for (uint32_t i= 0; err == DB_SUCCESS && i < space.size; i+= READ_MANY)
  {
    const uint32_t n{std::min(READ_MANY, space.size - i)};
    if (trx_is_interrupted(&trx))
      err= DB_INTERRUPTED;
    else if ((err= read_many(page_id_t{space.id, i}, n, pages, size)) !=
             DB_SUCCESS)
      break;
    else if (my_pwrite(file.fd, pages, n * size, my_off_t{i} * size,
                       MYF(MY_NABP)))
      err= file_error(name, doing, my_errno);
  }
  if (err == DB_SUCCESS && fdatasync(file.fd))
    err= file_error(name, doing, errno);
  aligned_free(pages);
  return err;
}

dberr_t import_space(fil_space_t *space, const trx_t &trx) noexcept
{
  ut_ad(serves(*space));
  static constexpr char doing[]= "import";
  const char *const name= UT_LIST_GET_FIRST(space->chain)->name;
  const descriptor file{name, O_RDONLY};
  if (file.fd < 0)
    return file_error(name, doing, errno);
  cache_forget_space(space->id);

  const size_t size{space->physical_size()};
  byte *const page= static_cast<byte*>(aligned_malloc(size, size));
  if (!page)
    return DB_OUT_OF_MEMORY;
  dberr_t err{DB_SUCCESS};
  for (uint32_t i= 0; err == DB_SUCCESS && i < space->size; i++)
  {
    if (trx_is_interrupted(&trx))
      err= DB_INTERRUPTED;
    else if (my_pread(file.fd, page, size, my_off_t{i} * size, MYF(MY_NABP)))
      err= file_error(name, doing, my_errno);
    else if (!buf_is_zeroes(span<const byte>(page, size)))
      err= import_page(space, page_id_t{space->id, i}, page);
  }
  aligned_free(page);
  return err;
}

void open_spaces(const std::set<uint32_t> &ids) noexcept
{
  for (const uint32_t id : ids)
  {
    if (srv_shutdown_state > SRV_SHUTDOWN_INITIATED)
      return;
    /* The latch is not for a round trip. */
    if (id >= SRV_SPACE_ID_UPPER_BOUND || !fetch_space(id))
      continue;
    /* It keeps the table from being dropped or renamed while its file is made. A
    statement that opened the table since may also have renamed it: the page server's
    answer has the old name, where a new table is to have its file. */
    dict_sys.freeze(SRW_LOCK_CALL);
    mysql_mutex_lock(&fil_system.mutex);
    const bool is_open{fil_space_get_by_id(id) != nullptr};
    mysql_mutex_unlock(&fil_system.mutex);
    if (!is_open)
      open_space(id, UINT32_MAX, true);
    dict_sys.unfreeze();
    forget_fetched_spaces(&id, 1);
  }
}
} // namespace page_server
