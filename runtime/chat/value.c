#include "chat/value.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "chat/text.h"

struct chat_block {
  chat_block *next;
  uint64_t bytes[];
};

enum { BLOCK_BYTES = 16 << 10, DEEPEST = 16 };

bool chat_no_memory(chat_memory *memory) {
  memory->status = mb_fail(MB_ERROR_MEMORY, "no memory to put this conversation into the model's chat template");
  return false;
}

void *chat_allocate(chat_memory *memory, size_t count, size_t size) {
  size_t bytes = 8; /* of nothing, too: NULL means failure */
  if (count > 0 && size > (SIZE_MAX / 2) / count)
    bytes = SIZE_MAX;
  else if (count * size > 8)
    bytes = (count * size + 7) & ~(size_t)7;
  if (bytes > memory->free_bytes) {
    const size_t block = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
    chat_block *made = block > memory->left ? NULL : malloc(sizeof *made + block);
    if (!made) {
      chat_no_memory(memory);
      return NULL;
    }
    memory->left -= block;
    made->next = memory->blocks;
    memory->blocks = made;
    memory->free = (uint8_t *)made->bytes;
    memory->free_bytes = block;
  }
  void *found = memory->free;
  memory->free += bytes;
  memory->free_bytes -= bytes;
  return found;
}

void chat_memory_free(chat_memory *memory) {
  for (chat_block *next, *block = memory->blocks; block; block = next) {
    next = block->next;
    free(block);
  }
  memory->blocks = NULL;
}

bool chat_work(chat_memory *memory, uint64_t steps) {
  if (steps < memory->work_left) {
    memory->work_left -= steps;
    return true;
  }
  memory->status = mb_fail(MB_ERROR_ARGUMENT, "the model's chat template takes too long for this conversation");
  return false;
}

bool chat_cannot(chat_memory *memory, const char *what) {
  memory->status =
      mb_fail(MB_ERROR_ARGUMENT, "the model's chat template does what this program cannot do exactly: %s", what);
  return false;
}

bool chat_error(chat_memory *memory, const char *what) {
  memory->status = mb_fail(MB_ERROR_ARGUMENT, "the model's chat template refuses this conversation: %s", what);
  return false;
}

bool chat_truth(const chat_value *value) {
  switch (value->kind) {
    case CHAT_BOOL:
      return value->truth;
    case CHAT_INT:
      return value->number != 0;
    case CHAT_TEXT:
      return value->text.bytes > 0;
    case CHAT_LIST:
      return value->list->count > 0;
    case CHAT_MAP:
      return value->map->count > 0;
    case CHAT_NAMESPACE:
    case CHAT_LOOP: /* never empty while it runs */
    case CHAT_FUNCTION:
      return true;
    default:
      return false;
  }
}

static chat_text literal(const char *text) { return (chat_text){(const uint8_t *)text, strlen(text)}; }

bool chat_string(chat_memory *memory, const chat_value *value, chat_text *out) {
  switch (value->kind) {
    case CHAT_TEXT:
      *out = value->text;
      return true;
    case CHAT_UNDEFINED:
      *out = literal("");
      return true;
    case CHAT_NONE:
      *out = literal("None");
      return true;
    case CHAT_BOOL:
      *out = literal(value->truth ? "True" : "False");
      return true;
    case CHAT_INT: {
      char *digits = chat_allocate(memory, 24, 1);
      if (!digits) return false;
      snprintf(digits, 24, "%" PRId64, value->number);
      *out = literal(digits);
      return true;
    }
    default:
      return chat_cannot(memory, "it writes out a list or an object");
  }
}

static bool is_scalar(const chat_value *value) { return value->kind <= CHAT_TEXT; }

bool chat_equal(chat_memory *memory, const chat_value *a, const chat_value *b, bool *equal) {
  if (!is_scalar(a) && !is_scalar(b)) return chat_cannot(memory, "it compares lists or objects");
  if (chat_is_number(a) && chat_is_number(b)) {
    *equal = chat_number(a) == chat_number(b);
  } else if (a->kind == CHAT_TEXT && b->kind == CHAT_TEXT) {
    *equal = chat_same_text(a->text, b->text);
    return chat_work(memory, a->text.bytes / 64);
  } else {
    *equal = a->kind == b->kind; /* none and undefined have one value each */
  }
  return true;
}

bool chat_contains(chat_memory *memory, const chat_value *a, const chat_value *b, bool *contains) {
  *contains = false;
  switch (b->kind) {
    case CHAT_TEXT: {
      size_t at;
      if (a->kind != CHAT_TEXT) return chat_error(memory, "it looks in a text for a value that is not a text");
      return chat_search(memory, b->text, a->text, contains, &at);
    }
    case CHAT_LIST:
      for (size_t i = 0; i < b->list->count && !*contains; i++) {
        if (!chat_work(memory, 1) || !chat_equal(memory, &b->list->items[i], a, contains)) return false;
      }
      return true;
    case CHAT_MAP:
      if (a->kind != CHAT_TEXT) return chat_cannot(memory, "it looks for a key that is not a text");
      *contains = chat_find(b->map, a->text) != NULL;
      return true;
    case CHAT_UNDEFINED:
      return true;
    default:
      return chat_error(memory, "it looks for something in what holds nothing");
  }
}

bool chat_order(chat_memory *memory, const chat_value *a, const chat_value *b, int *order) {
  if (chat_is_number(a) && chat_is_number(b)) {
    *order = (chat_number(a) > chat_number(b)) - (chat_number(a) < chat_number(b));
    return true;
  }
  if (a->kind != CHAT_TEXT || b->kind != CHAT_TEXT)
    return chat_cannot(memory, "it orders values that are not both numbers or both texts");
  /* UTF-8 sorts as its characters do. */
  const size_t shared = a->text.bytes < b->text.bytes ? a->text.bytes : b->text.bytes;
  *order = shared ? memcmp(a->text.at, b->text.at, shared) : 0;
  if (*order == 0) *order = (a->text.bytes > b->text.bytes) - (a->text.bytes < b->text.bytes);
  return chat_work(memory, shared / 64);
}

chat_value *chat_find(const chat_map *map, chat_text key) {
  for (size_t i = 0; i < map->count; i++) {
    if (chat_same_text(map->entries[i].key, key)) return &map->entries[i].value;
  }
  return NULL;
}

bool chat_put(chat_memory *memory, chat_map *map, chat_text key, const chat_value *value) {
  chat_value *old = chat_find(map, key);
  if (old) {
    *old = *value;
    return true;
  }
  if (map->count == map->capacity) {
    const size_t capacity = map->capacity ? 2 * map->capacity : 4;
    chat_entry *entries = chat_allocate(memory, capacity, sizeof *entries);
    if (!entries) return false;
    if (map->count) memcpy(entries, map->entries, map->count * sizeof *entries);
    map->entries = entries;
    map->capacity = capacity;
  }
  map->entries[map->count++] = (chat_entry){key, *value};
  return true;
}

bool chat_new_list(chat_memory *memory, size_t count, chat_list **list, chat_value *out) {
  chat_list *made = chat_allocate(memory, 1, sizeof *made);
  if (!made || !chat_work(memory, count / 16)) return false;
  *made = (chat_list){chat_allocate(memory, count, sizeof *made->items), count};
  if (!made->items) return false;
  *list = made;
  *out = (chat_value){.kind = CHAT_LIST, .list = made};
  return true;
}

bool chat_length(chat_memory *memory, const chat_value *value, size_t *length) {
  switch (value->kind) {
    case CHAT_TEXT:
      *length = chat_characters(value->text);
      return chat_work(memory, value->text.bytes / 64);
    case CHAT_LIST:
      *length = value->list->count;
      return true;
    case CHAT_MAP:
      *length = value->map->count;
      return true;
    case CHAT_UNDEFINED:
      *length = 0;
      return true;
    default:
      return chat_error(memory, "it asks for the length of what has none");
  }
}

static bool append(chat_memory *memory, mb_buffer *out, const void *bytes, size_t count) {
  return mb_buffer_append(out, bytes, count) || chat_no_memory(memory);
}

static bool json_text(chat_memory *memory, chat_text text, mb_buffer *out) {
  static const char short_escapes[][2] = {{'"', '"'},  {'\\', '\\'}, {'\n', 'n'}, {'\r', 'r'},
                                          {'\t', 't'}, {'\b', 'b'},  {'\f', 'f'}};
  if (!chat_work(memory, text.bytes / 16) || !append(memory, out, "\"", 1)) return false;
  for (size_t i = 0; i < text.bytes; i++) {
    char escape[8] = {(char)text.at[i]};
    size_t length = 1;
    for (size_t j = 0; j < sizeof short_escapes / sizeof *short_escapes; j++) {
      if (text.at[i] == (uint8_t)short_escapes[j][0])
        length = (size_t)snprintf(escape, sizeof escape, "\\%c", short_escapes[j][1]);
    }
    if (length == 1 && text.at[i] < 0x20)
      length = (size_t)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)text.at[i]);
    if (!append(memory, out, escape, length)) return false;
  }
  return append(memory, out, "\"", 1);
}

static bool json_value(chat_memory *memory, const chat_value *value, mb_buffer *out, int depth) {
  static const char *const separators[] = {", ", ": "};
  if (depth == DEEPEST) return chat_cannot(memory, "it writes JSON that is nested too deep");
  if (!chat_work(memory, 1)) return false;
  switch (value->kind) {
    case CHAT_TEXT:
      return json_text(memory, value->text, out);
    case CHAT_NONE:
      return append(memory, out, "null", 4);
    case CHAT_BOOL:
      return append(memory, out, value->truth ? "true" : "false", value->truth ? 4 : 5);
    case CHAT_INT: {
      chat_text digits;
      return chat_string(memory, value, &digits) && append(memory, out, digits.at, digits.bytes);
    }
    case CHAT_LIST:
      if (!append(memory, out, "[", 1)) return false;
      for (size_t i = 0; i < value->list->count; i++) {
        if ((i && !append(memory, out, separators[0], 2)) ||
            !json_value(memory, &value->list->items[i], out, depth + 1))
          return false;
      }
      return append(memory, out, "]", 1);
    case CHAT_MAP:
      if (!append(memory, out, "{", 1)) return false;
      for (size_t i = 0; i < value->map->count; i++) {
        if ((i && !append(memory, out, separators[0], 2)) || !json_text(memory, value->map->entries[i].key, out) ||
            !append(memory, out, separators[1], 2) ||
            !json_value(memory, &value->map->entries[i].value, out, depth + 1))
          return false;
      }
      return append(memory, out, "}", 1);
    default:
      return chat_error(memory, "it writes something as JSON that JSON does not have");
  }
}

bool chat_json(chat_memory *memory, const chat_value *value, mb_buffer *out) {
  return json_value(memory, value, out, 0);
}

bool chat_keep(chat_memory *memory, mb_buffer *buffer, chat_value *out) {
  uint8_t *kept = chat_allocate(memory, buffer->size, 1);
  if (!kept) return false;
  if (buffer->size) memcpy(kept, buffer->data, buffer->size);
  *out = chat_of_text(kept, buffer->size);
  buffer->size = 0;
  return true;
}
