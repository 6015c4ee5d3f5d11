/* The expressions of a chat template. */
#include <stdio.h>

#include "base/error.h"
#include "chat/date.h"
#include "chat/run.h"
#include "chat/text.h"

enum { MESSAGE_BYTES = 512 };

static bool look_up(const chat_run *run, uint32_t name, chat_value *out) {
  for (size_t i = run->count; i-- > run->frame;) {
    if (run->bindings[i].name == name) {
      *out = run->bindings[i].value;
      return true;
    }
  }
  for (size_t i = run->frame ? run->outermost : 0; i-- > 0;) {
    if (run->bindings[i].name == name) {
      *out = run->bindings[i].value;
      return true;
    }
  }
  *out = (chat_value){.kind = CHAT_UNDEFINED};
  return true;
}

static bool thinking(const chat_run *run, chat_value *out) {
  const mb_chat_thinking asked = run->options->thinking;
  *out = asked == MB_THINKING_DEFAULT ? (chat_value){.kind = CHAT_UNDEFINED} : chat_bool(asked == MB_THINKING_ON);
  return true;
}

static bool list(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_list *made;
  chat_value value;
  if (!chat_new_list(&run->memory, node->count, &made, &value)) return false;
  for (uint32_t i = 0; i < node->count; i++) {
    if (!chat_evaluate(run, chat_child(run, node, i), &made->items[i])) return false;
  }
  *out = value;
  return true;
}

static bool map(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_map *made = chat_allocate(&run->memory, 1, sizeof *made);
  if (!made) return false;
  *made = (chat_map){0};
  for (uint32_t i = 0; i < node->count; i += 2) {
    chat_value key, value;
    if (!chat_evaluate(run, chat_child(run, node, i), &key) ||
        !chat_evaluate(run, chat_child(run, node, i + 1), &value))
      return false;
    if (key.kind != CHAT_TEXT) return chat_cannot(&run->memory, "it makes an object with a key that is not a text");
    if (!chat_work(&run->memory, made->count / 16) || !chat_put(&run->memory, made, key.text, &value)) return false;
  }
  *out = (chat_value){.kind = node->op == MB_CHAT_MAP ? CHAT_MAP : CHAT_NAMESPACE, .map = made};
  return true;
}

static bool logic(chat_run *run, const mb_chat_node *node, chat_value *out) {
  if (!chat_evaluate(run, chat_child(run, node, 0), out)) return false;
  const bool truth = chat_truth(out);
  switch (node->op) {
    case MB_CHAT_NOT:
      *out = chat_bool(!truth);
      return true;
    case MB_CHAT_IF_ELSE:
      return chat_evaluate(run, chat_child(run, node, truth ? 1 : 2), out);
    default: /* the first value that decides */
      return truth == (node->op == MB_CHAT_OR) || chat_evaluate(run, chat_child(run, node, 1), out);
  }
}

static bool compare(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value a, b;
  bool holds = false;
  int order = 0;
  if (!chat_evaluate(run, chat_child(run, node, 0), &a) || !chat_evaluate(run, chat_child(run, node, 1), &b))
    return false;
  switch (node->variant) {
    case MB_CHAT_EQUAL:
    case MB_CHAT_NOT_EQUAL:
      if (!chat_equal(&run->memory, &a, &b, &holds)) return false;
      *out = chat_bool(holds == (node->variant == MB_CHAT_EQUAL));
      return true;
    case MB_CHAT_IN:
    case MB_CHAT_NOT_IN:
      if (!chat_contains(&run->memory, &a, &b, &holds)) return false;
      *out = chat_bool(holds == (node->variant == MB_CHAT_IN));
      return true;
    default:
      if (!chat_order(&run->memory, &a, &b, &order)) return false;
      *out = chat_bool(node->variant == MB_CHAT_LESS         ? order < 0
                       : node->variant == MB_CHAT_LESS_EQUAL ? order <= 0
                       : node->variant == MB_CHAT_GREATER    ? order > 0
                                                             : order >= 0);
      return true;
  }
}

static bool add(chat_run *run, const chat_value *a, const chat_value *b, chat_value *out) {
  if (a->kind == CHAT_TEXT && b->kind == CHAT_TEXT) {
    const size_t size = a->text.bytes + b->text.bytes; /* both are in memory */
    uint8_t *made = chat_allocate(&run->memory, size, 1);
    if (!made || !chat_work(&run->memory, size / 64)) return false;
    if (a->text.bytes) memcpy(made, a->text.at, a->text.bytes);
    if (b->text.bytes) memcpy(made + a->text.bytes, b->text.at, b->text.bytes);
    *out = chat_of_text(made, size);
    return true;
  }
  if (a->kind == CHAT_LIST && b->kind == CHAT_LIST) {
    const size_t first = a->list->count, second = b->list->count;
    chat_list *made;
    chat_value value;
    if (!chat_new_list(&run->memory, first + second, &made, &value)) return false;
    if (first) memcpy(made->items, a->list->items, first * sizeof *made->items);
    if (second) memcpy(made->items + first, b->list->items, second * sizeof *made->items);
    *out = value;
    return true;
  }
  return chat_error(&run->memory, "it adds values that do not add up");
}

static bool arithmetic(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value a, b;
  if (!chat_evaluate(run, chat_child(run, node, 0), &a) || !chat_evaluate(run, chat_child(run, node, 1), &b))
    return false;
  if (!chat_is_number(&a) || !chat_is_number(&b)) {
    if (node->op == MB_CHAT_ADD) return add(run, &a, &b, out);
    return chat_cannot(&run->memory, "it calculates with what are no whole numbers");
  }
  const int64_t x = chat_number(&a), y = chat_number(&b);
  int64_t result = 0;
  bool overflow = false;
  switch (node->op) {
    case MB_CHAT_ADD:
      overflow = __builtin_add_overflow(x, y, &result);
      break;
    case MB_CHAT_SUBTRACT:
      overflow = __builtin_sub_overflow(x, y, &result);
      break;
    case MB_CHAT_MULTIPLY:
      overflow = __builtin_mul_overflow(x, y, &result);
      break;
    default: { /* rounded down, and a remainder of the divisor's sign */
      if (y == 0) return chat_error(&run->memory, "it divides by 0");
      if ((overflow = x == INT64_MIN && y == -1)) break;
      const bool down = x % y != 0 && (x % y < 0) != (y < 0);
      result = node->op == MB_CHAT_MODULO ? x % y + (down ? y : 0) : x / y - down;
      break;
    }
  }
  if (overflow) return chat_cannot(&run->memory, "it calculates with very large numbers");
  *out = chat_int(result);
  return true;
}

static bool negate(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value value;
  if (!chat_evaluate(run, chat_child(run, node, 0), &value)) return false;
  if (!chat_is_number(&value) || chat_number(&value) == INT64_MIN)
    return chat_cannot(&run->memory, "it calculates with what are no whole numbers");
  *out = chat_int(-chat_number(&value));
  return true;
}

static bool join(chat_run *run, const mb_chat_node *node, chat_value *out) {
  chat_value parts;
  return list(run, node, &parts) && chat_join(&run->memory, (chat_text){NULL, 0}, parts.list, true, out);
}

static bool call(chat_run *run, const mb_chat_node *node, chat_value *out) {
  const mb_chat_node *macro = &run->program->nodes[chat_child(run, node, 0)];
  const size_t scope = run->scope, frame = run->frame, count = run->count;
  const chat_loop *loop = run->loop;
  chat_value given, value;
  chat_list *arguments;
  if (!chat_new_list(&run->memory, node->count - 1, &arguments, &given)) return false;
  for (uint32_t i = 0; i + 1 < node->count; i++) {
    if (!chat_evaluate(run, chat_child(run, node, i + 1), &arguments->items[i])) return false;
  }
  run->scope = run->frame = count;
  run->loop = NULL;
  bool done = true;
  for (uint32_t i = 0; done && i + 1 < macro->count; i++) {
    const mb_chat_node *parameter = &run->program->nodes[chat_child(run, macro, i + 1)];
    value = (chat_value){.kind = CHAT_UNDEFINED};
    if (i < arguments->count) {
      value = arguments->items[i];
    } else if (parameter->count) {
      done = chat_evaluate(run, chat_child(run, parameter, 0), &value);
    }
    done = done && chat_bind(run, parameter->value, &value);
  }
  done = done && chat_capture(run, chat_child(run, macro, 0), out);
  run->scope = scope;
  run->frame = frame;
  run->count = count;
  run->loop = loop;
  return done;
}

static bool range(chat_run *run, const mb_chat_node *node, chat_value *out) {
  int64_t bounds[3] = {0, 0, 1};
  for (uint32_t i = 0; i < node->count; i++) {
    chat_value value;
    if (!chat_evaluate(run, chat_child(run, node, i), &value)) return false;
    if (!chat_is_number(&value)) return chat_error(&run->memory, "it makes a range of what are no whole numbers");
    bounds[node->count == 1 ? 1 : i] = chat_number(&value);
  }
  const int64_t most = 100000; /* of Jinja's sandbox, too */
  if (bounds[2] == 0) return chat_error(&run->memory, "it makes a range with steps of 0");
  for (int i = 0; i < 3; i++) {
    if (bounds[i] < -(INT64_C(1) << 40) || bounds[i] > INT64_C(1) << 40)
      return chat_cannot(&run->memory, "it makes a range of very large numbers");
  }
  const int64_t span = bounds[2] > 0 ? bounds[1] - bounds[0] : bounds[0] - bounds[1];
  const int64_t step = bounds[2] > 0 ? bounds[2] : -bounds[2], count = span > 0 ? (span + step - 1) / step : 0;
  if (count > most) return chat_error(&run->memory, "Range too big");
  chat_list *made;
  if (!chat_new_list(&run->memory, (size_t)count, &made, out)) return false;
  for (int64_t i = 0; i < count; i++) made->items[i] = chat_int(bounds[0] + i * bounds[2]);
  return true;
}

/* As much of a text as a message shows. mb_fail makes one line of it. */
static void begin_of(chat_text text, char *shown, size_t capacity) {
  snprintf(shown, capacity, "%.*s", (int)(text.bytes < capacity ? text.bytes : capacity), (const char *)text.at);
}

static bool raise(chat_run *run, const mb_chat_node *node) {
  chat_value value;
  chat_text text;
  char shown[MESSAGE_BYTES];
  if (!chat_evaluate(run, chat_child(run, node, 0), &value) || !chat_string(&run->memory, &value, &text)) return false;
  begin_of(text, shown, sizeof shown);
  return chat_error(&run->memory, shown);
}

static bool cannot(chat_run *run, const mb_chat_node *node) {
  char shown[MESSAGE_BYTES];
  begin_of(chat_program_text(run, node->value), shown, sizeof shown);
  return chat_cannot(&run->memory, shown);
}

static bool simple(chat_run *run, const mb_chat_node *node, chat_value *out) {
  switch (node->op) {
    case MB_CHAT_TEXT: {
      const chat_text text = chat_program_text(run, node->value);
      *out = chat_of_text(text.at, text.bytes);
      return true;
    }
    case MB_CHAT_INT:
      *out = chat_int((int32_t)node->value);
      return true;
    case MB_CHAT_BOOL:
      *out = chat_bool(node->value);
      return true;
    case MB_CHAT_NONE:
      *out = (chat_value){.kind = CHAT_NONE};
      return true;
    case MB_CHAT_NAME:
      return look_up(run, node->value, out);
    case MB_CHAT_MESSAGES:
      *out = run->messages;
      return true;
    case MB_CHAT_ADD_GENERATION_PROMPT:
      *out = chat_bool(run->add_generation_prompt);
      return true;
    case MB_CHAT_THINKING:
      return thinking(run, out);
    case MB_CHAT_FUNCTION:
      *out = (chat_value){.kind = CHAT_FUNCTION};
      return true;
    case MB_CHAT_LOOP:
      *out = run->loop ? (chat_value){.kind = CHAT_LOOP, .loop = run->loop} : (chat_value){.kind = CHAT_UNDEFINED};
      return true;
    default:
      *out = (chat_value){.kind = CHAT_UNDEFINED};
      return true;
  }
}

static bool date(chat_run *run, const mb_chat_node *node, chat_value *out) {
  if (run->options->now) return chat_date(&run->memory, chat_program_text(run, node->value), run->options->now, out);
  run->memory.status =
      mb_fail(MB_ERROR_ARGUMENT, "the model's chat template writes the date, and the time was not given");
  return false;
}

bool chat_evaluate(chat_run *run, uint32_t index, chat_value *out) {
  const mb_chat_node *node = &run->program->nodes[index];
  if (!chat_work(&run->memory, 1)) return false;
  switch (node->op) {
    case MB_CHAT_LIST:
      return list(run, node, out);
    case MB_CHAT_MAP:
    case MB_CHAT_NAMESPACE:
      return map(run, node, out);
    case MB_CHAT_ATTRIBUTE:
      return chat_attribute(run, node, out);
    case MB_CHAT_ITEM:
      return chat_item(run, node, out);
    case MB_CHAT_SLICE:
      return chat_slice(run, node, out);
    case MB_CHAT_AND:
    case MB_CHAT_OR:
    case MB_CHAT_NOT:
    case MB_CHAT_IF_ELSE:
      return logic(run, node, out);
    case MB_CHAT_COMPARE:
      return compare(run, node, out);
    case MB_CHAT_ADD:
    case MB_CHAT_SUBTRACT:
    case MB_CHAT_MULTIPLY:
    case MB_CHAT_FLOOR_DIVIDE:
    case MB_CHAT_MODULO:
      return arithmetic(run, node, out);
    case MB_CHAT_NEGATE:
      return negate(run, node, out);
    case MB_CHAT_JOIN:
      return join(run, node, out);
    case MB_CHAT_CALL:
      return call(run, node, out);
    case MB_CHAT_METHOD:
      return chat_method_call(run, node, out);
    case MB_CHAT_FILTER:
      return chat_filter(run, node, out);
    case MB_CHAT_TEST:
      return chat_test(run, node, out);
    case MB_CHAT_SELECT:
      return chat_select(run, node, out);
    case MB_CHAT_RANGE:
      return range(run, node, out);
    case MB_CHAT_DATE:
      return date(run, node, out);
    case MB_CHAT_RAISE:
      return raise(run, node);
    case MB_CHAT_CANNOT:
      return cannot(run, node);
    default:
      if (node->op < MB_CHAT_TEXT) return chat_cannot(&run->memory, "an operation that is not an expression");
      return simple(run, node, out);
  }
}
