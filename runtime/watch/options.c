#include "watch/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/one_line.h"

static const char usage[] =
    "usage: mobile-watch [options] [--] COMMAND...\n"
    "       mobile-watch hog --anon-bytes N [--hold SECONDS]\n"
    "\n"
    "Runs COMMAND and prints what it costs as JSON lines: start, sample, detail, exit.\n"
    "  --interval MS     between samples (default 50)\n"
    "  --timeout S       end the command and what it started after S seconds: TERM, two seconds later KILL\n"
    "  --stdin FILE      the command's standard input (default: this one)\n"
    "  --stdout FILE     its standard output (default: this standard error; the events have standard output)\n"
    "  --stderr FILE     its standard error (default: this one)\n"
    "  --drop-caches     drop the kernel's page cache first, where that is allowed; the start event says whether\n"
    "\n"
    "hog takes N bytes of memory that no compression makes smaller, says holding, and gives them back when standard\n"
    "input closes or after --hold SECONDS.\n"
    "\n"
    "The exit code is 0 when the exit event tells how the command ended, whatever that is; 1 when standard output\n"
    "broke, 2 for bad usage, 128 + n when mobile-watch itself was ended by signal n and took the command with it.\n";

enum {
  OPTION_INTERVAL = 256,
  OPTION_TIMEOUT,
  OPTION_STDIN,
  OPTION_STDOUT,
  OPTION_STDERR,
  OPTION_DROP_CACHES,
  OPTION_ANON_BYTES,
  OPTION_HOLD,
  OPTION_HELP,
  OPTION_VERSION,
};

static const struct option watch_long_options[] = {
    {"interval", required_argument, NULL, OPTION_INTERVAL},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"stdin", required_argument, NULL, OPTION_STDIN},
    {"stdout", required_argument, NULL, OPTION_STDOUT},
    {"stderr", required_argument, NULL, OPTION_STDERR},
    {"drop-caches", no_argument, NULL, OPTION_DROP_CACHES},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {NULL, 0, NULL, 0},
};

static const struct option hog_long_options[] = {
    {"anon-bytes", required_argument, NULL, OPTION_ANON_BYTES},
    {"hold", required_argument, NULL, OPTION_HOLD},
    {NULL, 0, NULL, 0},
};

static int bad_usage(const char *what, const char *value) {
  char shown[MB_ONE_LINE_BYTES];
  if (value) mb_one_line(value, strlen(value), shown);
  fprintf(stderr, "mobile-watch: %s%s%s (mobile-watch --help)\n", what, value ? ": " : "", value ? shown : "");
  return 2;
}

static bool parse_seconds(const char *text, double unit, double *seconds) {
  char *end;
  const double value = strtod(text, &end);
  *seconds = value * unit;
  return end != text && *end == 0 && value > 0 && isfinite(value);
}

static bool parse_bytes(const char *text, uint64_t *bytes) {
  char *end;
  errno = 0;
  *bytes = strtoull(text, &end, 10);
  return text[0] >= '0' && text[0] <= '9' && *end == 0 && errno == 0 && *bytes > 0 && *bytes <= SIZE_MAX / 2;
}

int watch_options_parse(int argc, char **argv, watch_options *options) {
  *options = (watch_options){.interval = 0.05};
  options->hog = argc > 1 && strcmp(argv[1], "hog") == 0;
  if (options->hog) argc--, argv++;
  opterr = 0;
  int option;
  /* "+": from the first word that is not an option, everything belongs to the command. */
  while ((option = getopt_long(argc, argv, "+", options->hog ? hog_long_options : watch_long_options, NULL)) != -1) {
    switch (option) {
      case OPTION_INTERVAL:
        if (!parse_seconds(optarg, 1e-3, &options->interval) || options->interval < 1e-3)
          return bad_usage("--interval needs a number of milliseconds of at least 1", optarg);
        break;
      case OPTION_TIMEOUT:
        if (!parse_seconds(optarg, 1, &options->timeout))
          return bad_usage("--timeout needs a number of seconds above 0", optarg);
        break;
      case OPTION_STDIN:
      case OPTION_STDOUT:
      case OPTION_STDERR:
        options->files[option - OPTION_STDIN] = optarg;
        break;
      case OPTION_DROP_CACHES:
        options->drop_caches = true;
        break;
      case OPTION_ANON_BYTES:
        if (!parse_bytes(optarg, &options->anon_bytes))
          return bad_usage("--anon-bytes needs a number of bytes that fits this processor", optarg);
        break;
      case OPTION_HOLD:
        if (!parse_seconds(optarg, 1, &options->hold_seconds))
          return bad_usage("--hold needs a number of seconds above 0", optarg);
        break;
      case OPTION_HELP:
        fputs(usage, stdout);
        return 0;
      case OPTION_VERSION:
        puts("mobile-watch " MB_VERSION);
        return 0;
      default:
        return bad_usage("unknown option, or its value is missing", argv[optind - 1]);
    }
  }
  options->command = argv + optind;
  if (options->hog && options->anon_bytes == 0) return bad_usage("hog needs --anon-bytes N", NULL);
  if (options->hog && optind < argc) return bad_usage("unknown argument", argv[optind]);
  if (!options->hog && optind == argc) return bad_usage("a command is missing", NULL);
  return -1;
}
