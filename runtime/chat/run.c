/* The statements of a chat template, and the conversation it is given. */
#include "chat/run.h"

#include "base/error.h"
#include "base/unicode.h"
#include "chat/text.h"

/* What transformers marks the end of a message with that is to go on. */
static const char continue_tag[] = "CONTINUE_FINAL_MESSAGE_TAG ";
enum { TAG_BYTES = sizeof continue_tag - 1 };

static const uint64_t most_work = 1u << 26;
static const size_t least_memory = 16u << 20;

bool chat_bind(chat_run *run, uint32_t name, const chat_value *value) {
  for (size_t i = run->scope; i < run->count; i++) {
    if (run->bindings[i].name == name) {
      run->bindings[i].value = *value;
      return true;
    }
  }
  if (run->count == run->capacity) {
    const size_t capacity = run->capacity ? 2 * run->capacity : 32;
    chat_binding *bindings = realloc(run->bindings, capacity * sizeof *bindings);
    if (!bindings) return chat_no_memory(&run->memory);
    run->bindings = bindings;
    run->capacity = capacity;
  }
  run->bindings[run->count++] = (chat_binding){name, *value};
  if (run->scope == 0) run->outermost = run->count;
  return chat_work(&run->memory, run->count / 16);
}

/* Runs a statement in a scope of its own. */
static bool execute_scoped(chat_run *run, uint32_t node) {
  const size_t scope = run->scope, count = run->count;
  run->scope = count;
  const bool done = chat_execute(run, node);
  run->scope = scope;
  run->count = count;
  return done;
}

bool chat_capture(chat_run *run, uint32_t body, chat_value *out) {
  mb_buffer caught = {0}, *outer = run->out;
  run->out = &caught;
  const bool done = execute_scoped(run, body) && chat_keep(&run->memory, &caught, out);
  run->out = outer;
  mb_buffer_free(&caught);
  return done;
}

static bool write_out(chat_run *run, const chat_value *value) {
  chat_text text;
  if (!chat_string(&run->memory, value, &text)) return false;
  if (run->out->size > run->memory.left || !mb_buffer_append(run->out, text.at, text.bytes))
    return chat_no_memory(&run->memory);
  return chat_work(&run->memory, text.bytes / 64);
}

static bool execute_if(chat_run *run, const mb_chat_node *node) {
  uint32_t i = 0;
  for (; i + 1 < node->count; i += 2) {
    chat_value condition;
    if (!chat_evaluate(run, chat_child(run, node, i), &condition)) return false;
    if (chat_truth(&condition)) return chat_execute(run, chat_child(run, node, i + 1));
  }
  return i == node->count || chat_execute(run, chat_child(run, node, i));
}

/* What a loop goes through, as a list. */
static bool loop_list(chat_run *run, const chat_value *value, chat_value *out) {
  chat_list *list;
  switch (value->kind) {
    case CHAT_LIST:
      *out = *value;
      return true;
    case CHAT_UNDEFINED:
      return chat_new_list(&run->memory, 0, &list, out);
    case CHAT_MAP:
      if (!chat_new_list(&run->memory, value->map->count, &list, out)) return false;
      for (size_t i = 0; i < list->count; i++)
        list->items[i] = chat_of_text(value->map->entries[i].key.at, value->map->entries[i].key.bytes);
      return true;
    case CHAT_TEXT:
      return chat_cannot(&run->memory, "it goes through the characters of a text");
    default:
      return chat_error(&run->memory, "it goes through what holds nothing");
  }
}

/* Those elements that the loop's own condition lets through. */
static bool loop_filter(chat_run *run, const mb_chat_node *node, chat_value *value) {
  const chat_list *all = value->list;
  const size_t scope = run->scope, count = run->count;
  chat_list *some;
  if (!chat_new_list(&run->memory, all->count, &some, value)) return false;
  some->count = 0;
  run->scope = count;
  bool done = true;
  for (size_t i = 0; done && i < all->count; i++) {
    chat_value condition;
    run->count = count;
    done = chat_bind(run, node->value, &all->items[i]) && chat_evaluate(run, chat_child(run, node, 2), &condition);
    if (done && chat_truth(&condition)) some->items[some->count++] = all->items[i];
  }
  run->scope = scope;
  run->count = count;
  return done;
}

static bool execute_for(chat_run *run, const mb_chat_node *node) {
  chat_value given, value;
  if (!chat_evaluate(run, chat_child(run, node, 0), &given) || !loop_list(run, &given, &value)) return false;
  if (node->variant & 1 && !loop_filter(run, node, &value)) return false;
  if (value.list->count == 0)
    return !(node->variant & 2) || execute_scoped(run, chat_child(run, node, node->count - 1));
  const size_t scope = run->scope, count = run->count;
  const chat_loop *outer = run->loop;
  chat_loop loop = {value.list, 0};
  run->loop = &loop;
  run->scope = count;
  bool done = true;
  for (; done && loop.index < value.list->count; loop.index++) {
    run->count = count;
    done = chat_bind(run, node->value, &value.list->items[loop.index]) && chat_execute(run, chat_child(run, node, 1));
    const bool leave = run->flow == CHAT_BREAK;
    run->flow = CHAT_GO_ON;
    if (leave) break;
  }
  run->loop = outer;
  run->scope = scope;
  run->count = count;
  return done;
}

static bool set_attribute(chat_run *run, const mb_chat_node *node) {
  chat_value space, value;
  if (!chat_evaluate(run, chat_child(run, node, 1), &value) || !chat_evaluate(run, chat_child(run, node, 0), &space))
    return false;
  if (space.kind != CHAT_NAMESPACE)
    return chat_error(&run->memory, "it sets an attribute of a value that is not a namespace");
  return chat_work(&run->memory, space.map->count / 16) &&
         chat_put(&run->memory, space.map, chat_program_text(run, node->value), &value);
}

bool chat_execute(chat_run *run, uint32_t index) {
  const mb_chat_node *node = &run->program->nodes[index];
  chat_value value;
  if (!chat_work(&run->memory, 1)) return false;
  switch (node->op) {
    case MB_CHAT_BLOCK:
      for (uint32_t i = 0; i < node->count && run->flow == CHAT_GO_ON; i++) {
        if (!chat_execute(run, chat_child(run, node, i))) return false;
      }
      return true;
    case MB_CHAT_OUTPUT:
      return chat_evaluate(run, chat_child(run, node, 0), &value) && write_out(run, &value);
    case MB_CHAT_IF:
      return execute_if(run, node);
    case MB_CHAT_FOR:
      return execute_for(run, node);
    case MB_CHAT_SET:
      return chat_evaluate(run, chat_child(run, node, 0), &value) && chat_bind(run, node->value, &value);
    case MB_CHAT_SET_ATTRIBUTE:
      return set_attribute(run, node);
    case MB_CHAT_CAPTURE:
      return chat_capture(run, chat_child(run, node, 0), &value) && chat_bind(run, node->value, &value);
    case MB_CHAT_BREAK:
      run->flow = CHAT_BREAK;
      return true;
    case MB_CHAT_CONTINUE:
      run->flow = CHAT_CONTINUE;
      return true;
    case MB_CHAT_SCOPE:
      return execute_scoped(run, chat_child(run, node, 0));
    default:
      return chat_cannot(&run->memory, "an operation that is not a statement");
  }
}

/* A message as the template sees it. Contents that are not UTF-8 become what Python makes of them. */
static bool make_message(chat_run *run, const mb_chat_message *message, const char *end, chat_value *out) {
  static const char *const roles[] = {"system", "user", "assistant"};
  if ((unsigned)message->role > MB_ROLE_ASSISTANT) return chat_error(&run->memory, "there is no such role");
  mb_buffer content = {0};
  const uint8_t *text = (const uint8_t *)message->content;
  bool done = message->bytes == 0 || mb_utf8_valid(text, message->bytes)
                  ? mb_buffer_append(&content, text, message->bytes)
                  : mb_utf8_repair(text, message->bytes, &content);
  done = done && mb_buffer_append(&content, end, strlen(end));
  chat_map *map = chat_allocate(&run->memory, 1, sizeof *map);
  chat_value role = chat_of_text(roles[message->role], strlen(roles[message->role])), kept;
  if (!done) chat_no_memory(&run->memory);
  done = done && map && chat_keep(&run->memory, &content, &kept);
  mb_buffer_free(&content);
  if (!done) return false;
  *map = (chat_map){0};
  *out = (chat_value){.kind = CHAT_MAP, .map = map};
  return chat_put(&run->memory, map, (chat_text){(const uint8_t *)"role", 4}, &role) &&
         chat_put(&run->memory, map, (chat_text){(const uint8_t *)"content", 7}, &kept);
}

static bool make_messages(chat_run *run, const mb_chat_message *messages, size_t count) {
  chat_list *list;
  if (!chat_new_list(&run->memory, count, &list, &run->messages)) return false;
  for (size_t i = 0; i < count; i++) {
    const bool goes_on = i + 1 == count && !run->add_generation_prompt;
    if (!make_message(run, &messages[i], goes_on ? continue_tag : "", &list->items[i])) return false;
  }
  return true;
}

/* Cuts the text where the last message goes on, as transformers' continue_final_message does. */
static bool cut_at_tag(chat_run *run, mb_buffer *out, size_t begin) {
  chat_text text = {out->data + begin, out->size - begin}, tag = {(const uint8_t *)continue_tag, TAG_BYTES};
  const chat_map *last = run->messages.list->items[run->messages.list->count - 1].map;
  chat_text content = last->entries[1].value.text;
  content.bytes -= TAG_BYTES;
  const chat_text bare_tag = {tag.at, TAG_BYTES - 1};
  const chat_value separators[] = {chat_of_text(bare_tag.at, bare_tag.bytes)};
  chat_value place;
  bool found;
  size_t at;
  if (!chat_strip(&run->memory, &content, NULL, true, true) || !chat_search(&run->memory, text, content, &found, &at) ||
      !chat_text_method(&run->memory, MB_CHAT_METHOD_RPARTITION, text, separators, 1, &place))
    return false;
  const chat_text before = place.list->items[0].text, tagged = place.list->items[1].text;
  if (!found || tagged.bytes == 0)
    return chat_error(&run->memory,
                      "it does not leave the last assistant message as it is, so that cannot be continued");
  text.bytes = before.bytes;
  const chat_text after = {tagged.at, (size_t)(out->data + out->size - tagged.at)};
  if (after.bytes < TAG_BYTES || memcmp(after.at, tag.at, TAG_BYTES) != 0) {
    if (!chat_strip(&run->memory, &text, NULL, false, true)) return false;
  }
  out->size = begin + text.bytes;
  return true;
}

mb_status chat_program_run(const chat_program *program, const mb_chat_message *messages, size_t count,
                           const mb_chat_options *options, mb_buffer *out) {
  chat_run run = {.program = program, .options = options, .out = out};
  size_t room = least_memory;
  for (size_t i = 0; i < count; i++) {
    if (messages[i].bytes <= (SIZE_MAX / 2 - room) / 16) room += 16 * messages[i].bytes;
  }
  run.memory = (chat_memory){.left = room, .work_left = most_work};
  run.add_generation_prompt = messages[count - 1].role != MB_ROLE_ASSISTANT;
  const size_t begin = out->size;
  const chat_value nothing = {.kind = CHAT_UNDEFINED};
  const bool done = chat_bind(&run, UINT32_MAX, &nothing) && make_messages(&run, messages, count) &&
                    chat_execute(&run, program->header->node_count - 1) &&
                    (run.add_generation_prompt || cut_at_tag(&run, out, begin));
  free(run.bindings);
  chat_memory_free(&run.memory);
  if (!done) out->size = begin;
  return done ? MB_OK : run.memory.status;
}
