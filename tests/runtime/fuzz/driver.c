/* Runs a fuzz target: mutates seed files and hands the results to LLVMFuzzerTestOneInput. Every input follows from the
 * random seed, the input's number and the seed files alone, so a finding is known by these on every machine. (libFuzzer
 * would let coverage guide it, but needs clang; the targets that know a format, fuzz_bundle.c, reach what coverage
 * does.)
 *
 * A child process runs the inputs. When one ends it (a signal, a sanitizer's report, a hang), the parent makes that
 * input once more, keeps it in FOUND as TARGET-SEED-NUMBER with what the child printed beside it (.log), and goes on
 * behind it with a new child.
 *
 * usage: TARGET --seed N (--inputs COUNT | --seconds S) [--found DIRECTORY] SEED_FILE...
 *        TARGET --seed N --write NUMBER SEED_FILE...      the input of that number, to standard output
 *        TARGET --run FILE                                one input as it is
 * Prints one line, "TARGET: COUNT inputs, FOUND findings, seed N"; the status is 1 where something was found. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

enum {
  HANG_SECONDS = 20,  /* of one input */
  MOST_FINDINGS = 20, /* of one run: after that it is one fault again and again */
  LOG_BYTES = 64 << 10,
};

/* Read by AddressSanitizer. No input may make a reader ask for more than 64 MB at once; a small quarantine of freed
 * memory is twice as fast as the usual one, and every input ends before it is full. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "max_allocation_size_mb=64:quarantine_size_mb=8:malloc_context_size=12:detect_stack_use_after_return=0";
}

typedef struct {
  uint8_t *data;
  size_t size;
} seed_file;

static struct {
  const char *target;
  uint64_t seed, inputs, seconds;
  const char *found;
  seed_file *seeds;
  size_t seed_count;
} run;

/* ---- random numbers ---- */

static uint64_t state;

uint64_t fuzz_random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state * 0x2545f4914f6cdd1du;
}

uint32_t fuzz_below(uint32_t n) { return n ? (uint32_t)((fuzz_random() >> 32) * n >> 32) : 0; }

/* splitmix64: neighbouring seeds start far apart. Never 0. */
static void fuzz_start(uint64_t seed) {
  uint64_t z = seed + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  state = (z ^ (z >> 31)) | 1;
}

/* ---- mutation ---- */

/* Numbers that sizes and offsets break at. */
static const uint64_t edges[] = {0,
                                 1,
                                 2,
                                 63,
                                 64,
                                 65,
                                 127,
                                 128,
                                 255,
                                 256,
                                 4095,
                                 4096,
                                 0x7fff,
                                 0x8000,
                                 0xffff,
                                 0x10000,
                                 1 << 20,
                                 0x7fffffff,
                                 0x80000000,
                                 0xffffffff,
                                 UINT64_MAX,
                                 1 << 24,
                                 UINT64_MAX - 63,
                                 1ull << 63};

uint64_t fuzz_edge(void) { return edges[fuzz_below(sizeof edges / sizeof *edges)] + fuzz_below(3) - 1; }

size_t fuzz_bytes(uint8_t *data, size_t size) {
  for (uint32_t times = 1 + fuzz_below(4); times && size; times--) {
    /* Half of the mutations fall into the first 8 KiB: headers and tables are there. */
    const size_t range = fuzz_below(2) && size > 8192 ? 8192 : size;
    const size_t at = fuzz_below((uint32_t)range);
    switch (fuzz_below(6)) {
      case 0:
        data[at] ^= (uint8_t)(1u << fuzz_below(8));
        break;
      case 1:
        data[at] = (uint8_t)fuzz_below(256);
        break;
      case 2:
      case 3: {
        const size_t width = (size_t)1 << (1 + fuzz_below(3)), aligned = at / width * width;
        const uint64_t value = fuzz_edge();
        if (aligned + width <= size) memcpy(data + aligned, &value, width);
        break;
      }
      case 4: {
        const size_t from = fuzz_below((uint32_t)size), room = size - (from > at ? from : at);
        memmove(data + at, data + from, fuzz_below((uint32_t)(room < 64 ? room : 64)));
        break;
      }
      default:
        if (fuzz_below(8) == 0) size = fuzz_below((uint32_t)size + 1);
        break;
    }
  }
  return size;
}

__attribute__((weak)) size_t fuzz_mutate(uint8_t *data, size_t size, size_t most) {
  (void)most;
  return fuzz_bytes(data, size);
}

/* Input `number` of this seed, in a block of exactly its size, so that one byte beyond it is seen; to be freed. */
static uint8_t *make_input(uint64_t number, size_t *size) {
  fuzz_start(run.seed ^ number * 0xd6e8feb86659fd93u);
  const seed_file *seed = &run.seeds[fuzz_below((uint32_t)run.seed_count)];
  const size_t most = seed->size + FUZZ_GROWTH;
  static uint8_t *work;
  static size_t room;
  if (room < most) {
    free(work);
    work = malloc(room = most);
    if (!work) exit(2);
  }
  memcpy(work, seed->data, seed->size);
  *size = fuzz_mutate(work, seed->size, most);
  void *exact;
  if (posix_memalign(&exact, 64, *size ? *size : 1) != 0) exit(2);
  memcpy(exact, work, *size);
  return exact;
}

static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  uint8_t *data = NULL;
  if (file && fseek(file, 0, SEEK_END) == 0) {
    *size = (size_t)ftell(file);
    rewind(file);
    if (posix_memalign((void **)&data, 64, *size + 1) != 0) exit(2);
    if (fread(data, 1, *size, file) != *size) data = NULL;
  }
  if (file) fclose(file);
  if (data) return data;
  perror(path);
  exit(2);
}

/* ---- running ---- */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Ends the process after so much processor time, or long after it without: a busy machine is no hang. 0: not at all. */
static void watch_for_hangs(uint32_t seconds) {
  const struct itimerval limit = {.it_value.tv_sec = seconds};
  setitimer(ITIMER_PROF, &limit, NULL);
  alarm(seconds * 60);
}

static void run_inputs(_Atomic uint64_t *number, double end) {
  for (; run.inputs ? *number < run.inputs : now() < end; ++*number) {
    size_t size;
    uint8_t *input = make_input(*number, &size);
    if (*number % 64 == 0) watch_for_hangs(HANG_SECONDS); /* the 64 together take far less */
    LLVMFuzzerTestOneInput(input, size);
    free(input);
  }
  watch_for_hangs(0);
}

static void keep(const char *path, const void *data, size_t size) {
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || write(fd, data, size) != (ssize_t)size) perror(path);
  if (fd >= 0) close(fd);
}

/* The input that ended the child and what it printed. Behind the last input it was LeakSanitizer: then there is a log
 * alone. */
static void keep_finding(uint64_t number, int status, int log) {
  char path[4096], text[LOG_BYTES];
  snprintf(path, sizeof path, "%s/%s-%llu-%llu", run.found, run.target, (unsigned long long)run.seed,
           (unsigned long long)number);
  if (!run.inputs || number < run.inputs) {
    size_t size;
    uint8_t *input = make_input(number, &size);
    keep(path, input, size);
    free(input);
  }
  const int head = snprintf(text, 256, "%s %d: run %s --run %s\n", WIFSIGNALED(status) ? "signal" : "status",
                            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), run.target, path);
  const ssize_t got = pread(log, text + head, sizeof text - (size_t)head, 0);
  fwrite(text, 1, (size_t)head + (got > 0 ? (size_t)got : 0), stderr);
  strncat(path, ".log", sizeof path - strlen(path) - 1);
  keep(path, text, (size_t)head + (got > 0 ? (size_t)got : 0));
}

static int run_all(void) {
  const double end = now() + (double)run.seconds;
  _Atomic uint64_t *number = mmap(NULL, sizeof *number, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  const int log = memfd_create("log", MFD_CLOEXEC);
  if (number == MAP_FAILED || log < 0) return 2;
  unsigned findings = 0;
  while (findings < MOST_FINDINGS && (findings == 0 || !run.inputs || *number < run.inputs)) {
    if (ftruncate(log, 0) != 0) return 2;
    const pid_t child = fork();
    if (child < 0) return 2;
    if (child == 0) {
      dup2(log, STDERR_FILENO);
      lseek(STDERR_FILENO, 0, SEEK_SET);
      run_inputs(number, end);
      exit(0);
    }
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    findings++;
    keep_finding(*number, status, log);
    if (!run.inputs || *number < run.inputs) ++*number;
  }
  printf("%s: %llu inputs, %u findings, seed %llu\n", run.target, (unsigned long long)*number, findings,
         (unsigned long long)run.seed);
  return findings != 0;
}

static uint64_t whole(const char *text) {
  char *end;
  errno = 0;
  const uint64_t value = strtoull(text, &end, 10);
  if (errno == 0 && end != text && !*end) return value;
  fprintf(stderr, "%s is not a number\n", text);
  exit(2);
}

int main(int argc, char **argv) {
  static const struct option options[] = {{"seed", required_argument, NULL, 's'},
                                          {"inputs", required_argument, NULL, 'i'},
                                          {"seconds", required_argument, NULL, 't'},
                                          {"found", required_argument, NULL, 'f'},
                                          {"write", required_argument, NULL, 'w'},
                                          {"run", required_argument, NULL, 'r'},
                                          {NULL, 0, NULL, 0}};
  const char *slash = strrchr(argv[0], '/'), *one = NULL, *written = NULL;
  run.target = slash ? slash + 1 : argv[0];
  run.found = ".";
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (option == 's') run.seed = whole(optarg);
    if (option == 'i') run.inputs = whole(optarg);
    if (option == 't') run.seconds = whole(optarg);
    if (option == 'f') run.found = optarg;
    if (option == 'w') written = optarg;
    if (option == 'r') one = optarg;
    if (option == '?') return 2;
  }
  if (one) {
    size_t size;
    uint8_t *input = read_file(one, &size), *exact;
    if (posix_memalign((void **)&exact, 64, size ? size : 1) != 0) return 2;
    memcpy(exact, input, size);
    free(input);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return 0;
  }
  run.seed_count = (size_t)(argc - optind);
  run.seeds = calloc(run.seed_count + 1, sizeof *run.seeds);
  if (run.seed_count == 0 || !run.seeds || (!written && !run.inputs == !run.seconds)) {
    fprintf(stderr,
            "usage: %s --seed N (--inputs COUNT | --seconds S | --write NUMBER) [--found DIRECTORY] SEED_FILE...\n"
            "       %s --run FILE\n",
            run.target, run.target);
    return 2;
  }
  for (size_t i = 0; i < run.seed_count; i++) run.seeds[i].data = read_file(argv[optind + (int)i], &run.seeds[i].size);
  if (!written) return run_all();
  size_t size;
  uint8_t *input = make_input(whole(written), &size);
  fwrite(input, 1, size, stdout);
  free(input);
  return 0;
}
