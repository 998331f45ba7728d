// CResolver: glibc's resolver library as far as remote needs it: to send a question and get the answer's bytes.
//
// Choosing servers, retries, matching answers to questions and TCP for truncated answers are the library's; questions are
// made and answers are read in Swift, within limits.
#ifndef CRESOLVER_H
#define CRESOLVER_H

#include <stddef.h>

// Reads resolv.conf (and $RES_OPTIONS). 0, or -1 with errno.
int resolver_begin(void);
// Asks this server instead of those of resolv.conf; each call adds one, at most three. 0, or -1 if it is no address or
// one too many.
int resolver_add_server(const char *address, unsigned port);
// Length of the answer, or -1 if no server gave one.
long resolver_ask(const unsigned char *question, size_t length, unsigned char *answer, size_t size);

#endif
