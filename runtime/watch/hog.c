#include "watch/hog.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "watch/events.h"

enum { BLOCK = 4096 };

/* Fills memory with a block of random bytes, each copy with a number in it: a compressed swap (zram) gains nothing from
 * it, and no two pages are alike. */
static void fill(unsigned char *memory, uint64_t bytes) {
  unsigned char block[BLOCK];
  uint64_t state = 0x9e3779b97f4a7c15u;
  for (size_t i = 0; i < sizeof block; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    block[i] = (unsigned char)(state >> 24);
  }
  for (uint64_t at = 0; at < bytes; at += BLOCK) {
    const uint64_t left = bytes - at;
    memcpy(block, &at, sizeof at);
    memcpy(memory + at, block, left < BLOCK ? (size_t)left : BLOCK);
  }
}

static void hold(double seconds) {
  const double end = seconds_now() + seconds;
  char buffer[256];
  for (;;) {
    const double left = end - seconds_now();
    if (seconds > 0 && left <= 0) return;
    /* A minute at a time: poll counts in an int of milliseconds. */
    const int wait = seconds > 0 && left < 60 ? (int)(left * 1000) + 1 : 60000;
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&input, 1, wait) <= 0) continue;
    const ssize_t got = read(STDIN_FILENO, buffer, sizeof buffer);
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) return;
  }
}

int hog_run(uint64_t bytes, double seconds) {
  unsigned char *memory =
      mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fprintf(stderr, "mobile-watch: %llu bytes cannot be mapped: %s\n", (unsigned long long)bytes, strerror(errno));
    return 1;
  }
  fill(memory, bytes);
  if (!emit_holding(getpid(), bytes)) return 1;
  hold(seconds);
  return 0;
}
