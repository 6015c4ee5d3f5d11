/* NFC. A text is cut into segments that begin with a character NFC leaves alone; of them only those that hold another
 * kind of character are decomposed, ordered and composed, as the standard says. */
#include "base/unicode.h"
#include "base/unicode_tables.h"

enum {
  HANGUL_BASE = 0xAC00,
  LEAD_BASE = 0x1100,
  VOWEL_BASE = 0x1161,
  TAIL_BASE = 0x11A7,
  LEADS = 19,
  VOWELS = 21,
  TAILS = 28,
  CLASSES = 256,
  SHORT_RUN = 32,
};

static uint32_t combining_class(uint32_t point) {
  return mb_range_value(mb_combining_ranges, MB_COMBINING_RANGES, point);
}

/* A character of the segment: class << 24 | code point. */
typedef struct {
  uint32_t *at;
  size_t size, capacity;
} points;

static bool push(points *list, uint32_t point) {
  if (list->size == list->capacity) {
    size_t capacity = list->capacity ? list->capacity * 2 : 64;
    uint32_t *at = realloc(list->at, capacity * sizeof *at);
    if (!at) return false;
    list->at = at;
    list->capacity = capacity;
  }
  list->at[list->size++] = combining_class(point) << 24 | point;
  return true;
}

static bool push_decomposed(points *list, uint32_t point) {
  if (point < 0xC0) return push(list, point);
  if (point >= HANGUL_BASE && point < HANGUL_BASE + LEADS * VOWELS * TAILS) {
    uint32_t index = point - HANGUL_BASE, tail = index % TAILS;
    return push(list, LEAD_BASE + index / (VOWELS * TAILS)) && push(list, VOWEL_BASE + index / TAILS % VOWELS) &&
           (tail == 0 || push(list, TAIL_BASE + tail));
  }
  uint32_t low = 0, high = MB_DECOMPOSITIONS;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (mb_decompositions[middle][0] < point) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == MB_DECOMPOSITIONS || mb_decompositions[low][0] != point) return push(list, point);
  uint32_t place = mb_decompositions[low][1] & 0xFFFF, length = mb_decompositions[low][1] >> 16;
  for (uint32_t i = 0; i < length; i++) {
    if (!push(list, mb_decomposition_pool[place + i])) return false;
  }
  return true;
}

/* 0: the two do not compose. */
static uint32_t composed(uint32_t first, uint32_t second) {
  if (first - LEAD_BASE < LEADS && second - VOWEL_BASE < VOWELS)
    return HANGUL_BASE + ((first - LEAD_BASE) * VOWELS + (second - VOWEL_BASE)) * TAILS;
  if (first - HANGUL_BASE < LEADS * VOWELS * TAILS && (first - HANGUL_BASE) % TAILS == 0 && second > TAIL_BASE &&
      second < TAIL_BASE + TAILS)
    return first + (second - TAIL_BASE);
  uint32_t low = 0, high = MB_COMPOSITIONS;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    const uint32_t *entry = mb_compositions[middle];
    if (entry[0] < first || (entry[0] == first && entry[1] < second)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == MB_COMPOSITIONS || mb_compositions[low][0] != first || mb_compositions[low][1] != second) return 0;
  return mb_compositions[low][2];
}

/* Stable order by class of one run of combining characters. Hostile texts have runs of any length, so long ones are
 * sorted by counting. */
static bool order_run(uint32_t *run, size_t size) {
  if (size <= SHORT_RUN) {
    for (size_t i = 1; i < size; i++) {
      uint32_t point = run[i];
      size_t place = i;
      for (; place > 0 && run[place - 1] >> 24 > point >> 24; place--) run[place] = run[place - 1];
      run[place] = point;
    }
    return true;
  }
  uint32_t *sorted = malloc(size * sizeof *sorted);
  if (!sorted) return false;
  size_t first[CLASSES + 1] = {0};
  for (size_t i = 0; i < size; i++) first[(run[i] >> 24) + 1]++;
  for (size_t i = 0; i < CLASSES; i++) first[i + 1] += first[i];
  for (size_t i = 0; i < size; i++) sorted[first[run[i] >> 24]++] = run[i];
  memcpy(run, sorted, size * sizeof *sorted);
  free(sorted);
  return true;
}

static bool order(points *list) {
  for (size_t i = 0; i < list->size;) {
    size_t begin = i;
    while (i < list->size && list->at[i] >> 24) i++;
    if (!order_run(list->at + begin, i - begin)) return false;
    if (i < list->size) i++;
  }
  return true;
}

static void compose(points *list) {
  size_t kept = 0, starter = SIZE_MAX;
  for (size_t i = 0; i < list->size; i++) {
    uint32_t point = list->at[i] & 0xFFFFFF, class = list->at[i] >> 24;
    /* Blocked when a character of the same or a higher class stands between the starter and this one. */
    if (starter != SIZE_MAX && (kept == starter + 1 || list->at[kept - 1] >> 24 < class)) {
      uint32_t both = composed(list->at[starter], point);
      if (both) {
        list->at[starter] = both;
        continue;
      }
    }
    if (class == 0) starter = kept;
    list->at[kept++] = class << 24 | point;
  }
  list->size = kept;
}

static bool segment(const uint8_t *text, size_t bytes, points *list, mb_buffer *out) {
  list->size = 0;
  for (size_t at = 0; at < bytes;) {
    uint32_t point;
    at += mb_utf8_decode(text + at, &point);
    if (!push_decomposed(list, point)) return false;
  }
  if (!order(list)) return false;
  compose(list);
  if (!mb_buffer_reserve(out, list->size * 4)) return false;
  for (size_t i = 0; i < list->size; i++) out->size += mb_utf8_encode(list->at[i] & 0xFFFFFF, out->data + out->size);
  return true;
}

/* Everything below U+0300, the first combining character, is inert: skips what begins with a byte below 0xCC. */
static size_t skip_low(const uint8_t *text, size_t at, size_t bytes) {
  while (at < bytes && text[at] < 0xCC) at++;
  return at;
}

bool mb_nfc_inert(const uint8_t *text, size_t bytes) {
  for (size_t at = 0; (at = skip_low(text, at, bytes)) < bytes;) {
    uint32_t point;
    at += mb_utf8_decode(text + at, &point);
    if (mb_unicode_class(point) & MB_UNICODE_NOT_INERT) return false;
  }
  return true;
}

bool mb_nfc(const uint8_t *text, size_t bytes, mb_buffer *out) {
  points list = {0};
  bool done = true;
  size_t begin = 0;     /* of the text that is not written yet */
  size_t character = 0; /* the last inert character before `at` */
  for (size_t at = 0; done && at < bytes;) {
    uint32_t point;
    size_t length = mb_utf8_decode(text + at, &point);
    if (!(mb_unicode_class(point) & MB_UNICODE_NOT_INERT)) {
      character = at;
      at += length;
      continue;
    }
    size_t end = at;
    do {
      end += length;
      if (end == bytes) break;
      length = mb_utf8_decode(text + end, &point);
    } while (mb_unicode_class(point) & MB_UNICODE_NOT_INERT);
    done = mb_buffer_append(out, text + begin, character - begin) &&
           segment(text + character, end - character, &list, out);
    begin = character = at = end;
  }
  done = done && mb_buffer_append(out, text + begin, bytes - begin);
  free(list.at);
  return done;
}
