/* Attributes, items and slices, in the order in which Jinja looks for them. */
#include "chat/run.h"
#include "chat/text.h"

static const chat_value undefined = {.kind = CHAT_UNDEFINED};

/* The MB_CHAT_OF_* bit of a value whose methods could be meant. */
static unsigned owner(const chat_value *value) {
  switch (value->kind) {
    case CHAT_TEXT:
      return MB_CHAT_OF_TEXT;
    case CHAT_LIST:
      return MB_CHAT_OF_LIST;
    case CHAT_MAP:
      return MB_CHAT_OF_MAP;
    case CHAT_BOOL:
    case CHAT_INT:
      return MB_CHAT_OF_NUMBER;
    default:
      return 0;
  }
}

static bool method_is_meant(chat_run *run) {
  return chat_cannot(&run->memory, "it uses a method without calling it, or an item that is named like one");
}

static bool loop_attribute(chat_run *run, const chat_loop *loop, chat_text name, chat_value *out) {
  const size_t index = loop->index, count = loop->list->count;
  const struct {
    const char *name;
    size_t value;
  } numbers[] = {{"index0", index},
                 {"index", index + 1},
                 {"length", count},
                 {"revindex", count - index},
                 {"revindex0", count - index - 1},
                 {"depth", 0}};
  for (size_t i = 0; i < 5; i++) {
    if (name.bytes == strlen(numbers[i].name) && memcmp(name.at, numbers[i].name, name.bytes) == 0) {
      *out = chat_int((int64_t)numbers[i].value);
      return true;
    }
  }
#define NAMED(text) (name.bytes == sizeof text - 1 && memcmp(name.at, text, sizeof text - 1) == 0)
  if (NAMED("first")) {
    *out = chat_bool(index == 0);
  } else if (NAMED("last")) {
    *out = chat_bool(index + 1 == count);
  } else if (NAMED("previtem")) {
    *out = index > 0 ? loop->list->items[index - 1] : undefined;
  } else if (NAMED("nextitem")) {
    *out = index + 1 < count ? loop->list->items[index + 1] : undefined;
  } else {
    return chat_cannot(&run->memory, "it asks for something of a loop besides its index, length, first and last");
  }
#undef NAMED
  return true;
}

bool chat_attribute(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value object;
  const chat_text name = chat_program_text(run, node->value);
  if (!chat_evaluate(run, chat_child(run, node, 0), &object)) return false;
  if (object.kind == CHAT_UNDEFINED) return chat_error(&run->memory, "it uses something that is not there");
  if (object.kind == CHAT_FUNCTION) return chat_cannot(&run->memory, "it looks into a function");
  if (object.kind == CHAT_LOOP) return loop_attribute(run, object.loop, name, out);
  if (node->variant & (owner(&object) | MB_CHAT_OF_UNKNOWN)) return method_is_meant(run);
  const chat_value *found =
      object.kind == CHAT_MAP || object.kind == CHAT_NAMESPACE ? chat_find(object.map, name) : NULL;
  *out = found ? *found : undefined;
  return true;
}

/* An index of Python, from the end if it is negative; false: there is no such place. */
static bool place(int64_t index, size_t count, size_t *out) {
  if (index < 0) index += (int64_t)count;
  if (index < 0 || (uint64_t)index >= count) return false;
  *out = (size_t)index;
  return true;
}

bool chat_item(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value object, key;
  size_t at;
  *out = undefined;
  if (!chat_evaluate(run, chat_child(run, node, 0), &object) || !chat_evaluate(run, chat_child(run, node, 1), &key))
    return false;
  if (object.kind == CHAT_UNDEFINED) return chat_error(&run->memory, "it uses something that is not there");
  if (object.kind == CHAT_LOOP || object.kind == CHAT_FUNCTION)
    return chat_cannot(&run->memory, "it asks for an item of a loop or of a function");
  if (key.kind == CHAT_TEXT) {
    const chat_value *found =
        object.kind == CHAT_MAP || object.kind == CHAT_NAMESPACE ? chat_find(object.map, key.text) : NULL;
    if (found) {
      *out = *found;
      return true;
    }
    return node->variant & (owner(&object) | MB_CHAT_OF_UNKNOWN) ? method_is_meant(run) : true;
  }
  if (!chat_is_number(&key) || (object.kind != CHAT_LIST && object.kind != CHAT_TEXT)) return true;
  if (object.kind == CHAT_LIST) {
    if (place(chat_number(&key), object.list->count, &at)) *out = object.list->items[at];
    return true;
  }
  if (!chat_work(&run->memory, object.text.bytes / 16)) return false;
  if (place(chat_number(&key), chat_characters(object.text), &at)) {
    const size_t begin = chat_offset(object.text, at), end = chat_offset(object.text, at + 1);
    *out = chat_of_text(object.text.at + begin, end - begin);
  }
  return true;
}

/* A bound of a slice as Python's slice.indices has it. */
static bool bound(chat_run *run, const chat_value *value, int64_t missing, int64_t least, int64_t most, size_t count,
                  int64_t *out) {
  *out = missing;
  if (value->kind == CHAT_NONE) return true;
  if (!chat_is_number(value))
    return chat_error(&run->memory, "it slices a list or a text by a value that is not a number");
  int64_t index = chat_number(value);
  if (index < 0) index = index < -(int64_t)count ? -1 : index + (int64_t)count;
  *out = index < least ? least : index > most ? most : index;
  return true;
}

bool chat_slice(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value parts[4];
  size_t count;
  for (uint32_t i = 0; i < 4; i++) {
    if (!chat_evaluate(run, chat_child(run, node, i), &parts[i])) return false;
  }
  if (parts[0].kind == CHAT_UNDEFINED) return chat_error(&run->memory, "it uses something that is not there");
  if (parts[0].kind != CHAT_LIST && parts[0].kind != CHAT_TEXT)
    return chat_cannot(&run->memory, "it cuts what is neither a list nor a text");
  if (!chat_length(&run->memory, &parts[0], &count)) return false;
  int64_t step = 1, start, stop;
  if (parts[3].kind != CHAT_NONE) {
    if (!chat_is_number(&parts[3]) || chat_number(&parts[3]) == 0)
      return chat_error(&run->memory, "it cuts with steps that are none");
    step = chat_number(&parts[3]);
  }
  const int64_t limit = (int64_t)count;
  if (step < -limit - 1) step = -limit - 1; /* as good as any longer one, and does not overflow */
  if (step > limit + 1) step = limit + 1;
  const int64_t least = step > 0 ? 0 : -1, most = step > 0 ? limit : limit - 1;
  if (!bound(run, &parts[1], step > 0 ? least : most, least, most, count, &start) ||
      !bound(run, &parts[2], step > 0 ? most : least, least, most, count, &stop))
    return false;
  const int64_t span = step > 0 ? stop - start : start - stop, stride = step > 0 ? step : -step;
  const size_t kept = span > 0 ? (size_t)((span + stride - 1) / stride) : 0;
  if (parts[0].kind == CHAT_TEXT) {
    if (step != 1) return chat_cannot(&run->memory, "it slices a text with a step other than 1");
    const size_t begin = chat_offset(parts[0].text, (size_t)start);
    const size_t end = kept ? chat_offset(parts[0].text, (size_t)stop) : begin;
    *out = chat_of_text(parts[0].text.at + begin, end - begin);
    return chat_work(&run->memory, parts[0].text.bytes / 16);
  }
  chat_list *list;
  if (!chat_new_list(&run->memory, kept, &list, out)) return false;
  for (size_t i = 0; i < kept; i++) list->items[i] = parts[0].list->items[start + (int64_t)i * step];
  return true;
}
