#include "runner/holding.h"

#include <string.h>

enum { LEAST_MOVED = 16 /* tokens: fewer are read as quickly */ };

void holding_renew(holding *h) { h->exact = UINT32_MAX; }

/* How many tokens are the same, `most` at most. */
static uint32_t same(const int32_t *a, const int32_t *b, uint32_t most) {
  uint32_t n = 0;
  while (n < most && a[n] == b[n]) n++;
  return n;
}

static uint32_t least(uint32_t a, size_t b) { return b < a ? (uint32_t)b : a; }

static mb_status remove_tokens(holding *h, uint32_t first, uint32_t count) {
  const uint32_t position = decoder_position(h->decoder);
  const mb_status status = decoder_remove(h->decoder, first, first + count);
  if (status != MB_OK) return status;
  memmove(h->tokens + first, h->tokens + first + count, (position - first - count) * sizeof *h->tokens);
  if (first < h->exact) h->exact = first;
  return MB_OK;
}

/* Behind the first `common` tokens: what to remove so that most of the rest agrees. *behind: so much does. */
static uint32_t find_removal(const holding *h, const int32_t *ids, size_t count, uint32_t common, uint32_t *behind) {
  const uint32_t position = decoder_position(h->decoder);
  uint32_t best = 0;
  *behind = 0;
  for (uint32_t removed = 1; common + removed < position; removed++) {
    const uint32_t from = common + removed;
    const uint32_t n = same(h->tokens + from, ids + common, least(position - from, count - 1 - common));
    if (n <= *behind) continue;
    *behind = n;
    best = removed;
  }
  return best;
}

mb_status holding_keep(holding *h, const system_state *system, const int32_t *ids, size_t count, holding_use use) {
  decoder *d = h->decoder;
  uint32_t common = same(h->tokens, ids, least(decoder_position(d), count ? count - 1 : 0));
  if (use == HOLDING_EXACT && common > h->exact) common = h->exact;
  if (use == HOLDING_REMOVE && count > 0) {
    uint32_t behind;
    const uint32_t removed = find_removal(h, ids, count, common, &behind);
    if (removed && behind >= LEAST_MOVED) {
      const mb_status status = remove_tokens(h, common, removed);
      if (status != MB_OK) return status;
      common += behind;
    }
  }
  const uint32_t kept = decoder_rewind_point(d, common);
  const uint32_t to = system_state_help(system, d, h->tokens, ids, count, kept);
  if (to <= h->exact || to != kept) holding_renew(h); /* a state is what reading gives */
  return decoder_rewind(d, to);
}

mb_status holding_shorten(holding *h, const int32_t *shorter, size_t count, uint32_t *removed) {
  const uint32_t position = decoder_position(h->decoder), common = same(h->tokens, shorter, least(position, count));
  *removed = 0;
  for (uint32_t n = 1; common < count && n <= position - common && count - common <= position - common - n; n++) {
    const uint32_t rest = (uint32_t)(count - common);
    if (same(h->tokens + common + n, shorter + common, rest) != rest) continue;
    *removed = n;
    return remove_tokens(h, common, n);
  }
  return MB_OK;
}
