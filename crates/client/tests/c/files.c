/* Performs mariadbd's operations on side files. The library is preloaded and
XYLEM_DATADIR is set. Arguments: port (0: never connects), the data directory, and
a mode: "all", "none", "fenced", "only-innodb", "full" or "log". */
#define _GNU_SOURCE
#include "xylem_client.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

/* Each thread renames and rewrites the same file. The order in the WAL must be the
order on disk. */
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

/* Other libc functions that change a file. */
static void further_calls(void) {
  struct iovec two[2] = {{"five ", 5}, {"six", 3}};
  int fd, fd2, in, pipes[2];
  off_t at = 4, from = 1;
  loff_t to = 60;
  uint64_t before;
  FILE *f;

  in = open("plain", O_CREAT | O_RDWR, 0600);
  CHECK(in >= 0 && write(in, "0123456789", 10) == 10);
  fd = open("shop/further.frm", O_CREAT | O_RDWR, 0640);
  CHECK(fd >= 0);
  CHECK(pwritev(fd, two, 2, at) == 8);
  CHECK(pwritev2(fd, two, 2, 20, 0) == 8);
  CHECK(lseek(fd, 40, SEEK_SET) == 40 && pwritev2(fd, two, 2, -1, 0) == 8);
  /* Copies from another file: to a given offset, and to the current position. */
  CHECK(lseek(in, 0, SEEK_SET) == 0);
  CHECK(copy_file_range(in, NULL, fd, &to, 6, 0) == 6 && to == 66);
  CHECK(lseek(fd, 70, SEEK_SET) == 70);
  CHECK(copy_file_range(in, &from, fd, NULL, 3, 0) == 3 && lseek(fd, 0, SEEK_CUR) == 73);
  from = 2;
  CHECK(sendfile(fd, in, &from, 4) == 4 && lseek(fd, 0, SEEK_CUR) == 77);
  CHECK(pipe(pipes) == 0 && write(pipes[1], "piped", 5) == 5);
  CHECK(splice(pipes[0], NULL, fd, NULL, 5, 0) == 5);
  CHECK(close(pipes[0]) == 0 && close(pipes[1]) == 0);
  /* Duplicate descriptors. */
  fd2 = fcntl(fd, F_DUPFD_CLOEXEC, 300);
  CHECK(fd2 >= 300 && pwrite(fd2, "dup", 3, 100) == 3 && close(fd2) == 0);
  CHECK(pwrite(fd, "end", 3, 110) == 3);
  /* Descriptors closed together, whose numbers are then reused. */
  CHECK(dup2(fd, 400) == 400 && dup2(fd, 401) == 401);
  CHECK(close_range(400, 401, CLOSE_RANGE_CLOEXEC) == 0 && pwrite(401, "x", 1, 115) == 1);
  before = ops();
  CHECK(close_range(400, 401, 0) == 0);
  CHECK(dup2(in, 400) == 400 && pwrite(400, "y", 1, 0) == 1 && ops() == before);
  CHECK(close(400) == 0);
  /* A close that the library does not see, by the kernel itself. */
  CHECK(syscall(SYS_close, fd) == 0);
  CHECK(open("plain2", O_CREAT | O_RDWR, 0600) == fd);
  CHECK(write(fd, "not a side file", 15) == 15 && ops() == before && close(fd) == 0);
  fd = open("shop/further2.frm", O_CREAT | O_RDWR, 0640);
  CHECK(fd >= 0);
  before = ops();
  CHECK(syscall(SYS_close, fd) == 0 && syscall(SYS_dup2, in, fd) == fd);
  CHECK(pwrite(fd, "z", 1, 5) == 1 && ftruncate(fd, 9) == 0 && fsync(fd) == 0 && ops() == before);
  CHECK(close(fd) == 0);
  /* Additional names. */
  put("plain3", "linked by its name", 0);
  CHECK(linkat(AT_FDCWD, "plain3", AT_FDCWD, "shop/linked.frm", 0) == 0);
  fd = open("shop", O_RDONLY | O_DIRECTORY);
  CHECK(fd >= 0 && link("plain3", "shop/linked2.frm") == 0 && renameat2(AT_FDCWD, "shop/linked2.frm", fd, "linked3.frm", RENAME_NOREPLACE) == 0);
  before = ops();
  CHECK(symlink("plain3", "shop/symbolic.frm") == -1 && errno == EPERM);
  CHECK(symlinkat("plain3", fd, "symbolic.frm") == -1 && errno == EPERM);
  CHECK(mknodat(fd, "node.frm", S_IFREG | 0600, 0) == -1 && errno == EPERM);
  CHECK(ops() == before && close(fd) == 0);
  /* Streams made of open descriptors, and reopened as other files. */
  fd = open("shop/stream.frm", O_CREAT | O_RDWR, 0640);
  f = fdopen(fd, "w");
  CHECK(f != NULL && fputs("through a stream", f) >= 0 && fclose(f) == 0);
  f = fopen("shop/stream2.frm", "w");
  CHECK(f != NULL && fputs("before", f) >= 0);
  f = freopen("shop/stream3.frm", "w", f);
  CHECK(f != NULL && fputs("after", f) >= 0 && fclose(f) == 0);
  /* The size limit of side files. */
  before = ops();
  put("shop/big.frm", "small", 0);
  before = ops();
  fd = open("shop/big.frm", O_RDWR);
  CHECK(fd >= 0 && pwrite(fd, "x", 1, 64 << 20) == -1 && errno == EFBIG);
  CHECK(ftruncate(fd, (64 << 20) + 1) == -1 && errno == EFBIG);
  CHECK(fallocate(fd, 0, 0, (64 << 20) + 1) == -1 && errno == EFBIG);
  CHECK(posix_fallocate(fd, 1, 64 << 20) == EFBIG);
  CHECK(truncate("shop/big.frm", (64 << 20) + 1) == -1 && errno == EFBIG);
  CHECK(lseek(fd, (64 << 20) - 4, SEEK_SET) == (64 << 20) - 4);
  CHECK(write(fd, "12345", 5) == -1 && errno == EFBIG);
  CHECK(close(fd) == 0 && ops() == before);
  fd = open("plain4", O_CREAT | O_RDWR, 0600);
  CHECK(fd >= 0 && ftruncate(fd, (64 << 20) + 1) == 0 && close(fd) == 0);
  CHECK(rename("plain4", "shop/big2.frm") == -1 && errno == EFBIG);
  CHECK(link("plain4", "shop/big2.frm") == -1 && errno == EFBIG && ops() == before);
  CHECK(unlink("plain") == 0 && unlink("plain2") == 0 && unlink("plain3") == 0 && unlink("plain4") == 0);
  CHECK(close(in) == 0);
  /* Rows of log tables are local to the compute. */
  CHECK(mkdir("mysql", 0700) == 0);
  put("mysql/general_log.frm", "a table", 1);
  before = ops();
  put("mysql/general_log.CSV", "rows\n", 1);
  put("mysql/general_log.CSM", "about rows", 1);
  CHECK(ops() == before);
  CHECK(rename("mysql/general_log.CSV", "mysql/old_log.CSV") == 0);
  CHECK(ops() > before || !xylem_is_enabled());
  CHECK(unlink("mysql/general_log.CSM") == 0);
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
  /* By absolute path, and by a path with detours. */
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
  /* An open file keeps its identity across rename and delete. */
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
  further_calls();
  /* Appending. */
  put("shop/log.CSV", "first\n", 0);
  fd = open("shop/log.CSV", O_WRONLY | O_APPEND);
  CHECK(fd >= 0 && write(fd, "second\n", 7) == 7 && write(fd, "third\n", 6) == 6 && close(fd) == 0);
  /* Renames from and to names that are not side files. */
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
  /* Failed operations are not sent. */
  before = ops();
  CHECK(rename("shop/none.frm", "shop/other.frm") == -1 && errno == ENOENT);
  CHECK(unlink("shop/none.frm") == -1 && errno == ENOENT);
  CHECK(mkdir("shop", 0700) == -1 && errno == EEXIST);
  CHECK(rmdir("shop") == -1 && errno == ENOTEMPTY);
  CHECK(open("nowhere/t.frm", O_CREAT | O_WRONLY, 0600) == -1 && errno == ENOENT);
  CHECK(ops() == before);
  /* Files that are not side files. */
  put("shop/t1.ibd", "pages", 1);
  put("ib_buffer_pool.incomplete", "1,1", 1);
  put("aria_log_control", "x", 1);
  put("host.pid", "1", 0);
  put("mysql_upgrade_info", "10.11", 0);
  CHECK(mkdir("#innodb_redo", 0700) == 0);
  CHECK(rename("shop/t1.ibd", "shop/t9.ibd") == 0 && unlink("shop/t9.ibd") == 0);
  fd = open("shop/t1.frm", O_RDONLY);
  CHECK(fd >= 0 && read(fd, buf, 5) == 5 && close(fd) == 0);
  CHECK(ops() == before);
  /* Success does not change errno. */
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

/* The byte of an earlier server's log at an offset, as the server has it. */
static unsigned char logged(uint64_t at) { return (unsigned char) (at * 7 >> 3); }

static unsigned before_writes;

/* The redo that goes out with the next write to the log. */
static void send_redo(void) {
  before_writes++;
  redo("h");
}

/* binlog.000003 is 2.5 MiB of zeros in the data directory, and has content at the server. */
static void log_files(void) {
  static unsigned char buf[1 << 20];
  const uint64_t size = 5 << 19;
  struct iovec two[2] = {{buf, 3}, {buf + 10, 4}};
  struct stat st;
  uint64_t at;
  int fd, copy, back;
  xylem_before_log(send_redo);

  /* Sizes and positions need no content. */
  fd = open("binlog.000003", O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0 && lseek(fd, 0, SEEK_END) == (off_t) size);
  CHECK(fstat(fd, &st) == 0 && st.st_blocks == 0);
  /* A part, over a border of pieces, through a copy of the descriptor. */
  copy = dup(fd);
  CHECK(copy >= 0 && pread(copy, buf, 100, (1 << 20) - 50) == 100);
  for (at = 0; at < 100; at++) CHECK(buf[at] == logged((1 << 20) - 50 + at));
  CHECK(close(copy) == 0);
  /* The rest, to the end and not beyond. */
  CHECK(lseek(fd, 2 << 20, SEEK_SET) == 2 << 20);
  CHECK(read(fd, buf, sizeof buf) == 1 << 19 && read(fd, buf + (1 << 19), 1) == 0);
  for (at = 0; at < 1 << 19; at++) CHECK(buf[at] == logged((2 << 20) + at));
  /* Vectors. */
  CHECK(preadv(fd, two, 2, 12) == 7 && buf[2] == logged(14) && buf[10] == logged(15));
  CHECK(lseek(fd, 77, SEEK_SET) == 77 && readv(fd, two, 2) == 7 && buf[0] == logged(77));
  CHECK(close(fd) == 0);

  /* A write into a piece that was not read does not lose what is around it. */
  fd = open("binlog.000004", O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0 && pwrite(fd, "!", 1, 9) == 1 && fdatasync(fd) == 0);
  CHECK(pread(fd, buf, 12, 0) == 12 && buf[8] == logged(8) && buf[9] == '!' && buf[10] == logged(10));
  CHECK(before_writes == 1);
  /* What is cut off is not asked for. */
  CHECK(ftruncate(fd, 20) == 0 && pread(fd, buf, 100, 0) == 20 && buf[19] == logged(19));
  CHECK(close(fd) == 0);

  /* A file that the server does not have is no zeros. */
  fd = open("binlog.000005", O_RDONLY);
  CHECK(fd >= 0 && read(fd, buf, 1) == -1 && errno == EIO && close(fd) == 0);
  CHECK(unlink("binlog.000005") == 0);
  put("binlog.000005", "mine", 1);
  fd = open("binlog.000005", O_RDONLY);
  CHECK(fd >= 0 && read(fd, buf, 9) == 4 && !memcmp(buf, "mine", 4) && close(fd) == 0);

  /* Copies of a file read it, too. */
  fd = open("binlog.000006", O_RDONLY);
  back = open("elsewhere", O_CREAT | O_RDWR, 0600);
  CHECK(fd >= 0 && back >= 0 && sendfile(back, fd, NULL, 30) == 30);
  CHECK(pread(back, buf, 30, 0) == 30 && buf[29] == logged(29));
  CHECK(close(fd) == 0 && close(back) == 0);
  /* An index and other names are ordinary. */
  put("binlog.index", "./binlog.000003\n", 1);
  CHECK(before_writes == 2);
}

int main(int argc, char **argv) {
  xylem_config config;
  char error[300];
  int fd, port;

  if (argc != 4) return 2;
  port = atoi(argv[1]);
  CHECK(chdir(argv[2]) == 0);
  /* Operations before the connection are kept and sent first. */
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
      CHECK(xylem_open_tablespace(5, place, sizeof place, &flags, 1) == XYLEM_OK);
      CHECK(!strcmp(place, "early/t.ibd") && flags == 21);
      CHECK(xylem_open_tablespace(6, place, sizeof place, &flags, 1) == XYLEM_NOT_FOUND);
      /* Only the path, without a file. */
      CHECK(unlink("early/t.ibd") == 0);
      CHECK(xylem_open_tablespace(5, place, sizeof place, &flags, 0) == XYLEM_OK);
      CHECK(!strcmp(place, "early/t.ibd") && access(place, F_OK) == -1);
      CHECK(xylem_open_tablespace(5, place, sizeof place, &flags, 1) == XYLEM_OK);
    }
  } else if (!strcmp(argv[3], "fenced")) {
    /* The server fences this compute at the next frame. */
    puts("ready");
    fflush(stdout);
    CHECK(getchar() == 'g');
    CHECK(mkdir("refused", 0700) == -1 && errno == EROFS);
    fd = open("early/x.frm", O_CREAT | O_WRONLY, 0600);
    CHECK(fd == -1 && errno == EROFS);
    CHECK(unlink("early/t.frm") == -1 && errno == EROFS);
  } else if (!strcmp(argv[3], "only-innodb")) {
    /* Files of other engines are allowed before, and refused in every way after. */
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
  } else if (!strcmp(argv[3], "syncs")) {
    /* A real sync of a pipe fails. */
    CHECK(mkfifo("pipe", 0600) == 0 && mkfifo("../pipe", 0600) == 0);
    fd = open("pipe", O_RDWR);
    CHECK(fd >= 0 && fsync(fd) == 0 && fdatasync(fd) == 0 && close(fd) == 0);
    fd = open("../pipe", O_RDWR);
    CHECK(fd >= 0 && fsync(fd) == -1 && errno == EINVAL && fdatasync(fd) == -1 && errno == EINVAL);
  } else if (!strcmp(argv[3], "log")) {
    log_files();
  } else if (!strcmp(argv[3], "full")) {
    /* Without a connection memory is bounded, and an operation beyond it fails. */
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
