#include "watch/child.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
  int error;
  const char *what; /* a literal: the child has the parent's address space */
} failure;

static _Noreturn void fail(int report, const char *what) {
  const failure f = {errno, what};
  const ssize_t written = write(report, &f, sizeof f);
  (void)written;
  _exit(127);
}

static void redirect(int report, const char *const files[3]) {
  static const char *const names[] = {"standard input", "standard output", "standard error"};
  static const int flags[] = {O_RDONLY, O_WRONLY | O_CREAT | O_TRUNC, O_WRONLY | O_CREAT | O_TRUNC};
  if (!files[STDOUT_FILENO] && dup2(STDERR_FILENO, STDOUT_FILENO) < 0) fail(report, names[STDOUT_FILENO]);
  for (int i = 0; i < 3; i++) {
    if (!files[i]) continue;
    const int file = open(files[i], flags[i] | O_CLOEXEC, 0644);
    if (file < 0 || dup2(file, i) < 0) fail(report, names[i]);
  }
}

static _Noreturn void become(char **command, const char *const files[3], const sigset_t *mask, pid_t watcher,
                             int report) {
  setpgid(0, 0);
  /* Even a watcher killed by SIGKILL takes the command with it. */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != watcher) _exit(127);
  redirect(report, files);
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, mask, NULL);
  execvp(command[0], command);
  fail(report, command[0]);
}

int child_start(char **command, const char *const files[3], const sigset_t *mask, pid_t *pid, const char **what) {
  int report[2];
  *what = "starting a process";
  if (pipe2(report, O_CLOEXEC) != 0) return errno;
  const pid_t watcher = getpid();
  *pid = fork();
  if (*pid < 0) return errno;
  if (*pid == 0) become(command, files, mask, watcher, report[1]);
  setpgid(*pid, *pid); /* here as well: whoever comes first, the group exists before anything is sent to it */
  close(report[1]);
  failure f = {0, NULL};
  ssize_t got;
  do got = read(report[0], &f, sizeof f);
  while (got < 0 && errno == EINTR);
  close(report[0]);
  if (got != (ssize_t)sizeof f) return 0; /* the exec closed the pipe */
  waitpid(*pid, NULL, 0);
  *what = f.what;
  return f.error;
}

void child_signal(pid_t pid, int signal) { kill(-pid, signal); }

int child_reap(pid_t pid, child_end *end) {
  siginfo_t info = {0};
  if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != pid) return 0;
  child_signal(pid, SIGKILL);
  return wait4(pid, &end->status, 0, &end->usage) == pid;
}
