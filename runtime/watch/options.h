/* mobile-watch's command line. */
#ifndef MB_WATCH_OPTIONS_H
#define MB_WATCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
  bool hog;             /* mobile-watch hog: take memory instead of watching */
  uint64_t anon_bytes;  /* hog: bytes to take */
  double hold_seconds;  /* hog: 0 is without end */
  double interval;      /* seconds between samples */
  double timeout;       /* seconds, 0 is none */
  const char *files[3]; /* the command's standard input, output, error; NULL: see options.c */
  bool drop_caches;
  char **command; /* ends with NULL */
} watch_options;

/* Returns -1 to go on, else the exit code (0 after --help and --version, 2 after bad usage, with the line printed). */
int watch_options_parse(int argc, char **argv, watch_options *options);

#endif
