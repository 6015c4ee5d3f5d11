#ifndef MB_WATCH_WATCH_H
#define MB_WATCH_WATCH_H

#include "watch/options.h"

/* Runs the command and reports it; returns mobile-watch's exit code. */
int watch_run(const watch_options *options);

#endif
