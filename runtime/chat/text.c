#include "chat/text.h"

#include "base/unicode.h"

bool chat_is_space(uint32_t point) {
  return (point >= 0x09 && point <= 0x0D) || (point >= 0x1C && point <= 0x20) || point == 0x85 || point == 0xA0 ||
         point == 0x1680 || (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 ||
         point == 0x202F || point == 0x205F || point == 0x3000;
}

static bool is_continuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

size_t chat_characters(chat_text text) {
  size_t count = 0;
  for (size_t i = 0; i < text.bytes; i++) count += !is_continuation(text.at[i]);
  return count;
}

size_t chat_offset(chat_text text, size_t index) {
  size_t at = 0;
  for (; at < text.bytes; at++) {
    if (!is_continuation(text.at[at]) && index-- == 0) break;
  }
  return at;
}

/* Whether the character at text[at] is one to strip. */
static bool strips(chat_text text, size_t at, const chat_text *strip) {
  uint32_t point, other;
  mb_utf8_decode(text.at + at, &point);
  if (!strip) return chat_is_space(point);
  for (size_t i = 0; i < strip->bytes;) {
    i += mb_utf8_decode(strip->at + i, &other);
    if (other == point) return true;
  }
  return false;
}

bool chat_strip(chat_memory *memory, chat_text *text, const chat_text *strip, bool left, bool right) {
  const size_t before = text->bytes;
  while (left && text->bytes > 0 && strips(*text, 0, strip)) {
    size_t length = 1;
    while (length < text->bytes && is_continuation(text->at[length])) length++;
    text->at += length;
    text->bytes -= length;
  }
  while (right && text->bytes > 0) {
    size_t at = text->bytes - 1;
    while (at > 0 && is_continuation(text->at[at])) at--;
    if (!strips(*text, at, strip)) break;
    text->bytes = at;
  }
  return chat_work(memory, (before - text->bytes) * (strip ? strip->bytes + 1 : 1) / 16);
}

/* The first place at or after `from`; the text's end + 1 when there is none. */
static size_t find_from(chat_text text, chat_text part, size_t from) {
  if (part.bytes == 0) return from;
  while (from < text.bytes && part.bytes <= text.bytes - from) {
    const uint8_t *at = memchr(text.at + from, part.at[0], text.bytes - from - part.bytes + 1);
    if (!at) break;
    from = (size_t)(at - text.at);
    if (memcmp(at, part.at, part.bytes) == 0) return from;
    from++;
  }
  return text.bytes + 1;
}

/* Looking for a long part can cost its length at every place. */
static bool search_work(chat_memory *memory, chat_text text, chat_text part) {
  return chat_work(memory, text.bytes / 64 + (part.bytes > 64 ? (uint64_t)text.bytes * (part.bytes / 64) / 64 : 0) + 1);
}

bool chat_search(chat_memory *memory, chat_text text, chat_text part, bool *found, size_t *at) {
  *at = find_from(text, part, 0);
  *found = *at <= text.bytes;
  return search_work(memory, text, part);
}

static bool search_last(chat_memory *memory, chat_text text, chat_text part, bool *found, size_t *at) {
  *found = false;
  if (part.bytes > text.bytes) return true;
  size_t place = text.bytes - part.bytes + 1;
  while (place-- > 0 && !*found) {
    *found = chat_same_text((chat_text){text.at + place, part.bytes}, part);
    *at = place;
  }
  const uint64_t tried = text.bytes - part.bytes + 1 - *at;
  return chat_work(memory, 1 + tried / 16 + tried * (part.bytes / 64));
}

static size_t occurrences(chat_text text, chat_text part) {
  size_t count = 0;
  for (size_t at = 0; (at = find_from(text, part, at)) <= text.bytes; at += part.bytes) count++;
  return count;
}

bool chat_replace(chat_memory *memory, chat_text text, chat_text old, chat_text by, int64_t most, chat_value *out) {
  if (old.bytes == 0) return chat_cannot(memory, "it replaces an empty text");
  if (!search_work(memory, text, old)) return false;
  size_t count = occurrences(text, old), done = 0, grown = 0, size = text.bytes;
  if (most >= 0 && (uint64_t)most < count) count = (size_t)most;
  if (__builtin_mul_overflow(count, by.bytes, &grown) || __builtin_add_overflow(size, grown, &size))
    return chat_no_memory(memory);
  size -= count * old.bytes;
  uint8_t *to = chat_allocate(memory, size, 1);
  if (!to || !chat_work(memory, size / 64)) return false;
  *out = chat_of_text(to, size);
  for (size_t i = 0; i < count; i++) {
    const size_t at = find_from(text, old, done);
    memcpy(to, text.at + done, at - done);
    to += at - done;
    if (by.bytes) memcpy(to, by.at, by.bytes);
    to += by.bytes;
    done = at + old.bytes;
  }
  if (done < text.bytes) memcpy(to, text.at + done, text.bytes - done);
  return true;
}

static bool is_ascii(chat_text text) {
  for (size_t i = 0; i < text.bytes; i++) {
    if (text.at[i] >= 0x80) return false;
  }
  return true;
}

static uint8_t upper(uint8_t c) { return c >= 'a' && c <= 'z' ? (uint8_t)(c - 'a' + 'A') : c; }
static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c - 'A' + 'a') : c; }

/* A copy whose bytes may be changed; refuses what is not ASCII. */
static uint8_t *copy_ascii(chat_memory *memory, chat_text text, chat_value *out) {
  if (!is_ascii(text)) {
    chat_cannot(memory, "it changes the case of letters that are not ASCII");
    return NULL;
  }
  if (!chat_work(memory, text.bytes / 16)) return NULL;
  uint8_t *copy = chat_allocate(memory, text.bytes, 1);
  if (copy && text.bytes) memcpy(copy, text.at, text.bytes);
  *out = chat_of_text(copy, text.bytes);
  return copy;
}

bool chat_case(chat_memory *memory, mb_chat_method method, chat_text text, chat_value *out) {
  uint8_t *copy = copy_ascii(memory, text, out);
  if (!copy) return false;
  bool in_word = false;
  for (size_t i = 0; i < text.bytes; i++) {
    const bool first = method == MB_CHAT_METHOD_TITLE ? !in_word : i == 0;
    const bool up = method == MB_CHAT_METHOD_UPPER || (method != MB_CHAT_METHOD_LOWER && first);
    in_word = lower(copy[i]) >= 'a' && lower(copy[i]) <= 'z';
    copy[i] = up ? upper(copy[i]) : lower(copy[i]);
  }
  return true;
}

bool chat_title(chat_memory *memory, chat_text text, chat_value *out) {
  uint8_t *copy = copy_ascii(memory, text, out);
  if (!copy) return false;
  bool first = true;
  for (size_t i = 0; i < text.bytes; i++) {
    const bool between = chat_is_space(copy[i]) || (copy[i] && strchr("-({[<", copy[i]));
    copy[i] = first ? upper(copy[i]) : lower(copy[i]);
    first = between;
  }
  return true;
}

/* any: elements become texts, as the filter does; the method wants texts. */
bool chat_join(chat_memory *memory, chat_text separator, const chat_list *list, bool any, chat_value *out) {
  mb_buffer made = {0};
  bool done = true;
  for (size_t i = 0; done && i < list->count; i++) {
    chat_text part;
    if (!any && list->items[i].kind != CHAT_TEXT) {
      done = chat_error(memory, "it joins what are no texts");
      break;
    }
    if (!(done = chat_string(memory, &list->items[i], &part))) break;
    if (made.size > memory->left || (i && !mb_buffer_append(&made, separator.at, separator.bytes)) ||
        !mb_buffer_append(&made, part.at, part.bytes))
      done = chat_no_memory(memory);
  }
  done = done && chat_keep(memory, &made, out) && chat_work(memory, list->count + out->text.bytes / 64);
  mb_buffer_free(&made);
  return done;
}

/* Where the next piece of a split at white space begins and ends, from the left. */
static bool next_word(chat_text text, size_t *from, size_t *end) {
  while (*from < text.bytes && strips(text, *from, NULL))
    *from += chat_offset((chat_text){text.at + *from, text.bytes - *from}, 1);
  for (*end = *from; *end < text.bytes && !strips(text, *end, NULL);) {
    do (*end)++;
    while (*end < text.bytes && is_continuation(text.at[*end]));
  }
  return *from < *end;
}

static bool split_words(chat_memory *memory, chat_text text, chat_value *out) {
  size_t count = 0, end;
  for (size_t from = 0; next_word(text, &from, &end); from = end) count++;
  chat_list *list;
  if (!chat_work(memory, text.bytes / 4) || !chat_new_list(memory, count, &list, out)) return false;
  count = 0;
  for (size_t from = 0; next_word(text, &from, &end); from = end)
    list->items[count++] = chat_of_text(text.at + from, end - from);
  return true;
}

/* most: cuts at most, negative: all of them. */
static bool split(chat_memory *memory, chat_text text, chat_text separator, int64_t most, chat_value *out) {
  if (separator.bytes == 0) return chat_error(memory, "empty separator");
  if (!search_work(memory, text, separator)) return false;
  size_t cuts = occurrences(text, separator), begin = 0;
  if (most >= 0 && (uint64_t)most < cuts) cuts = (size_t)most;
  chat_list *list;
  if (!chat_new_list(memory, cuts + 1, &list, out)) return false;
  for (size_t i = 0; i < cuts; i++) {
    const size_t at = find_from(text, separator, begin);
    list->items[i] = chat_of_text(text.at + begin, at - begin);
    begin = at + separator.bytes;
  }
  list->items[cuts] = chat_of_text(text.at + begin, text.bytes - begin);
  return true;
}

/* From the right, where separators that overlap fall otherwise. */
static bool split_right(chat_memory *memory, chat_text text, chat_text separator, int64_t most, chat_value *out) {
  if (separator.bytes == 0) return chat_error(memory, "empty separator");
  size_t cuts = 0;
  chat_list *list = NULL;
  for (int pass = 0; pass < 2; pass++) { /* count, then fill */
    size_t end = text.bytes, left = cuts;
    if (pass == 1 && !chat_new_list(memory, cuts + 1, &list, out)) return false;
    for (cuts = 0; most < 0 || cuts < (uint64_t)most; cuts++) {
      bool found;
      size_t at = 0;
      if (!search_last(memory, (chat_text){text.at, end}, separator, &found, &at)) return false;
      if (!found) break;
      if (list) list->items[left - cuts] = chat_of_text(text.at + at + separator.bytes, end - at - separator.bytes);
      end = at;
    }
    if (list) list->items[0] = chat_of_text(text.at, end);
  }
  return true;
}

static bool partition(chat_memory *memory, chat_text text, chat_text separator, bool right, chat_value *out) {
  if (separator.bytes == 0) return chat_error(memory, "empty separator");
  bool found;
  size_t at = 0;
  chat_list *list;
  if (!(right ? search_last : chat_search)(memory, text, separator, &found, &at)) return false;
  if (!chat_new_list(memory, 3, &list, out)) return false;
  for (int i = 0; i < 3; i++) list->items[i] = chat_of_text(text.at, 0);
  if (found) {
    list->items[0] = chat_of_text(text.at, at);
    list->items[1] = chat_of_text(text.at + at, separator.bytes);
    list->items[2] = chat_of_text(text.at + at + separator.bytes, text.bytes - at - separator.bytes);
  } else {
    list->items[right ? 2 : 0] = chat_of_text(text.at, text.bytes);
  }
  return true;
}

static bool split_method(chat_memory *memory, mb_chat_method method, chat_text text, const chat_value *arguments,
                         size_t count, chat_value *out) {
  int64_t most = -1;
  if (count == 2) {
    if (!chat_is_number(&arguments[1]))
      return chat_error(memory, "it splits a text, and the number of times is not a number");
    most = chat_number(&arguments[1]);
  }
  if (count == 0 || arguments[0].kind == CHAT_NONE) {
    if (most >= 0) return chat_cannot(memory, "it splits a text at white space a number of times");
    return split_words(memory, text, out);
  }
  if (arguments[0].kind != CHAT_TEXT) return chat_error(memory, "it splits a text by a value that is not a text");
  return method == MB_CHAT_METHOD_SPLIT ? split(memory, text, arguments[0].text, most, out)
                                        : split_right(memory, text, arguments[0].text, most, out);
}

static bool strip_method(chat_memory *memory, mb_chat_method method, chat_text text, const chat_value *arguments,
                         size_t count, chat_value *out) {
  const chat_text *strip = NULL;
  if (count && arguments[0].kind != CHAT_NONE) {
    if (arguments[0].kind != CHAT_TEXT) return chat_error(memory, "it strips what are no characters");
    strip = &arguments[0].text;
  }
  const bool left = method != MB_CHAT_METHOD_RSTRIP, right = method != MB_CHAT_METHOD_LSTRIP;
  if (!chat_strip(memory, &text, strip, left, right)) return false;
  *out = chat_of_text(text.at, text.bytes);
  return true;
}

static bool starts(chat_text text, chat_text part) {
  return part.bytes <= text.bytes && chat_same_text((chat_text){text.at, part.bytes}, part);
}

static bool ends(chat_text text, chat_text part) {
  return part.bytes <= text.bytes && chat_same_text((chat_text){text.at + text.bytes - part.bytes, part.bytes}, part);
}

/* Those that take one text. */
static bool part_method(chat_memory *memory, mb_chat_method method, chat_text text, const chat_value *argument,
                        chat_value *out) {
  bool found;
  size_t at = 0;
  if (argument->kind != CHAT_TEXT) return chat_cannot(memory, "it calls a text method with a value that is not a text");
  const chat_text part = argument->text;
  if (!chat_work(memory, part.bytes / 64)) return false;
  switch (method) {
    case MB_CHAT_METHOD_STARTSWITH:
      *out = chat_bool(starts(text, part));
      return true;
    case MB_CHAT_METHOD_ENDSWITH:
      *out = chat_bool(ends(text, part));
      return true;
    case MB_CHAT_METHOD_REMOVEPREFIX:
      at = starts(text, part) ? part.bytes : 0;
      *out = chat_of_text(text.at + at, text.bytes - at);
      return true;
    case MB_CHAT_METHOD_REMOVESUFFIX:
      *out = chat_of_text(text.at, text.bytes - (ends(text, part) ? part.bytes : 0));
      return true;
    case MB_CHAT_METHOD_PARTITION:
    case MB_CHAT_METHOD_RPARTITION:
      return partition(memory, text, part, method == MB_CHAT_METHOD_RPARTITION, out);
    case MB_CHAT_METHOD_COUNT:
      *out = chat_int((int64_t)(part.bytes ? occurrences(text, part) : chat_characters(text) + 1));
      return search_work(memory, text, part);
    default:
      if (!(method == MB_CHAT_METHOD_RFIND ? search_last : chat_search)(memory, text, part, &found, &at)) return false;
      *out = chat_int(found ? (int64_t)chat_characters((chat_text){text.at, at}) : -1);
      return true;
  }
}

bool chat_text_method(chat_memory *memory, mb_chat_method method, chat_text text, const chat_value *arguments,
                      size_t count, chat_value *out) {
  switch (method) {
    case MB_CHAT_METHOD_SPLIT:
    case MB_CHAT_METHOD_RSPLIT:
      return split_method(memory, method, text, arguments, count, out);
    case MB_CHAT_METHOD_STRIP:
    case MB_CHAT_METHOD_LSTRIP:
    case MB_CHAT_METHOD_RSTRIP:
      return strip_method(memory, method, text, arguments, count, out);
    case MB_CHAT_METHOD_UPPER:
    case MB_CHAT_METHOD_LOWER:
    case MB_CHAT_METHOD_TITLE:
    case MB_CHAT_METHOD_CAPITALIZE:
      return chat_case(memory, method, text, out);
    case MB_CHAT_METHOD_JOIN:
      if (count != 1 || arguments[0].kind != CHAT_LIST)
        return chat_cannot(memory, "it joins a value that is not a list");
      return chat_join(memory, text, arguments[0].list, false, out);
    case MB_CHAT_METHOD_REPLACE:
      if (count < 2 || arguments[0].kind != CHAT_TEXT || arguments[1].kind != CHAT_TEXT ||
          (count == 3 && !chat_is_number(&arguments[2])))
        return chat_error(memory, "it replaces what are no texts");
      return chat_replace(memory, text, arguments[0].text, arguments[1].text,
                          count == 3 ? chat_number(&arguments[2]) : -1, out);
    case MB_CHAT_METHOD_GET:
      return chat_error(memory, "it calls get of a text");
    default:
      if (count != 1) return chat_cannot(memory, "it calls a method of a text with other arguments than one text");
      return part_method(memory, method, text, arguments, out);
  }
}
