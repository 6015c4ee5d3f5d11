#include "runner/process_memory.h"

#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

process_memory process_memory_read(void) {
  process_memory memory = {0};
  char line[512];
  FILE *file = fopen("/proc/self/status", "re");
  while (file && fgets(line, sizeof line, file)) {
    unsigned long long kb;
    if (sscanf(line, "VmHWM: %llu", &kb) == 1) memory.peak_rss_bytes = kb * 1024;
    if (sscanf(line, "RssAnon: %llu", &kb) == 1) memory.anonymous_bytes = kb * 1024;
    if (sscanf(line, "RssFile: %llu", &kb) == 1) memory.file_bytes = kb * 1024;
    if (sscanf(line, "VmSwap: %llu", &kb) == 1) memory.swap_bytes = kb * 1024;
  }
  if (file) fclose(file);
  file = fopen("/proc/self/stat", "re");
  if (file && fgets(line, sizeof line, file)) {
    /* The name, in parentheses, may hold anything; majflt is the tenth field after it counted from the state. */
    const char *rest = strrchr(line, ')');
    unsigned long long faults;
    if (rest && sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %llu", &faults) == 1)
      memory.major_faults = faults;
  }
  if (file) fclose(file);
  return memory;
}

uint64_t process_program_bytes(void) {
  /* The program headers, where the kernel has put them: an address that it gives as a number. */
  const ElfW(Phdr) *headers = (const ElfW(Phdr) *)getauxval(AT_PHDR);
  const unsigned long count = headers ? getauxval(AT_PHNUM) : 0;
  uint64_t bytes = 0;
  for (unsigned long i = 0; i < count; i++)
    if (headers[i].p_type == PT_LOAD) bytes += headers[i].p_filesz;
  return bytes;
}
