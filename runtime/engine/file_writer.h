/* A file that appears whole or not at all: written under a temporary name beside its own, synced, renamed.
 *
 * The temporary file is locked while it is being written; the kernel lets go of the lock with the process, which tells
 * what a killed writer left (removed by the next one) from what a running one writes. Its pages are handed to the disk
 * and dropped as it grows, so that the memory which holds them does not grow with it. */
#ifndef MB_ENGINE_FILE_WRITER_H
#define MB_ENGINE_FILE_WRITER_H

#include "engine/weights_cache.h"

/* What a file is written for, and what its messages say. */
typedef struct {
  const char *task;      /* "installing the bundle": what needs the space */
  const char *no_space;  /* what to do where there is too little */
  const char *wish;      /* "the bundle must be installed": where its folder cannot be written */
  const char *no_access; /* what to do then */
  const char *no_folder; /* what to do where there is no such folder */
  uint32_t mode;         /* permissions of the file */
  bool read_soon;        /* its pages stay in memory; else they are dropped, and read again in large pieces */
} mb_file_purpose;

typedef struct {
  const mb_file_purpose *purpose;
  char path[MB_PATH_BYTES];
  char partial[MB_PATH_BYTES];
  int fd;
  uint8_t *buffer;
  size_t buffered;
  uint64_t offset;  /* of the buffer's first byte in the file */
  uint64_t started; /* up to here the disk has been asked to write */
  uint64_t synced;  /* up to here it has written, and the pages are dropped */
} mb_file_writer;

/* Reserves `bytes` on the disk. Where that fails the message says how many are needed and how many are free. */
mb_status mb_file_writer_open(const char *path, const mb_file_purpose *purpose, uint64_t bytes, mb_file_writer *writer);
/* Goes on at `offset`, not before the end of what was appended. Gaps are zero. */
mb_status mb_file_writer_seek(mb_file_writer *writer, uint64_t offset);
mb_status mb_file_writer_append(mb_file_writer *writer, const void *data, size_t bytes);
/* Writes the file's head and gives the file its name. */
mb_status mb_file_writer_finish(mb_file_writer *writer, const void *head, size_t head_bytes);
/* Removes the temporary file unless it was finished; frees what is held. */
void mb_file_writer_close(mb_file_writer *writer);

#endif
