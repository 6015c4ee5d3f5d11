#include "watch/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "watch/child.h"
#include "watch/events.h"
#include "watch/sampler.h"

/* Seconds that a command has between TERM and KILL when its time is over. */
static const double grace = 2;

/* A detail costs a walk over all pages: it comes this late first, and then takes at most 1 % of the time. */
static const double detail_first = 0.25, detail_pause = 1, detail_share = 0.01;

typedef struct {
  const watch_options *options;
  pid_t pid;
  double started, next_sample, next_detail, kill_at; /* kill_at: 0 until the time is over */
  bool broken;                                       /* standard output is gone: watch on, print nothing */
  exit_report report;
} watch;

static bool drop_caches(void) {
  sync(); /* a dirty page cannot be dropped */
  const int file = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool done = write(file, "3", 1) == 1;
  close(file);
  return done;
}

/* Waits for one of the signals, at most `seconds`. Returns its number, or 0. */
static int wait_signal(const sigset_t *signals, double seconds) {
  if (seconds < 0) seconds = 0;
  const struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  const int got = sigtimedwait(signals, NULL, &t);
  return got > 0 ? got : 0;
}

static void take_sample(watch *w, const sampler *s, double now) {
  process_sample process;
  device_sample device;
  if (!sampler_read_process(s, &process)) return;
  sampler_read_device(s, &device);
  if (process.hwm_bytes > w->report.hwm_bytes) w->report.hwm_bytes = process.hwm_bytes;
  if (!w->broken) w->broken = !emit_sample(now - w->started, &process, &device);
}

static void take_detail(watch *w, const sampler *s, double now) {
  detail_sample detail;
  const bool there = sampler_read_detail(s, &detail);
  const double end = seconds_now(), cost = end - now;
  w->next_detail = end + (cost / detail_share > detail_pause ? cost / detail_share : detail_pause);
  if (there && !w->broken) w->broken = !emit_detail(now - w->started, &detail);
}

static double earlier(double a, double b) { return b > 0 && b < a ? b : a; }

/* One turn of the watch. Returns true when the command has ended. */
static bool turn(watch *w, const sampler *s, const sigset_t *signals) {
  const double timeout = w->options->timeout;
  const double deadline = timeout > 0 && !w->report.timed_out ? w->started + timeout : 0;
  const double next = earlier(earlier(w->next_sample, deadline), w->kill_at);
  const int signal = wait_signal(signals, next - seconds_now());
  if (signal && signal != SIGCHLD) {
    /* Whoever started this program is gone: at once, and with all that the command has started. */
    w->report.interrupted = signal;
    child_signal(w->pid, SIGKILL);
  }
  if (child_reap(w->pid, &w->report.end)) return true;
  const double now = seconds_now();
  if (deadline > 0 && now >= deadline) {
    w->report.timed_out = true;
    w->kill_at = now + grace;
    child_signal(w->pid, SIGTERM);
    child_signal(w->pid, SIGCONT); /* a stopped process gets its TERM only then */
  } else if (w->kill_at > 0 && now >= w->kill_at) {
    w->kill_at = 0;
    child_signal(w->pid, SIGKILL);
  }
  if (now >= w->next_sample) {
    take_sample(w, s, now);
    if (now >= w->next_detail) take_detail(w, s, now);
    w->next_sample += w->options->interval;
    if (w->next_sample < seconds_now()) w->next_sample = seconds_now() + w->options->interval;
  }
  return false;
}

/* Blocks the signals that the watch waits for. *before: the mask as it was, which is the command's. */
static void take_signals(sigset_t *signals, sigset_t *before) {
  sigemptyset(signals);
  sigaddset(signals, SIGCHLD);
  sigaddset(signals, SIGTERM);
  sigaddset(signals, SIGINT);
  struct sigaction hangup;
  sigaction(SIGHUP, NULL, &hangup);
  if (hangup.sa_handler != SIG_IGN) {
    /* adbd hangs up on the shell alone, which dies of it without a word to its children: ask to be told. Under nohup
     * the command is meant to go on. */
    sigaddset(signals, SIGHUP);
    prctl(PR_SET_PDEATHSIG, SIGHUP);
  }
  sigprocmask(SIG_BLOCK, signals, before);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_DFL); /* if inherited as ignored, there would be no end to wait for */
}

int watch_run(const watch_options *options) {
  sigset_t signals, before;
  take_signals(&signals, &before);
  bool dropped = false;
  if (options->drop_caches) dropped = drop_caches();
  watch w = {.options = options, .started = seconds_now()};
  const char *what;
  const int error = child_start(options->command, options->files, &before, &w.pid, &what);
  if (error) return emit_not_started(what, error) ? 0 : 1;
  w.broken = !emit_start(w.pid, options->interval, options->drop_caches ? &dropped : NULL);
  w.next_sample = w.started;
  w.next_detail = w.started + detail_first;
  sampler s;
  sampler_open(&s, w.pid);
  while (!turn(&w, &s, &signals)) continue;
  sampler_close(&s);
  w.report.seconds = seconds_now() - w.started;
  if (!w.broken) w.broken = !emit_exit(&w.report);
  if (w.report.interrupted) return 128 + w.report.interrupted;
  return w.broken ? 1 : 0;
}
