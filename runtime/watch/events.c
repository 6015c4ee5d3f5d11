#include "watch/events.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "watch/line.h"

bool emit_start(pid_t pid, double interval, const bool *caches) {
  line l;
  line_begin(&l, "start");
  line_integer(&l, "pid", (uint64_t)pid);
  line_number(&l, "interval", interval, 4);
  if (caches) line_boolean(&l, "caches_dropped", *caches);
  return line_send(&l);
}

bool emit_sample(double t, const process_sample *p, const device_sample *d) {
  line l;
  line_begin(&l, "sample");
  line_number(&l, "t", t, 4);
  line_integer(&l, "rss_bytes", p->rss_bytes);
  line_integer(&l, "anon_bytes", p->anon_bytes);
  line_integer(&l, "file_bytes", p->file_bytes);
  line_integer(&l, "swap_bytes", p->swap_bytes);
  line_integer(&l, "hwm_bytes", p->hwm_bytes);
  line_integer(&l, "major_faults", p->major_faults);
  line_integer(&l, "minor_faults", p->minor_faults);
  line_number(&l, "utime", p->user_seconds, 2);
  line_number(&l, "stime", p->system_seconds, 2);
  if (d->has_memory) {
    line_integer(&l, "available_bytes", d->available_bytes);
    line_integer(&l, "swap_free_bytes", d->swap_free_bytes);
  }
  if (d->has_pressure) {
    line_number(&l, "psi_some_avg10", d->pressure_some10, 2);
    line_number(&l, "psi_full_avg10", d->pressure_full10, 2);
  }
  if (d->has_vmstat) {
    line_integer(&l, "refault_file", d->refault_file);
    line_integer(&l, "pgmajfault", d->major_faults);
  }
  return line_send(&l);
}

bool emit_detail(double t, const detail_sample *detail) {
  line l;
  line_begin(&l, "detail");
  line_number(&l, "t", t, 4);
  line_integer(&l, "pss_bytes", detail->pss_bytes);
  line_integer(&l, "private_dirty_bytes", detail->private_dirty_bytes);
  line_integer(&l, "swap_pss_bytes", detail->swap_pss_bytes);
  return line_send(&l);
}

static double seconds_of(struct timeval t) { return (double)t.tv_sec + 1e-6 * (double)t.tv_usec; }

bool emit_exit(const exit_report *r) {
  const int status = r->end.status;
  line l;
  line_begin(&l, "exit");
  if (WIFSIGNALED(status)) {
    line_integer(&l, "signal", (uint64_t)WTERMSIG(status));
  } else {
    line_integer(&l, "status", (uint64_t)WEXITSTATUS(status));
  }
  line_integer(&l, "maxrss_bytes", (uint64_t)r->end.usage.ru_maxrss * 1024);
  line_integer(&l, "hwm_bytes", r->hwm_bytes);
  line_integer(&l, "major_faults", (uint64_t)r->end.usage.ru_majflt);
  line_number(&l, "user_seconds", seconds_of(r->end.usage.ru_utime), 6);
  line_number(&l, "system_seconds", seconds_of(r->end.usage.ru_stime), 6);
  line_number(&l, "seconds", r->seconds, 6);
  line_boolean(&l, "timed_out", r->timed_out);
  line_boolean(&l, "core", WIFSIGNALED(status) && WCOREDUMP(status));
  if (r->interrupted) line_integer(&l, "interrupted", (uint64_t)r->interrupted);
  return line_send(&l);
}

bool emit_not_started(const char *what, int error) {
  char reason[8192]; /* a path and some words; line_text cuts what is long */
  snprintf(reason, sizeof reason, "%s: %s", what, strerror(error));
  line l;
  line_begin(&l, "exit");
  line_integer(&l, "status", 127);
  line_text(&l, "reason", reason);
  return line_send(&l);
}
