/*
 * A library for LD_PRELOAD. It logs what a program does to the files under one folder, and makes chosen calls
 * fail.
 *
 * FAULTS_FOLDER  only calls on files in this folder are logged and counted; an absolute path
 * FAULTS_LOG     the file to which each call is appended, before it is made: its name and the path
 * FAULTS         faults, separated by blanks: CALL:NUMBER:ACTION:VALUE
 *
 * CALL is open, mkdir, write, fsync, link, rename or unlink, or "any". NUMBER counts the calls of that name
 * from 1; 0 stands for all of them. ACTION is
 *   errno    the call fails with this error number
 *   short    a write takes no more than so many octets
 *   signal   the program gets this signal before the call
 *   exists   before the call, another file gets the name that open or link is about to make, or another
 *            directory that of mkdir
 *
 * What the program writes to descriptor 1 is logged as "send" with its text, so that the log shows what was
 * done before a reply. It is not counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* The function of this name that the program would call without this library. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { CALLS = 8 };
static const char *const names[CALLS] = {"any", "open", "mkdir", "write", "fsync", "link", "rename", "unlink"};
static unsigned counts[CALLS];

static void log_line(const char *name, const char *text) {
  const char *path = getenv("FAULTS_LOG");
  if (path == NULL) return;
  char line[PATH_MAX + 32];
  int length = snprintf(line, sizeof line, "%s %s\n", name, text);
  int fd = REAL(open)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || REAL(write)(fd, line, (size_t)length) != length) abort();
  close(fd);
}

/* A path relative to the folder; NULL when it is not in there. */
static const char *inside(const char *path) {
  const char *folder = getenv("FAULTS_FOLDER");
  if (folder == NULL) return NULL;
  size_t length = strlen(folder);
  if (strncmp(path, folder, length) != 0) return NULL;
  return path[length] == '/' ? path + length + 1 : path[length] == '\0' ? "." : NULL;
}

static const char *inside_of_descriptor(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return NULL;
  path[length] = '\0';
  return inside(path);
}

static void make_other(const char *path, int directory) {
  if (directory) {
    if (REAL(mkdir)(path, 0700) < 0) abort();
    return;
  }
  static const char text[] = "another message\n";
  int fd = REAL(open)(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || REAL(write)(fd, text, sizeof text - 1) != sizeof text - 1) abort();
  close(fd);
}

/*
 * Logs a call and applies its faults.
 *
 * path: of the file, relative to the folder; NULL when it is not in there. size: of a write, which may be
 * reduced. target: the name that the call is about to make. Returns the error to fail with, or 0.
 */
static int intercept(const char *name, const char *path, size_t *size, const char *target) {
  if (path == NULL) return 0;
  log_line(name, path);
  int call = 1;
  while (strcmp(names[call], name) != 0) call += 1;
  counts[0] += 1;
  counts[call] += 1;

  const char *text = getenv("FAULTS");
  int error = 0;
  while (text != NULL && *text != '\0') {
    char which[16], action[16];
    unsigned number;
    int value, length = 0;
    if (sscanf(text, "%15[a-z]:%u:%15[a-z]:%d%n", which, &number, action, &value, &length) != 4) abort();
    text += length + (int)strspn(text + length, " ");
    int any = strcmp(which, "any") == 0;
    if (!any && strcmp(which, name) != 0) continue;
    if (number != 0 && number != counts[any ? 0 : call]) continue;
    if (strcmp(action, "errno") == 0) error = value;
    else if (strcmp(action, "signal") == 0) kill(getpid(), value);
    else if (strcmp(action, "exists") == 0 && target != NULL) make_other(target, strcmp(name, "mkdir") == 0);
    else if (strcmp(action, "short") == 0 && size != NULL && *size > (size_t)value) *size = (size_t)value;
  }
  return error;
}

#define FAIL_IF(call) \
  do { \
    int error = (call); \
    if (error != 0) { \
      errno = error; \
      return -1; \
    } \
  } while (0)

int open64(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  mode_t mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  FAIL_IF(intercept("open", inside(path), NULL, (flags & O_CREAT) != 0 ? path : NULL));
  return REAL(open64)(path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  mode_t mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  FAIL_IF(intercept("open", inside(path), NULL, (flags & O_CREAT) != 0 ? path : NULL));
  return REAL(open)(path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
  FAIL_IF(intercept("mkdir", inside(path), NULL, path));
  return REAL(mkdir)(path, mode);
}

static void log_sent(const void *octets, size_t size) {
  char text[256];
  size_t length = size < sizeof text - 1 ? size : sizeof text - 1;
  for (size_t i = 0; i < length; i++) {
    char octet = ((const char *)octets)[i];
    text[i] = octet < ' ' ? '|' : octet;
  }
  text[length] = '\0';
  log_line("send", text);
}

ssize_t write(int fd, const void *octets, size_t size) {
  if (fd == 1) log_sent(octets, size);
  else {
    char path[PATH_MAX];
    FAIL_IF(intercept("write", inside_of_descriptor(fd, path), &size, NULL));
  }
  return REAL(write)(fd, octets, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (fd == 1 && count > 0) log_sent(parts[0].iov_base, parts[0].iov_len);
  return REAL(writev)(fd, parts, count);
}

int fsync(int fd) {
  char path[PATH_MAX];
  FAIL_IF(intercept("fsync", inside_of_descriptor(fd, path), NULL, NULL));
  return REAL(fsync)(fd);
}

int link(const char *old, const char *path) {
  FAIL_IF(intercept("link", inside(path), NULL, path));
  return REAL(link)(old, path);
}

int rename(const char *old, const char *path) {
  FAIL_IF(intercept("rename", inside(path), NULL, NULL));
  return REAL(rename)(old, path);
}

int unlink(const char *path) {
  FAIL_IF(intercept("unlink", inside(path), NULL, NULL));
  return REAL(unlink)(path);
}
