#include "CResolver.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdlib.h>
#include <string.h>

static struct __res_state state;
static int own_servers;

int resolver_begin(void) { return res_ninit(&state); }

int resolver_add_server(const char *address, unsigned port) {
  struct in_addr four;
  struct in6_addr six;
  int n = own_servers;
  if (n == MAXNS || port == 0 || port > 65535) return -1;
  if (inet_pton(AF_INET, address, &four) == 1) {
    struct sockaddr_in *server = &state.nsaddr_list[n];
    memset(server, 0, sizeof *server);
    server->sin_family = AF_INET;
    server->sin_addr = four;
    server->sin_port = htons(port);
  } else if (inet_pton(AF_INET6, address, &six) == 1) {
    // An IPv6 server stands in the extension; a family of 0 in the list points there.
    struct sockaddr_in6 *server = state._u._ext.nsaddrs[n];
    if (!server) server = malloc(sizeof *server);
    if (!server) return -1;
    memset(server, 0, sizeof *server);
    server->sin6_family = AF_INET6;
    server->sin6_addr = six;
    server->sin6_port = htons(port);
    state._u._ext.nsaddrs[n] = server;
    state.nsaddr_list[n].sin_family = 0;
  } else {
    return -1;
  }
  state._u._ext.nscount = 0;  // the library's own copy of the list is out of date
  state.nscount = ++own_servers;
  return 0;
}

long resolver_ask(const unsigned char *question, size_t length, unsigned char *answer, size_t size) {
  return res_nsend(&state, question, (int)length, answer, (int)size);
}
