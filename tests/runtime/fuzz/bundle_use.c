/* Estimates, looks at every tensor, decodes tokens, installs. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/config.h"
#include "engine/session.h"
#include "engine/verify.h"
#include "fuzz_bundle.h"

/* A product that the estimate has said to be possible. */
static uint64_t exact(uint64_t a, uint64_t b) {
  uint64_t product;
  if (__builtin_mul_overflow(a, b, &product)) abort();
  return product;
}

/* An estimate is an error, or what exact arithmetic gives. */
static void estimate(const mb_model_config *c, const mb_session_options *o) {
  mb_memory memory;
  const mb_status status = mb_memory_estimate(c, o, &memory);
  if (status == MB_ERROR_ARGUMENT && o->context <= c->context) abort(); /* what is asked for is possible */
  if (status != MB_OK) return;
  const uint64_t stride = ((uint64_t)c->head_dim + 31) / 32 * 32,
                 context = o->context ? o->context : c->default_context;
  const uint64_t vector = o->kv_type == MB_KV_INT8 ? stride + stride / 32 * 2 : 2 * stride;
  const uint64_t chunk = o->prefill_chunk ? o->prefill_chunk : 32;
  uint64_t full = 0, positions = 0, convolved = 0;
  for (uint32_t l = 0; l < c->layers; l++) {
    if (mb_is_convolution(c, l)) {
      convolved += exact((c->convolution_taps - 1 + chunk) * sizeof(float), c->hidden);
      continue;
    }
    const uint64_t seen = (uint64_t)mb_layer_window(c, l) + chunk - 1; /* int8: in whole tiles, and whole groups */
    const uint64_t kept = o->kv_type == MB_KV_INT8 ? (seen + 63) / 64 * 64 : seen;
    const bool window = mb_layer_window(c, l) > 0 && kept < context;
    full += !window;
    positions += window ? kept : o->kv_type == MB_KV_INT8 ? (context + 15) / 16 * 16 : context;
  }
  const uint64_t each = exact(2 * (uint64_t)c->kv_heads, vector);
  const uint64_t per_token = exact(full, each), kv = exact(positions, each) + convolved;
  const uint64_t logits = exact(4 * (o->all_logits ? chunk : 1), c->vocabulary);
  const uint64_t widths = (uint64_t)c->hidden + c->feed_forward + exact(c->heads, c->head_dim);
  if (memory.kv_bytes_per_token != per_token || memory.kv_bytes < kv || memory.kv_bytes - kv > 320 ||
      memory.scratch_bytes < logits + exact(8 * chunk, widths) || memory.scratch_bytes > (uint64_t)1 << 50)
    abort();
}

void bundle_estimates(const mb_model_config *c) {
  enum { SIZE = sizeof(mb_session_options) };
  const mb_session_options options[] = {
      {.size = SIZE, .threads = 1},
      {.size = SIZE, .threads = 64, .prefill_chunk = 256, .all_logits = true},
      {.size = SIZE,
       .context = c->context,
       .threads = 64,
       .prefill_chunk = 256,
       .kv_type = MB_KV_F16,
       .all_logits = true},
      {.size = SIZE, .context = MB_MOST_CONTEXT, .threads = 3},
  };
  for (size_t i = 0; i < sizeof options / sizeof *options; i++) estimate(c, &options[i]);
}

/* Whether no token looks at many others. */
static bool sees_little(const mb_model_config *c, uint32_t context) {
  for (uint32_t l = 0; l < c->layers && context > 4096; l++)
    if (!mb_is_convolution(c, l) && (mb_layer_window(c, l) == 0 || mb_layer_window(c, l) > 64)) return false;
  return true;
}

/* Tokens at the start of the context and, where the windows keep that cheap, at its end. */
static void decode(mb_model *model, const mb_session_options *options) {
  const mb_model_config *c = mb_model_get_config(model);
  mb_session *session;
  const mb_status status = mb_session_open(model, options, &session);
  if (status == MB_ERROR_ARGUMENT) abort(); /* what is asked for is possible */
  if (status != MB_OK) return;
  const uint32_t context = mb_session_get_options(session)->context, last = c->vocabulary - 1;
  const int32_t tokens[] = {0, (int32_t)last, (int32_t)(last / 2)};
  const float *logits;
  (void)mb_session_feed(session, tokens, context < 3 ? context : 3, &logits);
  if (context > 4 && sees_little(c, context)) {
    session->position = context - 2;
    (void)mb_session_feed(session, tokens, 2, &logits);
    if (mb_session_feed(session, tokens, 1, &logits) == MB_OK) abort();
  }
  if (options->all_logits) {
    (void)mb_session_rewind(session, 0);
    (void)mb_session_feed_all(session, tokens, context < 3 ? context : 3, &logits);
  }
  mb_memory memory;
  if (mb_session_memory(session, &memory) != MB_OK || memory.touched_file_bytes > memory.file_bytes ||
      memory.resident_file_bytes > memory.touched_file_bytes)
    abort();
  mb_session_close(session);
}

void bundle_use(mb_model *model, uint32_t variant) {
  mb_session_options options = {.size = sizeof options,
                                .threads = 1,
                                .prefill_chunk = variant % 2 ? 2 : 0,
                                .kv_type = variant & 2 ? MB_KV_F16 : MB_KV_INT8,
                                .all_logits = (variant & 4) != 0,
                                .unchecked = variant % 64 != 0};
  if (variant & 8) options.context = mb_model_get_config(model)->context;
  decode(model, &options);
}

void bundle_look_at(const mb_weights *weights, uint32_t variant) {
  for (uint32_t i = 0; i < weights->count && variant % 8 == 1; i++) {
    const mb_index_record *record = &weights->records[i];
    mb_matrix matrix;
    const char *reason;
    if (!mb_matrix_view(weights->file + record->offset, record->bytes, &matrix, &reason)) continue;
    if (matrix.format == MB_FORMAT_VECTOR && !matrix.vector.codebook) continue;
    float *row = malloc(matrix.columns * sizeof *row);
    if (!row) continue;
    mb_decode_row(&matrix, 0, row);
    mb_decode_row(&matrix, matrix.rows - 1, row);
    free(row);
  }
  if (variant % 8 == 2) (void)mb_weights_verify(weights);
}

/* A file and a folder for its cache, both in memory, used again and again. */
static struct {
  int fd;
  char path[64], folder[64];
} place = {.fd = -1};

static void remove_place(void) {
  char cache[160];
  snprintf(cache, sizeof cache, "%s/%d.cache", place.folder, place.fd);
  unlink(cache);
  rmdir(place.folder);
}

static void open_place(void) {
  const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
  const struct rlimit limit = {4 << 20, 4 << 20}; /* of a cache: what a file asks for is not what it may have */
  /* Named after the driver, whose children are one after another: what one leaves that dies, the next one uses. */
  snprintf(place.folder, sizeof place.folder, "%s/mb-fuzz-%d", folder, (int)getppid());
  place.fd = memfd_create("weights.ptd", MFD_CLOEXEC);
  snprintf(place.path, sizeof place.path, "/proc/self/fd/%d", place.fd);
  if (place.fd < 0 || (mkdir(place.folder, 0700) != 0 && errno != EEXIST) || setrlimit(RLIMIT_FSIZE, &limit) != 0)
    exit(2);
  signal(SIGXFSZ, SIG_IGN);
  atexit(remove_place);
}

void bundle_install_and_use(const uint8_t *data, size_t size, uint32_t variant) {
  if (place.fd < 0) open_place();
  if (ftruncate(place.fd, 0) != 0 || pwrite(place.fd, data, size, 0) != (ssize_t)size) return;
  const mb_model_options options = {.size = sizeof options,
                                    .cache_dir = place.folder,
                                    .mapping = variant & 16 ? MB_MAPPING_LAYERS : MB_MAPPING_WHOLE};
  mb_model *model;
  const mb_status status = mb_model_open(place.path, &options, &model);
  if (status == MB_ERROR_ARGUMENT) abort();
  if (status == MB_OK) {
    bundle_use(model, variant);
    mb_model_close(model);
    if (variant % 8 == 3) (void)mb_verify(place.path, place.folder);
  }
}
