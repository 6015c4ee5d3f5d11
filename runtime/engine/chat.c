/* The chat template's pieces, as the compiler put them into tokenizer.bin. */
#include "error.h"
#include "tokenizer_internal.h"
#include "unicode.h"

static const char *const names[] = {"system", "user", "assistant"};

bool mb_tokenizer_has_chat(const mb_tokenizer *tokenizer) { return tokenizer->chat != NULL; }

mb_status mb_chat_between(const mb_tokenizer *tokenizer, mb_chat_place from, mb_chat_place to, const char **text,
                          size_t *bytes) {
  *text = "";
  *bytes = 0;
  if (!tokenizer->chat)
    return mb_fail(MB_ERROR_ARGUMENT, "this bundle has no chat template: give it plain text to continue instead");
  if ((unsigned)from >= MB_TOKEN_CHAT_PLACES || (unsigned)to >= MB_TOKEN_CHAT_PLACES)
    return mb_fail(MB_ERROR_ARGUMENT, "no such place in a conversation: %d, %d", (int)from, (int)to);
  mb_token_span span = tokenizer->chat->between[from][to];
  if (span.offset == MB_TOKEN_CHAT_ABSENT) {
    if (to == MB_ROLE_SYSTEM && from == MB_CHAT_START)
      return mb_fail(MB_ERROR_ARGUMENT, "this model's chat template has no system message: leave it out");
    if (from == MB_CHAT_START && to == MB_CHAT_ANSWER)
      return mb_fail(MB_ERROR_ARGUMENT, "a conversation needs a message before it can be answered");
    if (to == MB_CHAT_ANSWER)
      return mb_fail(MB_ERROR_ARGUMENT, "this model answers a user message, not a %s message", names[from]);
    if (from == MB_CHAT_START)
      return mb_fail(MB_ERROR_ARGUMENT, "this model's conversations do not begin with a %s message", names[to]);
    return mb_fail(MB_ERROR_ARGUMENT, "this model's chat template has no %s message after a %s message", names[to],
                   names[from]);
  }
  *text = (const char *)tokenizer->chat_bytes + span.offset;
  *bytes = span.bytes;
  return MB_OK;
}

/* What Python's str.strip takes away, which is what the templates' `trim` does. */
static bool is_python_space(uint32_t point) {
  return (point >= 0x09 && point <= 0x0D) || (point >= 0x1C && point <= 0x20) || point == 0x85 || point == 0xA0 ||
         point == 0x1680 || (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 ||
         point == 0x202F || point == 0x205F || point == 0x3000;
}

/* The length of the white space character that text[bytes] begins or, backwards, ends with; 0: none. */
static size_t space_at(const uint8_t *text, size_t bytes, bool backwards) {
  for (size_t length = 1; length <= 3 && length <= bytes; length++) {
    const uint8_t *at = backwards ? text + bytes - length : text;
    uint32_t point;
    if (mb_utf8_scan(at, length) != (int)length) continue;
    mb_utf8_decode(at, &point);
    return is_python_space(point) ? length : 0;
  }
  return 0;
}

void mb_chat_trim(const mb_tokenizer *tokenizer, mb_chat_place role, const char **text, size_t *bytes) {
  if (!tokenizer->chat || (unsigned)role > MB_ROLE_ASSISTANT || !(tokenizer->chat->trims & 1u << role)) return;
  const uint8_t *at = (const uint8_t *)*text;
  for (size_t length; (length = space_at(at, *bytes, false)) != 0; at += length) *bytes -= length;
  for (size_t length; (length = space_at(at, *bytes, true)) != 0;) *bytes -= length;
  *text = (const char *)at;
}
