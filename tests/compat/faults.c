/* A disk that fails on demand, for one process: preloaded, it stands between headwater and libc. Rules lie in a file that the test
 * writes and that is mapped here, so they change while the process runs. One a line:
 *
 *   OP PATH ACTION VALUE
 *
 * OP: read, write or sync. PATH: a part of the file's path. ACTION: errno E; short BYTES (a write takes no more);
 * hang (until the rule is gone); rate BYTES a second; bad OFFSET (EIO where that byte is touched). A write that syncs (RWF_DSYNC) is both: with a
 * rule for sync its bytes are written, and then it fails. The second page counts what was done, 64 bits.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096

static char *rules;

__attribute__((constructor)) static void map_rules(void) {
  const char *path = getenv("FAULTS_FILE");
  int fd = path ? open(path, O_RDWR) : -1;
  if (fd < 0) return;
  void *map = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map != MAP_FAILED) rules = map;
  close(fd);
}

static void did(void) { atomic_fetch_add((_Atomic long *)(rules + PAGE), 1); }

/* The rule for an operation on a path: whether there is one, and what it says. */
static int rule(const char *op, const char *path, char *action, long *value) {
  char text[PAGE], *line, *rest = text;
  if (!rules || !*rules) return 0;
  memcpy(text, rules, PAGE);
  text[PAGE - 1] = 0;
  while ((line = strsep(&rest, "\n"))) {
    char of[16], part[128];
    if (sscanf(line, "%15s %127s %15s %ld", of, part, action, value) == 4 && !strcmp(of, op) && strstr(path, part)) return 1;
  }
  return 0;
}

static void path_of(int fd, char *path) {
  char link[32];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, PAGE - 1);
  path[n < 0 ? 0 : n] = 0;
}

/* Does what a rule says. -1 with errno, or the bytes that may go on. */
static ssize_t meet(const char *op, int fd, size_t bytes, off64_t at) {
  char path[PAGE], action[16];
  long value;
  if (!rules || !*rules) return bytes;
  path_of(fd, path);
  if (!rule(op, path, action, &value)) return bytes;
  if (!strcmp(action, "bad")) {
    if (value < at || value >= at + (off64_t)bytes) return bytes;
    strcpy(action, "errno");
    value = EIO;
  }
  did();
  if (!strcmp(action, "errno")) {
    errno = value;
    return -1;
  }
  if (!strcmp(action, "short")) return bytes > (size_t)value ? (ssize_t)value : (ssize_t)bytes;
  if (!strcmp(action, "rate")) usleep(bytes * 1000000ull / value);
  while (!strcmp(action, "hang") && rule(op, path, action, &value)) usleep(10000);
  return bytes;
}

ssize_t pread64(int fd, void *to, size_t bytes, off64_t at) {
  if (meet("read", fd, bytes, at) < 0) return -1;
  return syscall(SYS_pread64, fd, to, bytes, at);
}
ssize_t pread(int fd, void *to, size_t bytes, off_t at) { return pread64(fd, to, bytes, at); }

ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t at) {
  ssize_t most = meet("write", fd, bytes, at);
  if (most < 0) return -1;
  return syscall(SYS_pwrite64, fd, from, (size_t)most, at);
}
ssize_t pwrite(int fd, const void *from, size_t bytes, off_t at) { return pwrite64(fd, from, bytes, at); }

ssize_t pwritev64v2(int fd, const struct iovec *from, int count, off64_t at, int flags) {
  size_t bytes = 0;
  for (int i = 0; i < count; i++) bytes += from[i].iov_len;
  ssize_t most = meet("write", fd, bytes, at);
  if (most < 0) return -1;
  ssize_t done;
  if ((size_t)most < bytes && count == 1) {
    struct iovec part = {from[0].iov_base, (size_t)most};
    done = syscall(SYS_pwritev2, fd, &part, 1, at, 0, flags);
  } else {
    done = syscall(SYS_pwritev2, fd, from, count, at, 0, flags);
  }
  if (done >= 0 && meet("sync", fd, 0, 0) < 0) return -1;
  return done;
}
ssize_t pwritev2(int fd, const struct iovec *from, int count, off_t at, int flags) { return pwritev64v2(fd, from, count, at, flags); }

int fdatasync(int fd) { return meet("sync", fd, 0, 0) < 0 ? -1 : syscall(SYS_fdatasync, fd); }
int fsync(int fd) { return meet("sync", fd, 0, 0) < 0 ? -1 : syscall(SYS_fsync, fd); }

int fallocate64(int fd, int mode, off64_t at, off64_t bytes) {
  if (mode == 0 && meet("write", fd, 0, at) < 0) return -1;
  return syscall(SYS_fallocate, fd, mode, at, bytes);
}
int fallocate(int fd, int mode, off_t at, off_t bytes) { return fallocate64(fd, mode, at, bytes); }
