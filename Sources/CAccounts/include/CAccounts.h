// CAccounts: the accounts of this machine, through the name service (passwd, LDAP, ...).
//
// For getpw alone: whoever calls this needs a dynamic link, because the name service loads plug-ins.
#ifndef CACCOUNTS_H
#define CACCOUNTS_H

#include <stdint.h>

struct account {
  uint32_t uid, gid;
  const char *name, *home; // valid until the next call
};

// Both return 0 and fill `out`, or -1 if there is no such account (errno 0) or the question
// could not be answered (errno says why; some services also leave ENOENT or ESRCH for "no").
int account_by_name(const char *name, struct account *out);
int account_by_uid(uint32_t uid, struct account *out);

#endif
