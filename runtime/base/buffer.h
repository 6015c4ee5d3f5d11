/* A growing byte buffer. */
#ifndef MB_BASE_BUFFER_H
#define MB_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  uint8_t *data;
  size_t size, capacity;
} mb_buffer;

/* Room for `more` bytes after the present ones. false: no memory. */
static inline bool mb_buffer_reserve(mb_buffer *buffer, size_t more) {
  if (more <= buffer->capacity - buffer->size) return true;
  if (more > SIZE_MAX / 2 - buffer->size) return false;
  size_t capacity = buffer->size + more;
  if (capacity < buffer->capacity + buffer->capacity / 2) capacity = buffer->capacity + buffer->capacity / 2;
  uint8_t *data = realloc(buffer->data, capacity);
  if (!data) return false;
  buffer->data = data;
  buffer->capacity = capacity;
  return true;
}

static inline bool mb_buffer_append(mb_buffer *buffer, const void *bytes, size_t count) {
  if (!mb_buffer_reserve(buffer, count)) return false;
  if (count) memcpy(buffer->data + buffer->size, bytes, count);
  buffer->size += count;
  return true;
}

static inline void mb_buffer_free(mb_buffer *buffer) {
  free(buffer->data);
  *buffer = (mb_buffer){0};
}

#endif
