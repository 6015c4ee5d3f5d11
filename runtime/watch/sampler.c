#include "watch/sampler.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_read(const char *path) { return open(path, O_RDONLY | O_CLOEXEC); }

static int open_of(pid_t pid, const char *name) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
  return open_read(path);
}

void sampler_open(sampler *s, pid_t pid) {
  *s = (sampler){.pid = pid,
                 .status = open_of(pid, "status"),
                 .stat = open_of(pid, "stat"),
                 .meminfo = open_read("/proc/meminfo"),
                 .vmstat = open_read("/proc/vmstat"),
                 .pressure = open_read("/proc/pressure/memory")};
}

void sampler_close(sampler *s) {
  const int files[] = {s->status, s->stat, s->meminfo, s->vmstat, s->pressure};
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
    if (files[i] >= 0) close(files[i]);
  }
}

typedef struct {
  char bytes[16384]; /* vmstat is the longest, some 5 KB */
  size_t length;     /* a zero follows */
} file_text;

/* Reads a file from its start; the text is empty where that fails. */
static void read_text(int file, file_text *text) {
  text->length = 0;
  while (file >= 0 && text->length < sizeof text->bytes - 1) {
    const ssize_t got =
        pread(file, text->bytes + text->length, sizeof text->bytes - 1 - text->length, (off_t)text->length);
    if (got <= 0) break;
    text->length += (size_t)got;
  }
  text->bytes[text->length] = 0;
}

/* The number that follows name at the start of a line. */
static bool field(const file_text *text, const char *name, uint64_t *value) {
  const size_t length = strlen(name);
  const char *end = text->bytes + text->length;
  /* memchr, not strchr: zig's measures the rest of the text each time, which took four fifths of a sample's time. */
  for (const char *at = text->bytes; at && at < end; at = memchr(at, '\n', (size_t)(end - at))) {
    if (*at == '\n') at++;
    if (strncmp(at, name, length) == 0) {
      *value = strtoull(at + length, NULL, 10);
      return true;
    }
  }
  return false;
}

static bool kilobytes(const file_text *text, const char *name, uint64_t *bytes) {
  if (!field(text, name, bytes)) return false;
  *bytes *= 1024;
  return true;
}

bool sampler_read_process(const sampler *s, process_sample *sample) {
  file_text text;
  *sample = (process_sample){0};
  read_text(s->status, &text);
  if (!kilobytes(&text, "VmHWM:", &sample->hwm_bytes)) return false;
  kilobytes(&text, "VmRSS:", &sample->rss_bytes);
  kilobytes(&text, "RssAnon:", &sample->anon_bytes);
  kilobytes(&text, "RssFile:", &sample->file_bytes);
  kilobytes(&text, "VmSwap:", &sample->swap_bytes);
  read_text(s->stat, &text);
  /* The name, in parentheses, may hold anything; what follows is state and numbers. */
  const char *rest = strrchr(text.bytes, ')');
  unsigned long long minor, major, user, system;
  if (!rest ||
      sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %llu %*u %llu %*u %llu %llu", &minor, &major, &user, &system) != 4)
    return false;
  const double tick = 1.0 / (double)sysconf(_SC_CLK_TCK);
  sample->minor_faults = minor;
  sample->major_faults = major;
  sample->user_seconds = (double)user * tick;
  sample->system_seconds = (double)system * tick;
  return true;
}

void sampler_read_device(const sampler *s, device_sample *sample) {
  file_text text;
  *sample = (device_sample){0};
  read_text(s->meminfo, &text);
  sample->has_memory = kilobytes(&text, "MemAvailable:", &sample->available_bytes) &&
                       kilobytes(&text, "SwapFree:", &sample->swap_free_bytes);
  read_text(s->vmstat, &text);
  /* Before Linux 5.9 there was one counter for both kinds of pages. */
  sample->has_vmstat = field(&text, "pgmajfault ", &sample->major_faults) &&
                       (field(&text, "workingset_refault_file ", &sample->refault_file) ||
                        field(&text, "workingset_refault ", &sample->refault_file));
  read_text(s->pressure, &text);
  const char *full = strstr(text.bytes, "full avg10=");
  sample->has_pressure = full && sscanf(text.bytes, "some avg10=%lf", &sample->pressure_some10) == 1 &&
                         sscanf(full, "full avg10=%lf", &sample->pressure_full10) == 1;
}

bool sampler_read_detail(const sampler *s, detail_sample *sample) {
  file_text text;
  /* Opened each time: an open smaps_rollup stays with the memory that an exec has replaced. */
  const int file = open_of(s->pid, "smaps_rollup");
  read_text(file, &text);
  if (file >= 0) close(file);
  *sample = (detail_sample){0};
  kilobytes(&text, "Private_Dirty:", &sample->private_dirty_bytes);
  kilobytes(&text, "SwapPss:", &sample->swap_pss_bytes);
  return kilobytes(&text, "Pss:", &sample->pss_bytes);
}
