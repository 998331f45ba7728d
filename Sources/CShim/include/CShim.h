// CShim: what Swift cannot reach by itself, and the one door to the kernel.
//
// Swift in Embedded mode cannot import Glibc, cannot call variadic functions and
// cannot read macros like errno. Every system call of every program goes through
// a function of this header, so that one file (calls.c) is the place where a
// fault can be injected. Knows nothing of mail.
#ifndef CSHIM_H
#define CSHIM_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/stat.h>

// Errors, arguments, environment, installation -------------------------------

int shim_errno(void);
const char *shim_strerror(int code);
int shim_argc(void);
const char *shim_argv(int index);
const char *shim_getenv(const char *name);
int shim_setenv(const char *name, const char *value);
int shim_unsetenv(const char *name);
_Noreturn void shim_exit(int status);

// The text that `make install` writes into the ELF section .apus.home of every
// installed program: fields each ended by NUL (Installation reads them).
const char *shim_installation(void);
size_t shim_installation_size(void);

// Files ------------------------------------------------------------------------

struct shim_stat {
  uint64_t inode, device;
  int64_t size;
  uint32_t mode, uid, gid, links;
  int64_t atime, mtime, ctime; // seconds since 1970
  uint32_t mtime_nanoseconds;
};

int sys_open(const char *path, int flags, unsigned mode);
int sys_close(int fd);
long sys_read(int fd, void *buffer, size_t size);
long sys_write(int fd, const void *buffer, size_t size);
long sys_pread(int fd, void *buffer, size_t size, int64_t offset);
long sys_pwrite(int fd, const void *buffer, size_t size, int64_t offset);
int64_t sys_lseek(int fd, int64_t offset, int whence);
int sys_fsync(int fd);
int sys_fdatasync(int fd);
int sys_ftruncate(int fd, int64_t size);
int sys_fstat(int fd, struct shim_stat *out);
int sys_stat(const char *path, struct shim_stat *out);
int sys_lstat(const char *path, struct shim_stat *out);
int sys_link(const char *from, const char *to);
int sys_unlink(const char *path);
int sys_rename(const char *from, const char *to);
int sys_chdir(const char *path);
int sys_flock(int fd, int operation);
int sys_fcntl_lock(int fd, int wait);           // exclusive, whole file
int sys_utimes(const char *path, int64_t seconds); // atime and mtime
unsigned sys_umask(unsigned mask);
int sys_nonblocking(int fd, int on);
int sys_close_on_exec(int fd, int on);
int sys_is_open(int fd);

// Directories: `shim_dir_next` gives the next name (valid until the next call), or
// NULL at the end or on error (then errno is not 0). "." and ".." are given too.
void *sys_opendir(const char *path);
const char *sys_readdir(void *dir);
void sys_closedir(void *dir);

// Processes ----------------------------------------------------------------------

int sys_pipe(int fds[2]);                        // close-on-exec
int sys_dup2(int from, int to);                  // `to` survives exec
int sys_fork(void);
int sys_execv(const char *path, const char *const *argv);  // no PATH search
int sys_execvp(const char *file, const char *const *argv); // PATH search
int sys_waitpid(int pid, int *status, int options);
int shim_wnohang(void);
int shim_exited(int status);      // 1 if the process ended by itself
int shim_exit_status(int status);
int shim_term_signal(int status);
int sys_kill(int pid, int signal);
int sys_getpid(void);
unsigned sys_getuid(void);
unsigned sys_geteuid(void);
unsigned sys_getgid(void);
int sys_setuid(unsigned uid);
int sys_setgid(unsigned gid);
int sys_setgroups(const unsigned *gids, int count);

// Signals ------------------------------------------------------------------------

int sys_ignore(int signal);
int sys_default(int signal);
int sys_unblock_all(void);
int sys_signalfd(const int *signals, int count);  // blocks them too; non-blocking, close-on-exec
int sys_signalfd_take(int fd);                    // next signal number, 0 if none, -1 on error
int sys_exit_on(int signal, int status);          // the handler calls _exit(status)
// The same, but first the handler unlinks `path` and writes `text` to descriptor 2; either may be "". One signal
// per process; both are copied.
int sys_last_act_on(int signal, int status, const char *path, const char *text);
unsigned sys_alarm(unsigned seconds);

// Time -----------------------------------------------------------------------------

int64_t sys_time(void);                            // seconds since 1970
int64_t sys_time_microseconds(void);
int64_t sys_time_nanoseconds(void);
int64_t sys_monotonic_milliseconds(void);
int sys_sleep_milliseconds(int64_t milliseconds);
int sys_getrandom(void *buffer, size_t size);
int sys_gethostname(char *buffer, size_t size);

// Waiting ----------------------------------------------------------------------------

int sys_poll(struct pollfd *fds, unsigned count, int milliseconds);

// Sockets: addresses are text, "192.0.2.1" or "2001:db8::1" -------------------------

int sys_listen_tcp(const char *address, unsigned port, int backlog);
// Accepts; writes the peer's and the own address (INET6_ADDRSTRLEN bytes each) and ports.
int sys_accept_tcp(int fd, char *peer, unsigned *peer_port, char *local, unsigned *local_port);
// Starts a non-blocking connect; 0 when connected at once, -1 with errno EINPROGRESS when under way.
int sys_socket_tcp(const char *address);           // non-blocking, close-on-exec
int sys_connect_tcp(int fd, const char *address, unsigned port);
int sys_socket_error(int fd);                      // SO_ERROR: 0 or an errno
// 1 if `address` is one of this machine's (interfaces that are up, 0.0.0.0, 127/8, ::, ::1).
int sys_is_own_address(const char *address);
int shim_is_address(const char *text);             // 4, 6 or 0

#endif
