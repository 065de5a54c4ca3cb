/* Does to files what mariadbd does to its side files, under LD_PRELOAD of the
library with XYLEM_DATADIR set. Arguments: port (0: never connects), the data
directory, and a mode: "all", "fenced", "only-innodb" or "full". */
#define _GNU_SOURCE
#include "xylem_client.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHECK(what) \
  do { \
    if (!(what)) { \
      char e[256]; \
      xylem_last_error(e, sizeof e); \
      fprintf(stderr, "line %d: %s (errno %s; last error: %s)\n", __LINE__, #what, strerror(errno), e); \
      exit(1); \
    } \
  } while (0)

static uint64_t lsn = 12288;

static void redo(const char *text) {
  if (xylem_is_enabled()) {
    CHECK(xylem_stream_wal(lsn, text, strlen(text)) == XYLEM_OK);
    lsn += strlen(text);
  }
}

static uint64_t ops(void) {
  xylem_stats stats;
  xylem_get_stats(&stats);
  return stats.side_file_ops;
}

static void put(const char *path, const char *text, int sync) {
  int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0660);
  CHECK(fd >= 0);
  CHECK(write(fd, text, strlen(text)) == (ssize_t) strlen(text));
  if (sync) CHECK(fdatasync(fd) == 0);
  CHECK(close(fd) == 0);
}

static void sync_dir(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0 && fsync(fd) == 0 && close(fd) == 0);
}

static void create_database(const char *name) {
  char path[200];
  CHECK(mkdir(name, 0700) == 0);
  snprintf(path, sizeof path, "%s/db.opt", name);
  put(path, "default-character-set=utf8mb4\n", 0);
}

/* Each thread renames and rewrites the same name: the order in the log must be
the order on disk. */
static void *race(void *arg) {
  char from[100], text[100];
  int n;
  for (n = 0; n < 50; n++) {
    snprintf(from, sizeof from, "race/t%ld.frm", (long) (size_t) arg);
    snprintf(text, sizeof text, "by %ld, turn %d", (long) (size_t) arg, n);
    put(from, text, n % 7 == 0);
    CHECK(rename(from, "race/same.frm") == 0);
    if (n % 5 == 0) CHECK(unlink("race/same.frm") == 0 || errno == ENOENT);
  }
  return NULL;
}

static void all(const char *datadir) {
  char path[500], buf[4096];
  struct iovec two[2] = {{"one ", 4}, {"two", 3}};
  int fd, fd2, log, n;
  FILE *f;
  uint64_t before;
  pthread_t threads[4];

  redo("a");
  create_database("./shop");
  redo("b");
  /* A table. */
  put("./shop/t1.frm", "table one", 1);
  sync_dir("./shop");
  /* By absolute path, and one that wanders. */
  snprintf(path, sizeof path, "%s/shop/t2.frm", datadir);
  put(path, "table two", 1);
  snprintf(path, sizeof path, "%s/./shop/../shop//t3.frm", datadir);
  put(path, "table three", 1);
  /* A view and a trigger. */
  put("./shop/v1.frm~", "view", 1);
  CHECK(rename("./shop/v1.frm~", "./shop/v1.frm") == 0);
  put("./shop/t1.TRG~", "trigger", 1);
  CHECK(rename("./shop/t1.TRG~", "./shop/t1.TRG") == 0);
  put("./shop/r1.TRN~", "name", 1);
  CHECK(rename("./shop/r1.TRN~", "./shop/r1.TRN") == 0);
  /* The DDL log, with an ALTER between its entries. */
  log = open("ddl_recovery.log", O_CREAT | O_TRUNC | O_RDWR, 0660);
  CHECK(log >= 0);
  memset(buf, 'h', sizeof buf);
  CHECK(pwrite(log, buf, 4096, 0) == 4096 && fdatasync(log) == 0);
  put("./shop/#sql-alter-1-2.frm", "table one altered", 1);
  CHECK(pwrite(log, "x", 1, 4096 + 17) == 1 && fdatasync(log) == 0);
  CHECK(rename("./shop/t1.frm", "./shop/#sql-backup-1-2.frm") == 0);
  CHECK(pwrite(log, "y", 1, 17) == 1 && fdatasync(log) == 0);
  CHECK(rename("./shop/#sql-alter-1-2.frm", "./shop/t1.frm") == 0);
  CHECK(unlink("./shop/#sql-backup-1-2.frm") == 0);
  CHECK(pwrite(log, "z", 1, 9000) == 1 && fsync(log) == 0);
  CHECK(ftruncate(log, 8192) == 0);
  CHECK(fallocate(log, 0, 8000, 2000) == 0);
  redo("c");
  /* An open file keeps its identity over rename and delete. */
  fd = openat(AT_FDCWD, "shop/open.frm", O_CREAT | O_WRONLY, 0640);
  CHECK(fd >= 0 && write(fd, "before ", 7) == 7);
  CHECK(rename("shop/open.frm", "shop/renamed.frm") == 0);
  CHECK(write(fd, "after ", 6) == 6);
  fd2 = dup(fd);
  CHECK(fd2 >= 0 && close(fd) == 0);
  CHECK(writev(fd2, two, 2) == 7 && lseek(fd2, 3, SEEK_SET) == 3 && write(fd2, "ORE", 3) == 3);
  CHECK(dup2(fd2, 100) == 100 && close(fd2) == 0 && pwrite(100, "end", 3, 30) == 3);
  CHECK(close(100) == 0);
  fd = open("shop/gone.frm", O_CREAT | O_WRONLY, 0640);
  CHECK(fd >= 0 && unlink("shop/gone.frm") == 0);
  before = ops();
  CHECK(write(fd, "to nobody", 9) == 9 && close(fd) == 0 && ops() == before);
  /* Appending. */
  put("shop/log.CSV", "first\n", 0);
  fd = open("shop/log.CSV", O_WRONLY | O_APPEND);
  CHECK(fd >= 0 && write(fd, "second\n", 7) == 7 && write(fd, "third\n", 6) == 6 && close(fd) == 0);
  /* From a name that is not one to one that is, and back. */
  put("shop/log.CSN", "rewritten\n", 1);
  CHECK(rename("shop/log.CSN", "shop/log.CSV") == 0);
  put("shop/drop.frm", "x", 1);
  CHECK(rename("shop/drop.frm", "shop/drop.bak") == 0);
  /* Overwriting, shortening. */
  put("shop/t2.frm", "new", 1);
  put("shop/t3.frm", "something long to be cut", 1);
  CHECK(truncate("shop/t3.frm", 9) == 0);
  /* stdio. */
  f = fopen("multi-master.info", "w");
  CHECK(f != NULL && fputs("one\n", f) >= 0 && fflush(f) == 0);
  CHECK(fputs("two\n", f) >= 0 && fsync(fileno(f)) == 0 && fputs("three\n", f) >= 0);
  CHECK(fclose(f) == 0);
  f = fopen("multi-master.info", "r");
  CHECK(f != NULL && fgets(buf, sizeof buf, f) != NULL && fclose(f) == 0);
  /* Databases. */
  create_database("gone");
  put("gone/t.frm", "x", 1);
  CHECK(unlink("gone/t.frm") == 0 && remove("gone/db.opt") == 0 && rmdir("gone") == 0);
  create_database("old");
  put("old/t.frm", "moved with its directory", 1);
  fd = open("old/t.frm", O_WRONLY | O_APPEND);
  CHECK(fd >= 0 && rename("old", "new") == 0 && write(fd, "!", 1) == 1 && close(fd) == 0);
  /* What failed is not sent. */
  before = ops();
  CHECK(rename("shop/none.frm", "shop/other.frm") == -1 && errno == ENOENT);
  CHECK(unlink("shop/none.frm") == -1 && errno == ENOENT);
  CHECK(mkdir("shop", 0700) == -1 && errno == EEXIST);
  CHECK(rmdir("shop") == -1 && errno == ENOTEMPTY);
  CHECK(open("nowhere/t.frm", O_CREAT | O_WRONLY, 0600) == -1 && errno == ENOENT);
  CHECK(ops() == before);
  /* What is none of ours. */
  put("shop/t1.ibd", "pages", 1);
  put("ib_buffer_pool", "1,1", 1);
  put("aria_log_control", "x", 1);
  put("host.pid", "1", 0);
  put("mysql_upgrade_info", "10.11", 0);
  CHECK(mkdir("#innodb_redo", 0700) == 0);
  CHECK(rename("shop/t1.ibd", "shop/t9.ibd") == 0 && unlink("shop/t9.ibd") == 0);
  fd = open("shop/t1.frm", O_RDONLY);
  CHECK(fd >= 0 && read(fd, buf, 5) == 5 && close(fd) == 0);
  CHECK(ops() == before);
  /* Success leaves errno alone. */
  errno = 77;
  put("shop/errno.frm", "x", 1);
  CHECK(errno == 77);
  /* Threads. */
  CHECK(mkdir("race", 0700) == 0);
  for (n = 0; n < 4; n++) CHECK(pthread_create(&threads[n], NULL, race, (void *) (size_t) n) == 0);
  for (n = 0; n < 4; n++) CHECK(pthread_join(threads[n], NULL) == 0);
  /* Large. */
  fd = open("shop/large.frm", O_CREAT | O_WRONLY, 0640);
  for (n = 0; n < 3000; n++) {
    memset(buf, n, sizeof buf);
    CHECK(write(fd, buf, sizeof buf) == sizeof buf);
  }
  CHECK(fsync(fd) == 0 && close(log) == 0);
  redo("d");
}

int main(int argc, char **argv) {
  xylem_config config;
  char error[300];
  int fd, port;

  if (argc != 4) return 2;
  port = atoi(argv[1]);
  CHECK(chdir(argv[2]) == 0);
  /* Before the connection: kept, and sent first. */
  create_database("early");
  fd = open("early/t.frm", O_CREAT | O_WRONLY, 0660);
  CHECK(fd >= 0 && write(fd, "early ", 6) == 6 && fsync(fd) == 0);
  if (port) {
    memset(&config, 0, sizeof config);
    config.address = "127.0.0.1";
    config.port = (uint16_t) port;
    config.epoch = 1;
    config.start_lsn = lsn;
    config.datadir = "/";
    CHECK(xylem_init(&config, error, sizeof error) == XYLEM_INVALID);
    config.datadir = argv[2];
    if (xylem_init(&config, error, sizeof error) != XYLEM_OK) {
      fprintf(stderr, "%s\n", error);
      return 1;
    }
  }
  CHECK(write(fd, "late", 4) == 4 && close(fd) == 0);
  if (!strcmp(argv[3], "all")) {
    all(argv[2]);
    if (port) {
      char place[32];
      uint32_t flags;
      CHECK(xylem_open_tablespace(5, place, sizeof place, &flags) == XYLEM_OK);
      CHECK(!strcmp(place, "early/t.ibd") && flags == 21);
      CHECK(xylem_open_tablespace(6, place, sizeof place, &flags) == XYLEM_NOT_FOUND);
    }
  } else if (!strcmp(argv[3], "fenced")) {
    /* The server fences us at the next frame it gets. */
    puts("ready");
    fflush(stdout);
    CHECK(getchar() == 'g');
    CHECK(mkdir("refused", 0700) == -1 && errno == EROFS);
    fd = open("early/x.frm", O_CREAT | O_WRONLY, 0600);
    CHECK(fd == -1 && errno == EROFS);
    CHECK(unlink("early/t.frm") == -1 && errno == EROFS);
  } else if (!strcmp(argv[3], "only-innodb")) {
    /* Files of other engines: made before, refused after, in every way. */
    put("early/t.MYD", "", 0);
    put("early/log", "", 0);
    xylem_only_innodb();
    CHECK(open("early/u.MAD", O_CREAT | O_RDWR, 0600) == -1 && errno == EPERM);
    CHECK(openat(AT_FDCWD, "./early/u.MAI", O_CREAT | O_RDWR, 0600) == -1 && errno == EPERM);
    CHECK(rename("early/log", "early/log.CSV") == -1 && errno == EPERM);
    CHECK(link("early/log", "early/u.ARZ") == -1 && errno == EPERM);
    CHECK(symlink("/elsewhere/t.MYI", "early/t.MYI") == -1 && errno == EPERM);
    fd = open("early/t.MYD", O_RDWR);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
    CHECK(unlink("early/t.MYD") == 0 && access("early/u.MAD", F_OK) == -1);
    put("early/#sql-temptable-1-2-3.MAD", "", 0);
    CHECK(mkdir("mysql", 0700) == 0);
    put("mysql/general_log2.CSV", "", 0);
  } else if (!strcmp(argv[3], "full")) {
    /* Nobody ever connects: memory is bounded, and full means an error. */
    char *mega = calloc(1, 1 << 20);
    int n, failed = 0;
    fd = open("early/big.frm", O_CREAT | O_WRONLY, 0600);
    for (n = 0; n < 80 && !failed; n++) failed = write(fd, mega, 1 << 20) == -1 && errno == EIO;
    CHECK(failed && n > 60 && n < 66);
  }
  xylem_shutdown();
  puts("ok");
  return 0;
}
