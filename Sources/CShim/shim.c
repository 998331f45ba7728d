// Arguments, environment, errno and the installation record (CShim.h).
#define _GNU_SOURCE
#include "CShim.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int shim_errno(void) { return errno; }
const char *shim_strerror(int code) {
  const char *text = strerrordesc_np(code);
  return text ? text : "unknown error";
}

// glibc hands argc and argv to constructors, in static and dynamic programs alike.
static int argument_count;
static char **arguments;
__attribute__((constructor)) static void keep_arguments(int argc, char **argv) {
  argument_count = argc;
  arguments = argv;
}
int shim_argc(void) { return argument_count; }
const char *shim_argv(int index) { return index >= 0 && index < argument_count ? arguments[index] : NULL; }

const char *shim_getenv(const char *name) { return getenv(name); }
int shim_setenv(const char *name, const char *value) { return setenv(name, value, 1); }
int shim_unsetenv(const char *name) { return unsetenv(name); }
_Noreturn void shim_exit(int status) { _exit(status); }

// `make install` replaces the whole section with objcopy --update-section; volatile,
// because the compiler must not believe what stands here.
#define INSTALLATION_SIZE 1024
__attribute__((section(".apus.home"), used)) static volatile const char installation[INSTALLATION_SIZE] = "/var/apus";

const char *shim_installation(void) { return (const char *)installation; }
size_t shim_installation_size(void) { return INSTALLATION_SIZE; }
