/* The command that is watched: one process group, which never outlives the watcher. */
#ifndef MB_WATCH_CHILD_H
#define MB_WATCH_CHILD_H

#include <signal.h>
#include <sys/resource.h>
#include <sys/types.h>

typedef struct {
  int status; /* as wait gives it */
  struct rusage usage;
} child_end;

/* Starts the command as leader of a new process group, with `mask` as its blocked signals. files: paths of standard
 * input, output and error; NULL keeps this program's (standard output then goes to standard error).
 * Returns 0 once it runs; else the errno, with *what naming the step that failed. */
int child_start(char **command, const char *const files[3], const sigset_t *mask, pid_t *pid, const char **what);

/* Sends a signal to the whole group; only before child_reap, while the number cannot belong to another one. */
void child_signal(pid_t pid, int signal);

/* Returns 1 once the command has ended; what it left in its group is then killed and *end is filled. Else 0. */
int child_reap(pid_t pid, child_end *end);

#endif
