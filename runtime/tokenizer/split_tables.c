/* Splits of tokenizer.json that were compiled into tables (tokenizer_format.h says how they read): matches by a
 * deterministic automaton, and the pieces that a step's behaviour makes of them. */
#include "base/error.h"
#include "base/unicode.h"
#include "tokenizer/tokenizer.h"

static mb_status damaged(void) {
  return mb_fail(MB_ERROR_FORMAT,
                 "tokenizer.bin: its split tables are impossible: the file is damaged, copy or build the bundle again");
}

/* The section, from its start. */
typedef struct {
  const uint8_t *at;
  size_t left;
} reader;

/* NULL: it ends before, and there is nothing more to take either. */
static const void *take(reader *from, uint64_t bytes) {
  if (bytes > from->left) {
    from->left = 0;
    return NULL;
  }
  const void *taken = from->at;
  from->at += bytes;
  from->left -= (size_t)bytes;
  return taken;
}

static bool all_below(const uint8_t *values, size_t count, uint32_t limit) {
  for (size_t i = 0; i < count; i++) {
    if (values[i] >= limit) return false;
  }
  return true;
}

static bool open_step(reader *from, uint32_t class_count, mb_split_step *step) {
  const uint32_t states = step->about.state_count;
  if (step->about.behaviour > MB_TOKEN_SPLIT_NEXT ||
      step->about.flags & ~(MB_TOKEN_SPLIT_INVERT | MB_TOKEN_SPLIT_BYTES) || step->about.reserved ||
      states <= MB_TOKEN_STATE_START || states > MB_TOKEN_MAX_STATES)
    return false;
  const size_t entries = (size_t)states * (class_count + 1);
  const size_t bytes = entries * sizeof(uint16_t) + states;
  const uint8_t *data = take(from, bytes + (4 - bytes % 4) % 4);
  if (!data) return false;
  step->next = (const uint16_t *)(const void *)data;
  step->waiting = data + entries * sizeof(uint16_t);
  for (size_t i = 0; i < entries; i++) {
    if ((step->next[i] & ~MB_TOKEN_MATCH_ENDS) >= states) return false;
  }
  for (uint32_t i = 0; i < states; i++) {
    if (step->waiting[i] >= MB_TOKEN_MAX_WAITING && step->waiting[i] != MB_TOKEN_NOT_WAITING) return false;
  }
  return true;
}

mb_status mb_split_tables_open(const uint8_t *data, size_t bytes, bool byte_level, mb_split_tables *tables) {
  reader from = {data, bytes};
  mb_token_splits counts;
  const void *head = take(&from, sizeof counts);
  if (!head) return damaged();
  memcpy(&counts, head, sizeof counts);
  if (counts.step_count == 0 || counts.step_count > MB_TOKEN_MAX_SPLITS || counts.class_count == 0 ||
      counts.class_count > MB_TOKEN_MAX_CLASSES || counts.block_count == 0 || counts.block_count > MB_TOKEN_BLOCKS ||
      counts.reserved)
    return damaged();
  const uint8_t *steps = take(&from, counts.step_count * sizeof(mb_token_split_step));
  tables->byte_classes = take(&from, 256);
  tables->block_of = take(&from, MB_TOKEN_BLOCKS * sizeof(uint16_t));
  tables->blocks = take(&from, (uint64_t)counts.block_count * 128);
  if (!tables->blocks || !all_below(tables->byte_classes, 256, counts.class_count) ||
      !all_below(tables->blocks, (size_t)counts.block_count * 128, counts.class_count))
    return damaged();
  for (uint32_t i = 0; i < MB_TOKEN_BLOCKS; i++) {
    if (tables->block_of[i] >= counts.block_count) return damaged();
  }
  for (uint32_t i = 0; i < counts.step_count; i++) {
    memcpy(&tables->steps[i].about, steps + i * sizeof(mb_token_split_step), sizeof(mb_token_split_step));
    if (!open_step(&from, counts.class_count, &tables->steps[i])) return damaged();
    /* A step of bytes may cut a character, which a step of characters must not see. */
    const uint32_t flags = tables->steps[i].about.flags;
    const uint32_t before = i > 0 ? tables->steps[i - 1].about.flags : 0;
    if (flags & MB_TOKEN_SPLIT_BYTES ? !byte_level : before & MB_TOKEN_SPLIT_BYTES) return damaged();
  }
  if (from.left) return damaged();
  tables->class_count = counts.class_count;
  tables->step_count = counts.step_count;
  return MB_OK;
}

/* The class of the character at `at`; *next: where it ends. */
static inline uint32_t class_at(const mb_split_tables *tables, bool bytes, const uint8_t *text, size_t at,
                                size_t *next) {
  if (bytes) {
    *next = at + 1;
    return tables->byte_classes[text[at]];
  }
  uint32_t point;
  *next = at + mb_utf8_decode(text + at, &point);
  return tables->blocks[(size_t)tables->block_of[point >> 7] << 7 | (point & 127)];
}

/* The end of the match that begins at `at`; `at` itself: there is none. *next: where the character at `at` ends. What
 * was waited for in vain is remembered in the walk, so that the next search does not wait for it again. */
static size_t match_at(const mb_pieces *pieces, const mb_split_step *step, mb_split_walk *walk, size_t at,
                       size_t *next) {
  const mb_split_tables *tables = pieces->tables;
  const uint32_t columns = tables->class_count + 1;
  const bool bytes = step->about.flags & MB_TOKEN_SPLIT_BYTES;
  size_t found = at, place = at, after = at, since[MB_TOKEN_MAX_WAITING], until[MB_TOKEN_MAX_WAITING];
  uint32_t state = MB_TOKEN_STATE_START, waited = 0;
  *next = at;
  for (;;) {
    uint32_t class = tables->class_count;
    if (place < walk->end) class = class_at(tables, bytes, pieces->text, place, &after);
    const uint32_t entry = step->next[(size_t)state * columns + class];
    if (entry & MB_TOKEN_MATCH_ENDS) {
      found = place;
      waited = 0;
    }
    if (place == at) *next = after;
    state = entry & ~MB_TOKEN_MATCH_ENDS;
    if (state == MB_TOKEN_STATE_NONE || place == walk->end) break;
    place = after;
    const uint32_t waiting = step->waiting[state];
    if (waiting == MB_TOKEN_NOT_WAITING) continue;
    if (place >= walk->vain[waiting][0] && place < walk->vain[waiting][1]) break;
    if (!(waited & 1u << waiting)) since[waiting] = place;
    waited |= 1u << waiting;
    until[waiting] = place + 1;
  }
  for (uint32_t i = 0; waited; i++, waited >>= 1) {
    if (!(waited & 1)) continue;
    size_t *vain = walk->vain[i];
    if (until[i] >= vain[0] && since[i] <= vain[1]) { /* they touch: one longer stretch */
      if (vain[1] > until[i]) until[i] = vain[1];
      if (vain[1] > vain[0] && vain[0] < since[i]) since[i] = vain[0];
    }
    vain[0] = since[i];
    vain[1] = until[i];
  }
  return found;
}

/* The next match, or the stretch before it. false: the walk is over. */
static bool next_segment(const mb_pieces *pieces, const mb_split_step *step, mb_split_walk *walk,
                         mb_split_segment *segment) {
  if (walk->ahead_count) {
    walk->ahead_count = 0;
    *segment = walk->ahead;
    return true;
  }
  if (walk->has_match) {
    walk->has_match = false;
    *segment = walk->match;
    return true;
  }
  const bool invert = step->about.flags & MB_TOKEN_SPLIT_INVERT;
  const size_t begin = walk->at;
  for (size_t at = begin, next; at < walk->end; at = next) {
    const size_t end = match_at(pieces, step, walk, at, &next);
    if (end == at) continue;
    walk->at = end;
    walk->match = (mb_split_segment){at, end, !invert};
    if (at == begin) {
      *segment = walk->match;
    } else {
      walk->has_match = true;
      *segment = (mb_split_segment){begin, at, invert};
    }
    return true;
  }
  walk->at = walk->end;
  *segment = (mb_split_segment){begin, walk->end, invert};
  return begin < walk->end;
}

/* Takes the next segment into `piece` if it is as wanted. */
static bool joins(const mb_pieces *pieces, const mb_split_step *step, mb_split_walk *walk, bool wanted,
                  mb_split_segment *piece) {
  mb_split_segment next;
  if (!next_segment(pieces, step, walk, &next)) return false;
  if (next.match == wanted) {
    piece->end = next.end;
    return true;
  }
  walk->ahead = next;
  walk->ahead_count = 1;
  return false;
}

static bool next_piece(const mb_pieces *pieces, const mb_split_step *step, mb_split_walk *walk,
                       mb_split_segment *piece) {
  while (next_segment(pieces, step, walk, piece)) {
    switch ((mb_token_split_behaviour)step->about.behaviour) {
      case MB_TOKEN_SPLIT_ISOLATED:
        break;
      case MB_TOKEN_SPLIT_REMOVED:
        if (piece->match) continue;
        break;
      case MB_TOKEN_SPLIT_CONTIGUOUS:
        while (joins(pieces, step, walk, piece->match, piece)) continue;
        break;
      case MB_TOKEN_SPLIT_PREVIOUS:
        if (!piece->match) joins(pieces, step, walk, true, piece);
        break;
      case MB_TOKEN_SPLIT_NEXT:
        if (piece->match) joins(pieces, step, walk, false, piece);
        break;
    }
    return true;
  }
  return false;
}

static void begin_walk(mb_split_walk *walk, size_t begin, size_t end) {
  walk->at = begin;
  walk->end = end;
  walk->ahead_count = 0;
  walk->has_match = false;
  memset(walk->vain, 0, sizeof walk->vain);
}

void mb_pieces_begin(mb_pieces *pieces, const mb_split_tables *tables, const uint8_t *text, size_t bytes) {
  pieces->tables = tables;
  pieces->text = text;
  pieces->depth = 0;
  begin_walk(&pieces->walks[0], 0, bytes);
}

bool mb_pieces_next(mb_pieces *pieces, size_t *begin, size_t *end) {
  for (;;) {
    mb_split_segment piece;
    if (!next_piece(pieces, &pieces->tables->steps[pieces->depth], &pieces->walks[pieces->depth], &piece)) {
      if (pieces->depth == 0) return false;
      pieces->depth--;
      continue;
    }
    if (pieces->depth + 1 == pieces->tables->step_count) {
      *begin = piece.begin;
      *end = piece.end;
      return true;
    }
    begin_walk(&pieces->walks[++pieces->depth], piece.begin, piece.end);
  }
}

mb_status mb_tokenizer_pieces(const mb_tokenizer *tokenizer, const char *text, size_t bytes, size_t *places,
                              size_t capacity, size_t *count) {
  *count = 0;
  if (tokenizer->splits.step_count == 0 || !mb_utf8_valid((const uint8_t *)text, bytes))
    return mb_fail(MB_ERROR_ARGUMENT, "pieces are of a tokenizer with split tables and of valid UTF-8");
  mb_pieces pieces;
  mb_pieces_begin(&pieces, &tokenizer->splits, (const uint8_t *)text, bytes);
  for (size_t begin, end; mb_pieces_next(&pieces, &begin, &end); *count += 2) {
    if (*count + 2 > capacity) continue;
    places[*count] = begin;
    places[*count + 1] = end;
  }
  return MB_OK;
}
