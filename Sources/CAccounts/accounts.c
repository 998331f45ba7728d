// Asking the name service (CAccounts.h).
#define _GNU_SOURCE
#include "CAccounts.h"

#include <errno.h>
#include <pwd.h>
#include <stddef.h>
#include <stdlib.h>

// An entry that needs more room than this is taken for trouble.
#define LARGEST_ENTRY (1 << 20)

static int ask(const char *name, uint32_t uid, struct account *out) {
  static char *room;
  static struct passwd entry;
  for (size_t size = 4096; size <= LARGEST_ENTRY; size *= 2) {
    struct passwd *found = NULL;
    free(room);
    room = malloc(size);
    if (!room) return -1; // errno is ENOMEM
    int code = name ? getpwnam_r(name, &entry, room, size, &found) : getpwuid_r(uid, &entry, room, size, &found);
    if (code == ERANGE) continue;
    errno = code;
    if (!found) return -1;
    out->uid = entry.pw_uid;
    out->gid = entry.pw_gid;
    out->name = entry.pw_name;
    out->home = entry.pw_dir;
    return 0;
  }
  errno = ENOMEM;
  return -1;
}

int account_by_name(const char *name, struct account *out) { return ask(name, 0, out); }
int account_by_uid(uint32_t uid, struct account *out) { return ask(NULL, uid, out); }
