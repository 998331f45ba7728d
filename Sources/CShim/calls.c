// The one place where programs call the kernel (CShim.h).
#define _GNU_SOURCE
#include "CShim.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <grp.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Files

int sys_open(const char *path, int flags, unsigned mode) { return open(path, flags | O_CLOEXEC, mode); }
int sys_close(int fd) { return close(fd); }
long sys_read(int fd, void *buffer, size_t size) { return read(fd, buffer, size); }
long sys_write(int fd, const void *buffer, size_t size) { return write(fd, buffer, size); }
long sys_pread(int fd, void *buffer, size_t size, int64_t offset) { return pread(fd, buffer, size, offset); }
long sys_pwrite(int fd, const void *buffer, size_t size, int64_t offset) {
  return pwrite(fd, buffer, size, offset);
}
int64_t sys_lseek(int fd, int64_t offset, int whence) { return lseek(fd, offset, whence); }
int sys_fsync(int fd) { return fsync(fd); }
int sys_fdatasync(int fd) { return fdatasync(fd); }
int sys_ftruncate(int fd, int64_t size) { return ftruncate(fd, size); }

static int narrow(int result, const struct stat *st, struct shim_stat *out) {
  if (result == -1) return -1;
  out->inode = st->st_ino;
  out->device = st->st_dev;
  out->size = st->st_size;
  out->mode = st->st_mode;
  out->uid = st->st_uid;
  out->gid = st->st_gid;
  out->links = st->st_nlink;
  out->atime = st->st_atim.tv_sec;
  out->mtime = st->st_mtim.tv_sec;
  out->ctime = st->st_ctim.tv_sec;
  out->mtime_nanoseconds = st->st_mtim.tv_nsec;
  return 0;
}
int sys_fstat(int fd, struct shim_stat *out) {
  struct stat st;
  return narrow(fstat(fd, &st), &st, out);
}
int sys_stat(const char *path, struct shim_stat *out) {
  struct stat st;
  return narrow(stat(path, &st), &st, out);
}
int sys_lstat(const char *path, struct shim_stat *out) {
  struct stat st;
  return narrow(lstat(path, &st), &st, out);
}
int sys_link(const char *from, const char *to) { return link(from, to); }
int sys_unlink(const char *path) { return unlink(path); }
int sys_rename(const char *from, const char *to) { return rename(from, to); }
int sys_chdir(const char *path) { return chdir(path); }
int sys_flock(int fd, int operation) { return flock(fd, operation); }
int sys_fcntl_lock(int fd, int wait) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  return fcntl(fd, wait ? F_SETLKW : F_SETLK, &lock);
}
int sys_utimes(const char *path, int64_t seconds) {
  struct timespec both[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
  return utimensat(AT_FDCWD, path, both, 0);
}
unsigned sys_umask(unsigned mask) { return umask(mask); }
int sys_nonblocking(int fd, int on) {
  int flags = fcntl(fd, F_GETFL);
  if (flags == -1) return -1;
  return fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}
int sys_close_on_exec(int fd, int on) { return fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0); }
int sys_is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }

void *sys_opendir(const char *path) { return opendir(path); }
const char *sys_readdir(void *dir) {
  errno = 0;
  struct dirent *entry = readdir(dir);
  return entry ? entry->d_name : NULL;
}
void sys_closedir(void *dir) { closedir(dir); }

// Processes

int sys_pipe(int fds[2]) { return pipe2(fds, O_CLOEXEC); }
int sys_dup2(int from, int to) {
  if (from == to) return sys_close_on_exec(from, 0) == -1 ? -1 : to;
  return dup2(from, to);
}
int sys_fork(void) { return fork(); }
int sys_execv(const char *path, const char *const *argv) { return execv(path, (char *const *)argv); }
int sys_execvp(const char *file, const char *const *argv) { return execvp(file, (char *const *)argv); }
int sys_waitpid(int pid, int *status, int options) { return waitpid(pid, status, options); }
int shim_wnohang(void) { return WNOHANG; }
int shim_exited(int status) { return WIFEXITED(status); }
int shim_exit_status(int status) { return WEXITSTATUS(status); }
int shim_term_signal(int status) { return WIFSIGNALED(status) ? WTERMSIG(status) : 0; }
int sys_kill(int pid, int signal) { return kill(pid, signal); }
int sys_getpid(void) { return getpid(); }
unsigned sys_getuid(void) { return getuid(); }
unsigned sys_geteuid(void) { return geteuid(); }
unsigned sys_getgid(void) { return getgid(); }
int sys_setuid(unsigned uid) { return setuid(uid); }
int sys_setgid(unsigned gid) { return setgid(gid); }
int sys_setgroups(const unsigned *gids, int count) { return setgroups(count, gids); }

// Signals

int sys_ignore(int number) { return signal(number, SIG_IGN) == SIG_ERR ? -1 : 0; }
int sys_default(int number) { return signal(number, SIG_DFL) == SIG_ERR ? -1 : 0; }
int sys_unblock_all(void) {
  sigset_t none;
  sigemptyset(&none);
  return sigprocmask(SIG_SETMASK, &none, NULL);
}
int sys_signalfd(const int *signals, int count) {
  sigset_t set;
  sigemptyset(&set);
  for (int i = 0; i < count; i++) sigaddset(&set, signals[i]);
  if (sigprocmask(SIG_BLOCK, &set, NULL) == -1) return -1;
  return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}
int sys_signalfd_take(int fd) {
  struct signalfd_siginfo info;
  ssize_t n = read(fd, &info, sizeof info);
  if (n == sizeof info) return info.ssi_signo;
  return n == -1 && errno != EAGAIN && errno != EINTR ? -1 : 0;
}
static int exit_statuses[65];
static void exit_now(int number) { _exit(exit_statuses[number]); }
int sys_exit_on(int number, int status) {
  exit_statuses[number] = status;
  return signal(number, exit_now) == SIG_ERR ? -1 : 0;
}
static struct {
  int status;
  char path[256], text[256];
} last_act;
static void act_and_exit(int number) {
  (void)number;
  if (last_act.path[0]) unlink(last_act.path);
  if (last_act.text[0] && write(2, last_act.text, strlen(last_act.text)) == -1) {}
  _exit(last_act.status);
}
int sys_last_act_on(int number, int status, const char *path, const char *text) {
  if (strlen(path) >= sizeof last_act.path || strlen(text) >= sizeof last_act.text) {
    errno = ENAMETOOLONG;
    return -1;
  }
  last_act.status = status;
  strcpy(last_act.path, path);
  strcpy(last_act.text, text);
  return signal(number, act_and_exit) == SIG_ERR ? -1 : 0;
}
unsigned sys_alarm(unsigned seconds) { return alarm(seconds); }

// Time

static struct timespec now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t;
}
int64_t sys_time(void) { return now(CLOCK_REALTIME).tv_sec; }
int64_t sys_time_microseconds(void) {
  struct timespec t = now(CLOCK_REALTIME);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}
int64_t sys_time_nanoseconds(void) {
  struct timespec t = now(CLOCK_REALTIME);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
int64_t sys_monotonic_milliseconds(void) {
  struct timespec t = now(CLOCK_MONOTONIC);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
int sys_sleep_milliseconds(int64_t milliseconds) {
  struct timespec t = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
  return nanosleep(&t, NULL);
}
int sys_getrandom(void *buffer, size_t size) { return getrandom(buffer, size, 0) == (ssize_t)size ? 0 : -1; }
int sys_gethostname(char *buffer, size_t size) { return gethostname(buffer, size); }

int sys_poll(struct pollfd *fds, unsigned count, int milliseconds) { return poll(fds, count, milliseconds); }

// Sockets

union address {
  struct sockaddr any;
  struct sockaddr_in four;
  struct sockaddr_in6 six;
};
static socklen_t parse(const char *text, unsigned port, union address *out) {
  memset(out, 0, sizeof *out);
  if (inet_pton(AF_INET, text, &out->four.sin_addr) == 1) {
    out->four.sin_family = AF_INET;
    out->four.sin_port = htons(port);
    return sizeof out->four;
  }
  if (inet_pton(AF_INET6, text, &out->six.sin6_addr) == 1) {
    out->six.sin6_family = AF_INET6;
    out->six.sin6_port = htons(port);
    return sizeof out->six;
  }
  errno = EINVAL;
  return 0;
}
// An IPv4 client of a two-family socket is written as IPv4.
static void print(const union address *from, char *text, unsigned *port) {
  if (from->any.sa_family == AF_INET6) {
    *port = ntohs(from->six.sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&from->six.sin6_addr))
      inet_ntop(AF_INET, from->six.sin6_addr.s6_addr + 12, text, INET6_ADDRSTRLEN);
    else
      inet_ntop(AF_INET6, &from->six.sin6_addr, text, INET6_ADDRSTRLEN);
  } else {
    *port = ntohs(from->four.sin_port);
    inet_ntop(AF_INET, &from->four.sin_addr, text, INET6_ADDRSTRLEN);
  }
}
int shim_is_address(const char *text) {
  union address ignored;
  socklen_t size = parse(text, 0, &ignored);
  return size == 0 ? 0 : size == sizeof(struct sockaddr_in) ? 4 : 6;
}
int sys_listen_tcp(const char *address, unsigned port, int backlog) {
  union address where;
  socklen_t size = parse(address, port, &where);
  if (size == 0) return -1;
  int fd = socket(where.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
  if (fd == -1) return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, &where.any, size) == 0 && listen(fd, backlog) == 0) return fd;
  int code = errno;
  close(fd);
  errno = code;
  return -1;
}
int sys_accept_tcp(int fd, char *peer, unsigned *peer_port, char *local, unsigned *local_port) {
  union address from, to;
  socklen_t size = sizeof from;
  int connection = accept4(fd, &from.any, &size, SOCK_CLOEXEC);
  if (connection == -1) return -1;
  print(&from, peer, peer_port);
  size = sizeof to;
  if (getsockname(connection, &to.any, &size) == -1) memset(&to, 0, sizeof to);
  print(&to, local, local_port);
  return connection;
}
int sys_socket_tcp(const char *address) {
  union address where;
  if (parse(address, 0, &where) == 0) return -1;
  return socket(where.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}
int sys_connect_tcp(int fd, const char *address, unsigned port) {
  union address where;
  socklen_t size = parse(address, port, &where);
  return size == 0 ? -1 : connect(fd, &where.any, size);
}
int sys_socket_error(int fd) {
  int code = 0;
  socklen_t size = sizeof code;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) == -1 ? errno : code;
}
int sys_is_own_address(const char *text) {
  union address wanted;
  if (parse(text, 0, &wanted) == 0) return 0;
  if (wanted.any.sa_family == AF_INET) {
    uint32_t host = ntohl(wanted.four.sin_addr.s_addr);
    if (host == 0 || host >> 24 == 127) return 1;
  } else if (IN6_IS_ADDR_LOOPBACK(&wanted.six.sin6_addr) || IN6_IS_ADDR_UNSPECIFIED(&wanted.six.sin6_addr)) {
    return 1;
  }
  struct ifaddrs *all;
  if (getifaddrs(&all) == -1) return -1;
  int found = 0;
  for (struct ifaddrs *each = all; each && !found; each = each->ifa_next) {
    if (!each->ifa_addr || !(each->ifa_flags & IFF_UP)) continue;
    const union address *own = (const union address *)each->ifa_addr;
    if (own->any.sa_family != wanted.any.sa_family) continue;
    if (own->any.sa_family == AF_INET)
      found = own->four.sin_addr.s_addr == wanted.four.sin_addr.s_addr;
    else if (own->any.sa_family == AF_INET6)
      found = memcmp(&own->six.sin6_addr, &wanted.six.sin6_addr, 16) == 0;
  }
  freeifaddrs(all);
  return found;
}
