/* Methods, filters and tests of a chat template. */
#include "chat/run.h"
#include "chat/text.h"

enum { MOST_ARGUMENTS = 3 };

static bool arguments(chat_run *run, const mb_chat_node *node, chat_value *object, chat_value *rest) {
  if (!chat_evaluate(run, chat_child(run, node, 0), object)) return false;
  for (uint32_t i = 1; i < node->count; i++) {
    if (!chat_evaluate(run, chat_child(run, node, i), &rest[i - 1])) return false;
  }
  return true;
}

static bool get(chat_run *run, const chat_value *object, const chat_value *rest, size_t count, chat_value *out) {
  if (object->kind != CHAT_MAP || count == 0 || count > 2 || rest[0].kind != CHAT_TEXT)
    return chat_cannot(&run->memory, "it calls get of something else than an object");
  const chat_value *found = chat_find(object->map, rest[0].text);
  *out = found ? *found : count == 2 ? rest[1] : (chat_value){.kind = CHAT_NONE};
  return true;
}

bool chat_method_call(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value object, rest[MOST_ARGUMENTS];
  const size_t count = node->count - 1;
  if (!arguments(run, node, &object, rest)) return false;
  if (node->variant == MB_CHAT_METHOD_GET) return get(run, &object, rest, count, out);
  if (object.kind != CHAT_TEXT)
    return chat_cannot(&run->memory, "it calls a text method on a value that is not a text");
  return chat_text_method(&run->memory, (mb_chat_method)node->variant, object.text, rest, count, out);
}

static bool filter_default(const mb_chat_node *node, const chat_value *object, const chat_value *rest,
                           chat_value *out) {
  const bool missing =
      object->kind == CHAT_UNDEFINED || (node->count == 3 && chat_truth(&rest[1]) && !chat_truth(object));
  *out = !missing ? *object : node->count > 1 ? rest[0] : chat_of_text("", 0);
  return true;
}

/* first and last. */
static bool filter_end(chat_run *run, const chat_value *object, bool last, chat_value *out) {
  *out = (chat_value){.kind = CHAT_UNDEFINED};
  if (object->kind == CHAT_LIST) {
    if (object->list->count) *out = object->list->items[last ? object->list->count - 1 : 0];
    return true;
  }
  if (object->kind != CHAT_TEXT)
    return chat_cannot(&run->memory, "it takes the first or last element of a value that is not a list");
  const size_t count = chat_characters(object->text);
  if (count == 0) return true;
  const size_t begin = last ? chat_offset(object->text, count - 1) : 0;
  const size_t end = last ? object->text.bytes : chat_offset(object->text, 1);
  *out = chat_of_text(object->text.at + begin, end - begin);
  return chat_work(&run->memory, object->text.bytes / 16);
}

static bool filter_join(chat_run *run, const mb_chat_node *node, const chat_value *object, const chat_value *rest,
                        chat_value *out) {
  chat_text separator = {NULL, 0};
  if (object->kind != CHAT_LIST) return chat_cannot(&run->memory, "it joins a value that is not a list");
  if (node->count > 1 && !chat_string(&run->memory, &rest[0], &separator)) return false;
  return chat_join(&run->memory, separator, object->list, true, out);
}

/* Those that make a text of the value first. */
static bool filter_text(chat_run *run, const mb_chat_node *node, const chat_value *object, const chat_value *rest,
                        chat_value *out) {
  chat_text text, old, by;
  if (!chat_string(&run->memory, object, &text)) return false;
  switch (node->variant) {
    case MB_CHAT_FILTER_TRIM:
      *out = chat_of_text(text.at, text.bytes);
      if (node->count == 1 || rest[0].kind == CHAT_NONE) return chat_strip(&run->memory, &out->text, NULL, true, true);
      if (rest[0].kind != CHAT_TEXT) return chat_error(&run->memory, "it strips what are no characters");
      return chat_strip(&run->memory, &out->text, &rest[0].text, true, true);
    case MB_CHAT_FILTER_UPPER:
      return chat_case(&run->memory, MB_CHAT_METHOD_UPPER, text, out);
    case MB_CHAT_FILTER_LOWER:
      return chat_case(&run->memory, MB_CHAT_METHOD_LOWER, text, out);
    case MB_CHAT_FILTER_CAPITALIZE:
      return chat_case(&run->memory, MB_CHAT_METHOD_CAPITALIZE, text, out);
    case MB_CHAT_FILTER_TITLE:
      return chat_title(&run->memory, text, out);
    case MB_CHAT_FILTER_REPLACE:
      if (node->count != 3) return chat_cannot(&run->memory, "it replaces a number of times");
      return chat_string(&run->memory, &rest[0], &old) && chat_string(&run->memory, &rest[1], &by) &&
             chat_replace(&run->memory, text, old, by, -1, out);
    default: /* string */
      *out = chat_of_text(text.at, text.bytes);
      return true;
  }
}

bool chat_filter(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value object, rest[MOST_ARGUMENTS];
  size_t length;
  if (!arguments(run, node, &object, rest)) return false;
  switch (node->variant) {
    case MB_CHAT_FILTER_LENGTH:
      if (!chat_length(&run->memory, &object, &length)) return false;
      *out = chat_int((int64_t)length);
      return true;
    case MB_CHAT_FILTER_DEFAULT:
      return filter_default(node, &object, rest, out);
    case MB_CHAT_FILTER_FIRST:
    case MB_CHAT_FILTER_LAST:
      return filter_end(run, &object, node->variant == MB_CHAT_FILTER_LAST, out);
    case MB_CHAT_FILTER_JOIN:
      return filter_join(run, node, &object, rest, out);
    case MB_CHAT_FILTER_LIST:
      if (object.kind != CHAT_LIST) return chat_cannot(&run->memory, "it makes a list of a value that is not a list");
      *out = object;
      return true;
    case MB_CHAT_FILTER_TOJSON: {
      mb_buffer made = {0};
      const bool done = chat_json(&run->memory, &object, &made) && chat_keep(&run->memory, &made, out);
      mb_buffer_free(&made);
      return done;
    }
    default:
      return filter_text(run, node, &object, rest, out);
  }
}

static bool test_number(chat_run *run, const mb_chat_node *node, const chat_value *object, const chat_value *rest,
                        chat_value *out) {
  int64_t divisor = 2;
  if (!chat_is_number(object)) return chat_cannot(&run->memory, "it asks whether a value is odd that is not a number");
  if (node->variant == MB_CHAT_TEST_DIVISIBLEBY) {
    if (node->count != 2 || !chat_is_number(&rest[0]) || chat_number(&rest[0]) <= 0)
      return chat_cannot(&run->memory, "it divides by a value that is not a number above 0");
    divisor = chat_number(&rest[0]);
  }
  const bool divides = chat_number(object) % divisor == 0;
  *out = chat_bool(divides == (node->variant != MB_CHAT_TEST_ODD));
  return true;
}

bool chat_test(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value object, rest[MOST_ARGUMENTS];
  if (!arguments(run, node, &object, rest)) return false;
  const chat_kind kind = object.kind;
  bool holds = false;
  switch (node->variant) {
    case MB_CHAT_TEST_DEFINED:
      holds = kind != CHAT_UNDEFINED;
      break;
    case MB_CHAT_TEST_UNDEFINED:
      holds = kind == CHAT_UNDEFINED;
      break;
    case MB_CHAT_TEST_NONE:
      holds = kind == CHAT_NONE;
      break;
    case MB_CHAT_TEST_STRING:
      holds = kind == CHAT_TEXT;
      break;
    case MB_CHAT_TEST_MAPPING:
      holds = kind == CHAT_MAP;
      break;
    case MB_CHAT_TEST_ITERABLE:
    case MB_CHAT_TEST_SEQUENCE: /* an undefined value is both */
      if (kind == CHAT_LOOP || kind == CHAT_FUNCTION || kind == CHAT_NAMESPACE)
        return chat_cannot(&run->memory, "it asks whether a loop, function or namespace is a list");
      holds = kind == CHAT_TEXT || kind == CHAT_LIST || kind == CHAT_MAP || kind == CHAT_UNDEFINED;
      break;
    case MB_CHAT_TEST_NUMBER:
      holds = kind == CHAT_INT || kind == CHAT_BOOL;
      break;
    case MB_CHAT_TEST_INTEGER: /* without true and false */
      holds = kind == CHAT_INT;
      break;
    case MB_CHAT_TEST_BOOLEAN:
      holds = kind == CHAT_BOOL;
      break;
    case MB_CHAT_TEST_TRUE:
      holds = kind == CHAT_BOOL && object.truth;
      break;
    case MB_CHAT_TEST_FALSE:
      holds = kind == CHAT_BOOL && !object.truth;
      break;
    default:
      return test_number(run, node, &object, rest, out);
  }
  *out = chat_bool(holds);
  return true;
}

bool chat_select(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value object, rest[MOST_ARGUMENTS];
  chat_list *list;
  if (!arguments(run, node, &object, rest)) return false;
  if (object.kind != CHAT_LIST || rest[0].kind != CHAT_TEXT)
    return chat_cannot(&run->memory, "it selects from something else than a list");
  if (!chat_new_list(&run->memory, object.list->count, &list, out)) return false;
  list->count = 0;
  for (size_t i = 0; i < object.list->count; i++) {
    const chat_value *element = &object.list->items[i];
    if (element->kind != CHAT_MAP) return chat_cannot(&run->memory, "it selects from a list of other than objects");
    const chat_value *found = chat_find(element->map, rest[0].text), missing = {.kind = CHAT_UNDEFINED};
    if (!found) found = &missing;
    bool holds = chat_truth(found);
    if (!chat_work(&run->memory, 1) || (node->count == 3 && !chat_equal(&run->memory, found, &rest[1], &holds)))
      return false;
    if (holds != (node->variant == 1)) list->items[list->count++] = *element;
  }
  return true;
}
