#include "watch/events.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/json_line.h"
#include "base/one_line.h"

bool emit_start(pid_t pid, double interval, const bool *caches) {
  json_line l;
  json_line_begin(&l, "start");
  json_line_integer(&l, "pid", pid);
  json_line_number(&l, "interval", interval, 4);
  if (caches) json_line_boolean(&l, "caches_dropped", *caches);
  return json_line_end(&l);
}

bool emit_sample(double t, const process_sample *p, const device_sample *d) {
  json_line l;
  json_line_begin(&l, "sample");
  json_line_number(&l, "t", t, 4);
  json_line_integer(&l, "rss_bytes", p->rss_bytes);
  json_line_integer(&l, "anon_bytes", p->anon_bytes);
  json_line_integer(&l, "file_bytes", p->file_bytes);
  json_line_integer(&l, "swap_bytes", p->swap_bytes);
  json_line_integer(&l, "hwm_bytes", p->hwm_bytes);
  json_line_integer(&l, "major_faults", p->major_faults);
  json_line_integer(&l, "minor_faults", p->minor_faults);
  json_line_number(&l, "utime", p->user_seconds, 2);
  json_line_number(&l, "stime", p->system_seconds, 2);
  if (d->has_memory) {
    json_line_integer(&l, "available_bytes", d->available_bytes);
    json_line_integer(&l, "swap_free_bytes", d->swap_free_bytes);
  }
  if (d->has_pressure) {
    json_line_number(&l, "psi_some_avg10", d->pressure_some10, 2);
    json_line_number(&l, "psi_full_avg10", d->pressure_full10, 2);
  }
  if (d->has_vmstat) {
    json_line_integer(&l, "refault_file", d->refault_file);
    json_line_integer(&l, "pgmajfault", d->major_faults);
  }
  return json_line_end(&l);
}

bool emit_detail(double t, const detail_sample *detail) {
  json_line l;
  json_line_begin(&l, "detail");
  json_line_number(&l, "t", t, 4);
  json_line_integer(&l, "pss_bytes", detail->pss_bytes);
  json_line_integer(&l, "private_dirty_bytes", detail->private_dirty_bytes);
  json_line_integer(&l, "swap_pss_bytes", detail->swap_pss_bytes);
  return json_line_end(&l);
}

static double seconds_of(struct timeval t) { return (double)t.tv_sec + 1e-6 * (double)t.tv_usec; }

bool emit_exit(const exit_report *r) {
  const int status = r->end.status;
  json_line l;
  json_line_begin(&l, "exit");
  if (WIFSIGNALED(status)) {
    json_line_integer(&l, "signal", WTERMSIG(status));
  } else {
    json_line_integer(&l, "status", WEXITSTATUS(status));
  }
  json_line_integer(&l, "maxrss_bytes", (int64_t)r->end.usage.ru_maxrss * 1024);
  json_line_integer(&l, "hwm_bytes", r->hwm_bytes);
  json_line_integer(&l, "major_faults", r->end.usage.ru_majflt);
  json_line_number(&l, "user_seconds", seconds_of(r->end.usage.ru_utime), 6);
  json_line_number(&l, "system_seconds", seconds_of(r->end.usage.ru_stime), 6);
  json_line_number(&l, "seconds", r->seconds, 6);
  json_line_boolean(&l, "timed_out", r->timed_out);
  json_line_boolean(&l, "core", WIFSIGNALED(status) && WCOREDUMP(status));
  if (r->interrupted) json_line_integer(&l, "interrupted", r->interrupted);
  return json_line_end(&l);
}

bool emit_not_started(const char *what, int error) {
  char reason[8192]; /* a path and some words; mb_one_line cuts what is long */
  char shown[MB_ONE_LINE_BYTES];
  snprintf(reason, sizeof reason, "%s: %s", what, strerror(error));
  mb_one_line(reason, strlen(reason), shown);
  json_line l;
  json_line_begin(&l, "exit");
  json_line_integer(&l, "status", 127);
  json_line_text(&l, "reason", shown, strlen(shown));
  return json_line_end(&l);
}

bool emit_holding(pid_t pid, uint64_t bytes) {
  json_line l;
  json_line_begin(&l, "holding");
  json_line_integer(&l, "pid", pid);
  json_line_integer(&l, "anon_bytes", bytes);
  return json_line_end(&l);
}
