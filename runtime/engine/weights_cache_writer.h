/* A file that appears whole or not at all: written under a temporary name beside its own, synced, renamed.
 *
 * The temporary file is locked while it is being written; the kernel lets go of the lock with the process, which tells
 * what a killed writer left (removed by the next one) from what a running one writes. Its pages are handed to the disk
 * and dropped as it grows, so that the memory which holds them does not grow with it. */
#ifndef MB_ENGINE_WEIGHTS_CACHE_WRITER_H
#define MB_ENGINE_WEIGHTS_CACHE_WRITER_H

#include "engine/weights_cache.h"

typedef struct {
  char path[MB_PATH_BYTES];
  char partial[MB_PATH_BYTES];
  int fd;
  uint8_t *buffer;
  size_t buffered;
  uint64_t offset;  /* of the buffer's first byte in the file */
  uint64_t started; /* up to here the disk has been asked to write */
  uint64_t synced;  /* up to here it has written, and the pages are dropped */
} mb_weights_cache_writer;

/* Reserves `bytes` on the disk. Where that fails the message says how many are needed and how many are free. */
mb_status mb_weights_cache_writer_open(const char *path, uint64_t bytes, mb_weights_cache_writer *writer);
/* Goes on at `offset`, not before the end of what was appended. Gaps are zero. */
mb_status mb_weights_cache_writer_seek(mb_weights_cache_writer *writer, uint64_t offset);
mb_status mb_weights_cache_writer_append(mb_weights_cache_writer *writer, const void *data, size_t bytes);
/* Writes the file's head and gives the file its name. */
mb_status mb_weights_cache_writer_finish(mb_weights_cache_writer *writer, const void *head, size_t head_bytes);
/* Removes the temporary file unless it was finished; frees what is held. */
void mb_weights_cache_writer_close(mb_weights_cache_writer *writer);

#endif
