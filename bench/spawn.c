// spawn: how long it takes to start a program and see it end.
//
// Usage: spawn ROUNDS PROGRAM...
// Starts the programs one at a time, each once a round in an order that changes from round to round, so that a slow
// moment of the machine, or what ran just before, hits all alike. They get no arguments, an empty environment,
// /dev/null on descriptors 0 to 2, and may open one more: a program that wants to begin its work fails at once.
// Prints one line for each: PROGRAM, and the median in microseconds from posix_spawn to the end of waitpid.
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static double microseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  int rounds = argc > 2 ? atoi(argv[1]) : 0, programs = argc - 2;
  if (rounds < 1) return fprintf(stderr, "usage: spawn ROUNDS PROGRAM...\n"), 100;
  double *times = calloc((size_t)rounds * programs, sizeof *times);
  int *order = calloc(programs, sizeof *order);
  if (!times || !order) return 111;
  for (int p = 0; p < programs; p++) order[p] = p;

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  for (int fd = 0; fd < 3; fd++) posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);

  struct rlimit few = {4, 4};
  setrlimit(RLIMIT_NOFILE, &few);

  srand(1);
  for (int round = 0; round < rounds; round++) {
    for (int i = programs - 1; i > 0; i--) {
      int j = rand() % (i + 1), kept = order[i];
      order[i] = order[j];
      order[j] = kept;
    }
    for (int i = 0; i < programs; i++) {
      int p = order[i];
      char *arguments[] = {argv[p + 2], NULL}, *environment[] = {NULL};
      pid_t pid;
      int status;
      double start = microseconds();
      if (posix_spawn(&pid, argv[p + 2], &files, NULL, arguments, environment) != 0 ||
          waitpid(pid, &status, 0) != pid)
        return fprintf(stderr, "spawn: cannot run %s\n", argv[p + 2]), 111;
      times[(size_t)p * rounds + round] = microseconds() - start;
    }
  }

  for (int p = 0; p < programs; p++) {
    double *own = times + (size_t)p * rounds;
    qsort(own, rounds, sizeof *own, ascending);
    printf("%s %.1f\n", argv[p + 2], own[rounds / 2]);
  }
  return 0;
}
