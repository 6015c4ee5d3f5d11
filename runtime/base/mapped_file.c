#include "base/mapped_file.h"

#include <stdio.h>
#include <string.h>

bool mb_mapped_file(const void *address, uint64_t bytes, char *path, size_t capacity, uint64_t *offset) {
  static const char deleted[] = " (deleted)";
  FILE *maps = fopen("/proc/self/maps", "re");
  if (!maps) return false;
  const uint64_t at = (uintptr_t)address;
  char line[4096 + 128];
  bool found = false, whole = true; /* whole: this buffer starts a line, not the rest of a longer one */
  while (!found && fgets(line, sizeof line, maps)) {
    const size_t length = strlen(line);
    const bool ends = length > 0 && line[length - 1] == '\n';
    unsigned long long begin, end, file_offset;
    int name = 0;
    if (whole && ends && sscanf(line, "%llx-%llx %*s %llx %*s %*s %n", &begin, &end, &file_offset, &name) == 3 &&
        at >= begin && at < end) {
      line[length - 1] = 0;
      const char *file = line + name;
      const size_t size = strlen(file);
      const bool gone = size >= sizeof deleted && strcmp(file + size - (sizeof deleted - 1), deleted) == 0;
      if (name == 0 || file[0] != '/' || gone || bytes > end - at || size >= capacity) break;
      memcpy(path, file, size + 1);
      *offset = file_offset + (at - begin);
      found = true;
    }
    whole = ends;
  }
  fclose(maps);
  return found;
}
