/* What /proc says of one process and of the whole device. Files stay open and are read anew; nothing is allocated. */
#ifndef MB_WATCH_SAMPLER_H
#define MB_WATCH_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct {
  pid_t pid;
  int status, stat;              /* /proc/PID/{status,stat} */
  int meminfo, vmstat, pressure; /* /proc/{meminfo,vmstat,pressure/memory}; below 0 where it cannot be read */
} sampler;

typedef struct {
  uint64_t rss_bytes, anon_bytes, file_bytes, swap_bytes, hwm_bytes;
  uint64_t major_faults, minor_faults; /* of the process, its threads together */
  double user_seconds, system_seconds;
} process_sample;

typedef struct {
  bool has_memory, has_vmstat, has_pressure; /* which of the lines below are filled */
  uint64_t available_bytes, swap_free_bytes;
  uint64_t refault_file, major_faults;     /* pages since the device started */
  double pressure_some10, pressure_full10; /* percent of the last ten seconds */
} device_sample;

typedef struct {
  uint64_t pss_bytes, private_dirty_bytes, swap_pss_bytes;
} detail_sample;

/* Opens the files of a running process. */
void sampler_open(sampler *s, pid_t pid);
void sampler_close(sampler *s);
/* False once the process has ended (a zombie has no memory left to read). */
bool sampler_read_process(const sampler *s, process_sample *sample);
void sampler_read_device(const sampler *s, device_sample *sample);
/* Reads smaps_rollup, which walks every page of the process: rarely. False where it cannot be read. */
bool sampler_read_detail(const sampler *s, detail_sample *sample);

#endif
