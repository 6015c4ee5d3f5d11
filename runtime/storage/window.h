/* The window of a dictionary decoder: its last output, which matches copy from, on the way to a sink. */
#ifndef MB_STORAGE_WINDOW_H
#define MB_STORAGE_WINDOW_H

#include "storage/storage.h"

typedef struct {
  uint8_t *data;
  size_t size, at;       /* bytes of data; where the next byte goes */
  uint64_t given, limit; /* bytes so far; as many as there must be */
  mb_sink sink;
  void *context;
  bool stopped; /* the sink wants no more */
} mb_window;

/* Gives the sink what it has not had yet: a whole window, or at the end the beginning of one. */
static inline bool mb_window_flush(mb_window *w) {
  if (w->at > 0 && !w->sink(w->context, w->data, w->at)) w->stopped = true;
  w->at = 0;
  return !w->stopped;
}

/* false: more bytes than there may be, or the sink stopped. */
static inline bool mb_window_put(mb_window *w, uint8_t byte) {
  if (w->given == w->limit) return false;
  w->data[w->at++] = byte;
  w->given++;
  return w->at < w->size || mb_window_flush(w);
}

/* The byte `distance` (1 is the last one) before the next; distance <= w->given and <= w->size. */
static inline uint8_t mb_window_back(const mb_window *w, size_t distance) {
  return w->data[w->at >= distance ? w->at - distance : w->at + w->size - distance];
}

/* Repeats `length` bytes from `distance` before. false also for a distance before the first byte. */
static inline bool mb_window_copy(mb_window *w, size_t distance, size_t length) {
  if (distance == 0 || distance > w->given || distance > w->size || length > w->limit - w->given) return false;
  for (; length > 0; length--)
    if (!mb_window_put(w, mb_window_back(w, distance))) return false;
  return true;
}

#endif
