/* A disk that fails on demand: loaded before a program, it answers EIO to reads
   and syncs of the files whose path contains what the files `read` and `sync`
   in the directory EIO_ON_DEMAND say. There is no such disk to be had without
   the rights of root and a kernel module. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(const char *what, int fd)
{
  const char *dir = getenv("EIO_ON_DEMAND");
  char name[PATH_MAX], pattern[256], path[PATH_MAX];
  if (!dir)
    return 0;
  snprintf(name, sizeof name, "%s/%s", dir, what);
  int control = open(name, O_RDONLY | O_CLOEXEC);
  if (control < 0)
    return 0;
  ssize_t length = read(control, pattern, sizeof pattern - 1);
  close(control);
  if (length <= 0)
    return 0;
  pattern[length] = 0;
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  length = readlink(name, path, sizeof path - 1);
  if (length <= 0)
    return 0;
  path[length] = 0;
  if (!strstr(path, pattern))
    return 0;
  errno = EIO;
  return 1;
}

ssize_t pread64(int fd, void *to, size_t bytes, off64_t at)
{
  static ssize_t (*real)(int, void *, size_t, off64_t);
  if (fails("read", fd))
    return -1;
  if (!real)
    real = dlsym(RTLD_NEXT, "pread64");
  return real(fd, to, bytes, at);
}

int fdatasync(int fd)
{
  static int (*real)(int);
  if (fails("sync", fd))
    return -1;
  if (!real)
    real = dlsym(RTLD_NEXT, "fdatasync");
  return real(fd);
}

int fsync(int fd)
{
  static int (*real)(int);
  if (fails("sync", fd))
    return -1;
  if (!real)
    real = dlsym(RTLD_NEXT, "fsync");
  return real(fd);
}
