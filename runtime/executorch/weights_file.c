#include "executorch/weights_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mapped_file.h"

enum { SEGMENT_BASE_AT = 8 + 24 /* of FlatTensor's fixed header (weights_index.h) */ };

/* Whether the file's first segment is this index: it holds the checksum of every tensor, so it stands for them all. */
static bool holds(const char *path, const void *index, size_t bytes) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return false;
  struct stat st;
  uint64_t base;
  bool same = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
              pread(fd, &base, sizeof base, SEGMENT_BASE_AT) == (ssize_t)sizeof base && base <= (uint64_t)st.st_size &&
              bytes <= (uint64_t)st.st_size - base;
  char buffer[4096];
  for (size_t done = 0; same && done < bytes;) {
    const size_t part = bytes - done < sizeof buffer ? bytes - done : sizeof buffer;
    same = pread(fd, buffer, part, (off_t)(base + done)) == (ssize_t)part &&
           memcmp(buffer, (const char *)index + done, part) == 0;
    done += part;
  }
  close(fd);
  return same;
}

bool weights_file_path(const void *index, size_t bytes, char *path, size_t capacity) {
  uint64_t offset;
  if (mb_mapped_file(index, bytes, path, capacity, &offset) && holds(path, index, bytes)) return true;
  DIR *open_files = opendir("/proc/self/fd");
  bool found = false;
  for (struct dirent *entry; open_files && !found && (entry = readdir(open_files));) {
    char link[32];
    if (strlen(entry->d_name) > 16 || entry->d_name[0] == '.') continue;
    snprintf(link, sizeof link, "/proc/self/fd/%s", entry->d_name);
    const ssize_t length = readlink(link, path, capacity - 1);
    if (length <= 0) continue;
    path[length] = 0;
    found = path[0] == '/' && holds(path, index, bytes);
  }
  if (open_files) closedir(open_files);
  return found;
}
