#include "engine/file_writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"

enum { BUFFER_BYTES = 256 << 10, WINDOW_BYTES = 8 << 20, MOST_ATTEMPTS = 1000 };

static const char *file_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

/* The folder that `path` is in. */
static void folder_of(const char *path, char folder[MB_PATH_BYTES]) {
  const size_t bytes = (size_t)(file_name(path) - path); /* its last slash included */
  snprintf(folder, MB_PATH_BYTES, "%.*s", bytes > 1 ? (int)bytes - 1 : 1, bytes ? path : ".");
}

static mb_status write_failure(const mb_file_writer *w, int reason, uint64_t bytes) {
  const mb_file_purpose *purpose = w->purpose;
  char folder[MB_PATH_BYTES];
  folder_of(w->path, folder);
  switch (reason) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG: {
      struct statvfs disk;
      const unsigned long long available =
          statvfs(folder, &disk) == 0 ? (unsigned long long)disk.f_bavail * disk.f_frsize : 0;
      return mb_fail(MB_ERROR_IO, "%s needs %llu bytes in %s, %llu are free there (%s): %s", purpose->task,
                     (unsigned long long)bytes, folder, available, strerror(reason), purpose->no_space);
    }
    case EACCES:
    case EPERM:
    case EROFS:
      return mb_fail(MB_ERROR_IO, "%s, and %s cannot be written (%s): %s", purpose->wish, folder, strerror(reason),
                     purpose->no_access);
    case ENOENT:
    case ENOTDIR:
      return mb_fail(MB_ERROR_IO, "%s: no such folder: %s", folder, purpose->no_folder);
    default:
      return mb_fail(MB_ERROR_IO, "%s: cannot be written: %s", w->path, strerror(reason));
  }
}

/* Removes what killed writers of the same file left. */
static void remove_stale(const char *path) {
  char folder[MB_PATH_BYTES], prefix[MB_PATH_BYTES];
  folder_of(path, folder);
  const int length = snprintf(prefix, sizeof prefix, ".%s.partial-", file_name(path));
  if (length < 0 || (size_t)length >= sizeof prefix) return;
  DIR *directory = opendir(folder);
  if (!directory) return;
  for (const struct dirent *entry; (entry = readdir(directory));) {
    if (strncmp(entry->d_name, prefix, (size_t)length) != 0) continue;
    const int fd = openat(dirfd(directory), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) continue;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) (void)unlinkat(dirfd(directory), entry->d_name, 0);
    close(fd);
  }
  closedir(directory);
}

/* A new locked file under a name that no other writer has. errno where it returns false. */
static bool create(mb_file_writer *w) {
  char folder[MB_PATH_BYTES];
  folder_of(w->path, folder);
  for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
    const int length = snprintf(w->partial, sizeof w->partial, "%s/.%s.partial-%ld-%d", folder, file_name(w->path),
                                (long)getpid(), attempt);
    if (length < 0 || (size_t)length >= sizeof w->partial) {
      errno = ENAMETOOLONG;
      return false;
    }
    w->fd = open(w->partial, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, (mode_t)w->purpose->mode);
    if (w->fd < 0 && errno == EEXIST) continue;
    if (w->fd < 0) return false;
    /* Another writer may have taken it for a dead one's before it was locked. A file system without locks has none that
     * could. */
    struct stat st;
    if ((flock(w->fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) && fstat(w->fd, &st) == 0 && st.st_nlink > 0)
      return true;
    close(w->fd);
    w->fd = -1;
  }
  errno = EEXIST;
  return false;
}

/* Has the disk set the whole size aside, so that a full one is noticed now. 0 or an errno. */
static int reserve(int fd, uint64_t bytes) {
  if (bytes > INT64_MAX) return EFBIG;
  if (fallocate(fd, 0, 0, (off_t)bytes) == 0) return 0;
  if (errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS) return errno;
  return ftruncate(fd, (off_t)bytes) == 0 ? 0 : errno;
}

mb_status mb_file_writer_open(const char *path, const mb_file_purpose *purpose, uint64_t bytes, mb_file_writer *w) {
  *w = (mb_file_writer){.fd = -1, .purpose = purpose};
  const int length = snprintf(w->path, sizeof w->path, "%s", path);
  if (length < 0 || (size_t)length >= sizeof w->path)
    return mb_fail(MB_ERROR_ARGUMENT, "%s: its path is too long", purpose->task);
  /* A rename would put the file in the place of a device or a pipe. */
  struct stat there;
  if (lstat(path, &there) == 0 && !S_ISREG(there.st_mode) && !S_ISLNK(there.st_mode))
    return mb_fail(MB_ERROR_IO, "%s: cannot be written: not a regular file", path);
  w->buffer = malloc(BUFFER_BYTES);
  if (!w->buffer) return mb_fail(MB_ERROR_MEMORY, "no memory for %s", purpose->task);
  remove_stale(path);
  if (!create(w)) return write_failure(w, errno, bytes);
  const int reason = reserve(w->fd, bytes);
  if (reason == 0) return MB_OK;
  mb_file_writer_close(w); /* first, so that the message counts the space that it had taken */
  return write_failure(w, reason, bytes);
}

static mb_status write_at(mb_file_writer *w, const uint8_t *data, size_t bytes, uint64_t offset) {
  while (bytes > 0) {
    const ssize_t done = pwrite(w->fd, data, bytes, (off_t)offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return write_failure(w, done < 0 ? errno : EIO, offset + bytes);
    data += done;
    bytes -= (size_t)done;
    offset += (uint64_t)done;
  }
  return MB_OK;
}

/* Starts writing one window to the disk while it waits for the one before and drops that one's pages. What fails here
 * fails in fsync, too, where it is told. */
static void push_window(mb_file_writer *w, uint64_t end) {
  (void)sync_file_range(w->fd, (off_t)w->started, (off_t)(end - w->started), SYNC_FILE_RANGE_WRITE);
  if (w->started > w->synced && !w->purpose->read_soon) {
    const off_t at = (off_t)w->synced, bytes = (off_t)(w->started - w->synced);
    (void)sync_file_range(w->fd, at, bytes,
                          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    (void)posix_fadvise(w->fd, at, bytes, POSIX_FADV_DONTNEED);
    w->synced = w->started;
  }
  w->started = end;
}

static mb_status flush(mb_file_writer *w) {
  mb_status status = write_at(w, w->buffer, w->buffered, w->offset);
  w->offset += w->buffered;
  w->buffered = 0;
  if (status == MB_OK && w->offset - w->started >= WINDOW_BYTES) push_window(w, w->offset);
  return status;
}

mb_status mb_file_writer_seek(mb_file_writer *w, uint64_t offset) {
  mb_status status = flush(w);
  w->offset = offset;
  return status;
}

mb_status mb_file_writer_append(mb_file_writer *w, const void *data, size_t bytes) {
  const uint8_t *from = data;
  while (bytes > 0) {
    const size_t room = BUFFER_BYTES - w->buffered, part = bytes < room ? bytes : room;
    memcpy(w->buffer + w->buffered, from, part);
    w->buffered += part;
    from += part;
    bytes -= part;
    if (w->buffered == BUFFER_BYTES) {
      mb_status status = flush(w);
      if (status != MB_OK) return status;
    }
  }
  return MB_OK;
}

mb_status mb_file_writer_finish(mb_file_writer *w, const void *head, size_t head_bytes) {
  mb_status status = flush(w);
  if (status == MB_OK) status = write_at(w, head, head_bytes, 0);
  if (status != MB_OK) return status;
  if (fsync(w->fd) != 0) return write_failure(w, errno, w->offset);
  /* Whoever maps it next gets pages as large as the file system can read, not as small as they were written. */
  if (!w->purpose->read_soon) (void)posix_fadvise(w->fd, 0, 0, POSIX_FADV_DONTNEED);
  if (rename(w->partial, w->path) != 0) return write_failure(w, errno, w->offset);
  w->partial[0] = 0;
  char folder[MB_PATH_BYTES];
  folder_of(w->path, folder);
  const int directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {
    (void)fsync(directory); /* some file systems cannot; the name is then as durable as they make it */
    close(directory);
  }
  return MB_OK;
}

void mb_file_writer_close(mb_file_writer *w) {
  if (w->fd >= 0) {
    if (w->partial[0]) (void)unlink(w->partial);
    close(w->fd);
    w->fd = -1;
  }
  free(w->buffer);
  w->buffer = NULL;
}
