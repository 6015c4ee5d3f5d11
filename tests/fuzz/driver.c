/* Mutates seed files for a bounded time and hands the result to LLVMFuzzerTestOneInput (the interface of libFuzzer, so
 * that the same targets run under it too: clang -fsanitize=fuzzer). A crash, a hang or a sanitizer's report ends the
 * process with a status that is not 0; the last input is then in the file "crash" of the working directory.
 *
 * usage: driver SECONDS RANDOM_SEED SEED_FILE... */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state;

static uint32_t below(uint32_t n) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 32) % (n ? n : 1);
}

/* Numbers that sizes and offsets break at. */
static const uint64_t edges[] = {0,         1,       2,          63,         64,         65,         127,
                                 128,       255,     256,        4095,       4096,       0x7fff,     0x8000,
                                 0xffff,    1 << 20, 0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX, UINT64_MAX - 63,
                                 1ull << 63};

static size_t mutate(uint8_t *data, size_t size) {
  for (uint32_t times = 1 + below(4); times && size; times--) {
    /* Half of the mutations fall into the first 8 KiB: headers and tables are there. */
    const size_t range = below(2) && size > 8192 ? 8192 : size;
    const size_t at = below((uint32_t)range);
    switch (below(6)) {
      case 0:
        data[at] ^= (uint8_t)(1u << below(8));
        break;
      case 1:
        data[at] = (uint8_t)below(256);
        break;
      case 2:
      case 3: {
        const size_t width = (size_t)1 << (1 + below(3)), aligned = at / width * width;
        const uint64_t value = edges[below(sizeof edges / sizeof *edges)] + below(3) - 1;
        if (aligned + width <= size) memcpy(data + aligned, &value, width);
        break;
      }
      case 4: {
        const size_t from = below((uint32_t)size), most = size - (from > at ? from : at);
        memmove(data + at, data + from, below((uint32_t)(most < 64 ? most : 64)));
        break;
      }
      default:
        if (below(8) == 0) size = below((uint32_t)size + 1);
        break;
    }
  }
  return size;
}

static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END) != 0) return NULL;
  *size = (size_t)ftell(file);
  rewind(file);
  uint8_t *data = malloc(*size + 1);
  if (data && fread(data, 1, *size, file) != *size) data = NULL;
  fclose(file);
  return data;
}

int main(int argc, char **argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: %s SECONDS RANDOM_SEED SEED_FILE...\n", argv[0]);
    return 2;
  }
  const time_t end = time(NULL) + atoi(argv[1]);
  state = strtoull(argv[2], NULL, 10) * 0x9e3779b97f4a7c15u + 1;
  unsigned long runs = 0;
  while (time(NULL) < end) {
    for (int i = 3; i < argc; i++) {
      size_t size = 0;
      uint8_t *seed = read_file(argv[i], &size);
      if (!seed) {
        perror(argv[i]);
        return 2;
      }
      for (int round = 0; round < 200 && time(NULL) < end; round++, runs++) {
        /* A fresh block of exactly this size, so that one byte beyond it is seen. */
        uint8_t *data = aligned_alloc(64, (size + 63) / 64 * 64);
        if (!data) return 2;
        memcpy(data, seed, size);
        const size_t mutated = mutate(data, size);
        uint8_t *exact = NULL;
        if (posix_memalign((void **)&exact, 64, mutated ? mutated : 1) != 0) return 2;
        memcpy(exact, data, mutated);
        free(data);
        FILE *last = fopen("crash", "wb");
        if (last) {
          fwrite(exact, 1, mutated, last);
          fclose(last);
        }
        alarm(20);
        LLVMFuzzerTestOneInput(exact, mutated);
        alarm(0);
        free(exact);
      }
      free(seed);
    }
  }
  unlink("crash");
  printf("%lu inputs\n", runs);
  return 0;
}
