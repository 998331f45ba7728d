// spawn: how long it takes to start a program and see it end.
//
// Usage: spawn ROUNDS PROGRAM...
// Starts the programs in turn, ROUNDS times over (so that a slow moment of the machine hits all alike), with
// descriptors 0, 1 and 2 on /dev/null and an empty environment, one at a time. Prints one line for each:
// PROGRAM, and the median in microseconds from posix_spawn to wait4.
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
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
  if (!times) return 111;

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  for (int fd = 0; fd < 3; fd++) posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);

  for (int round = 0; round < rounds; round++)
    for (int p = 0; p < programs; p++) {
      char *arguments[] = {argv[p + 2], NULL}, *environment[] = {NULL};
      pid_t pid;
      int status;
      double start = microseconds();
      if (posix_spawn(&pid, argv[p + 2], &files, NULL, arguments, environment) != 0 ||
          waitpid(pid, &status, 0) != pid)
        return fprintf(stderr, "spawn: cannot run %s\n", argv[p + 2]), 111;
      times[(size_t)p * rounds + round] = microseconds() - start;
    }

  for (int p = 0; p < programs; p++) {
    double *own = times + (size_t)p * rounds;
    qsort(own, rounds, sizeof *own, ascending);
    printf("%s %.1f\n", argv[p + 2], own[rounds / 2]);
  }
  return 0;
}
