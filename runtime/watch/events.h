/* The events of mobile-watch: which field has which name. False when standard output is broken. */
#ifndef MB_WATCH_EVENTS_H
#define MB_WATCH_EVENTS_H

#include "watch/child.h"
#include "watch/sampler.h"

typedef struct {
  child_end end;
  uint64_t hwm_bytes;    /* the highest VmHWM that a sample saw */
  uint64_t major_faults; /* of the command and the children that it waited for */
  double seconds;        /* from start to end */
  bool timed_out;
  int interrupted; /* the signal that ended mobile-watch, or 0 */
} exit_report;

/* caches: whether the page cache was dropped, or NULL where nobody asked. */
bool emit_start(pid_t pid, double interval, const bool *caches);
bool emit_sample(double t, const process_sample *process, const device_sample *device);
bool emit_detail(double t, const detail_sample *detail);
bool emit_exit(const exit_report *report);
/* The exit of a command that could not be started: status 127 with the reason. */
bool emit_not_started(const char *what, int error);
/* Of hog: the memory is taken. */
bool emit_holding(pid_t pid, uint64_t bytes);

#endif
