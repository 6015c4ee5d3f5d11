/* mobile-watch: runs a command on the device and says what it costs; or takes memory away from it (hog). */
#include "watch/hog.h"
#include "watch/options.h"
#include "watch/watch.h"

int main(int argc, char **argv) {
  watch_options options;
  const int code = watch_options_parse(argc, argv, &options);
  if (code >= 0) return code;
  return options.hog ? hog_run(options.anon_bytes, options.hold_seconds) : watch_run(&options);
}
