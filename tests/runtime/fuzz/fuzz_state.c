/* Reads any bytes as a session's state, and goes on from what was taken up. Seeds: 64 bytes that begin with the
 * size of a weights.ptd, that file, and a state of it. Most inputs get right checksums, so that they are read beyond
 * them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc32.h"
#include "engine/model.h"
#include "fuzz.h"
#include "mobile_bundle/state_file.h"

enum { CONTEXT = 24, CHUNK = 4, MOST_VOCABULARY = 64 };

/* The model of a seed file, which is before the state: its bytes are never changed. */
static uint32_t model_bytes(const uint8_t *data, size_t size) {
  uint32_t bytes = 0;
  if (size >= 4) memcpy(&bytes, data, sizeof bytes);
  return bytes;
}

size_t fuzz_mutate(uint8_t *data, size_t size, size_t most) {
  (void)most;
  const size_t begin = 64 + (size_t)model_bytes(data, size);
  if (begin > size) return size;
  uint8_t *state = data + begin;
  const size_t bytes = fuzz_bytes(state, size - begin);
  mb_state_header header;
  if (bytes >= sizeof header && fuzz_below(8) > 0) {
    memcpy(&header, state, sizeof header);
    if (fuzz_below(8) > 0) header.file_bytes = bytes;
    header.content_crc32 = mb_crc32(0, state + sizeof header, bytes - sizeof header);
    header.crc32 = 0;
    header.crc32 = mb_crc32(0, &header, sizeof header);
    memcpy(state, &header, sizeof header);
  }
  return begin + bytes;
}

static void use(mb_session *session, const char *path) {
  int32_t tokens[CONTEXT];
  uint32_t count;
  const float *logits;
  const int32_t first[] = {3, 1, 4};
  if (mb_session_feed(session, first, 3, &logits) != MB_OK) abort();
  if (mb_session_resume(session, path, tokens, &count) == MB_OK) {
    if (count == 0 || count > CONTEXT || mb_session_position(session) != count) abort();
    for (uint32_t i = 0; i < count; i++)
      if (tokens[i] < 0 || tokens[i] >= MOST_VOCABULARY) abort();
  } else if (mb_session_position(session) != 3) {
    abort();
  }
  const uint32_t back = mb_session_rewind_point(session, mb_session_position(session) / 2);
  if (mb_session_position(session) < CONTEXT) (void)mb_session_feed(session, first, 1, &logits);
  if (mb_session_rewind(session, back) != MB_OK || mb_session_feed(session, first, 2, &logits) != MB_OK) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  const size_t weights = model_bytes(data, bytes);
  if (bytes < 64 || weights > bytes - 64) return 0;
  const int fd = memfd_create("state", MFD_CLOEXEC);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  const size_t rest = bytes - 64 - weights;
  mb_model *model = NULL;
  mb_session *session = NULL;
  const mb_session_options options = {
      .size = sizeof options, .context = CONTEXT, .threads = 1, .prefill_chunk = CHUNK, .unchecked = true};
  if (fd >= 0 && write(fd, data + 64 + weights, rest) == (ssize_t)rest &&
      mb_model_from_memory(data + 64, weights, true, NULL, &model) == MB_OK &&
      mb_session_open(model, &options, &session) == MB_OK)
    use(session, path);
  mb_session_close(session);
  mb_model_close(model);
  if (fd >= 0) close(fd);
  return 0;
}
