#include "request.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "json.h"

enum { NAME_BYTES = 32, VALUE_BYTES = 64 };

static const char *const sampling[] = {"max_new_tokens",     "temperature",       "top_k", "top_p", "min_p",
                                       "repetition_penalty", "repetition_window", "seed"};

static mb_status take_text(const json_value *value, const char *what, char **text, size_t *bytes) {
  if (value->kind != '"') return mb_fail(MB_ERROR_ARGUMENT, "the request's %s is not a string", what);
  *text = json_text(value, bytes);
  return *text ? MB_OK : mb_fail(MB_ERROR_MEMORY, "no memory for the request");
}

static mb_status take_message(const json_value *object, prompt_message *message) {
  const char *at = NULL;
  json_value name, value;
  bool has_role = false;
  if (object->kind != '{') return mb_fail(MB_ERROR_ARGUMENT, "a message of the request is not a JSON object");
  while (json_next(object, &at, &name, &value)) {
    if (json_is(&name, "content") && !message->content) {
      mb_status status = take_text(&value, "content", &message->content, &message->bytes);
      if (status != MB_OK) return status;
    } else if (json_is(&name, "role")) {
      has_role = json_is(&value, "system") || json_is(&value, "user") || json_is(&value, "assistant");
      message->role = json_is(&value, "system") ? MB_ROLE_SYSTEM
                      : json_is(&value, "user") ? MB_ROLE_USER
                                                : MB_ROLE_ASSISTANT;
    }
  }
  if (has_role && message->content) return MB_OK;
  return mb_fail(MB_ERROR_ARGUMENT, "a message needs a content, and a role: system, user or assistant");
}

static mb_status take_messages(const json_value *array, request *out) {
  const char *at = NULL;
  json_value unused, value;
  size_t count = 0;
  if (array->kind != '[') return mb_fail(MB_ERROR_ARGUMENT, "the request's messages are not a list");
  while (json_next(array, &at, &unused, &value)) count++;
  if (count == 0 || out->messages) return mb_fail(MB_ERROR_ARGUMENT, "the request has no messages");
  if (!(out->messages = calloc(count, sizeof *out->messages)))
    return mb_fail(MB_ERROR_MEMORY, "no memory for the request");
  mb_status status = MB_OK;
  for (at = NULL; status == MB_OK && json_next(array, &at, &unused, &value);)
    status = take_message(&value, &out->messages[out->message_count++]);
  return status;
}

/* A number's digits are what the command line would have, so the same checks serve both. */
static mb_status take_option(const char *name, const json_value *value, request *out) {
  char option[NAME_BYTES] = {0}, text[VALUE_BYTES] = {0};
  const size_t bytes = (size_t)(value->end - value->at);
  for (size_t i = 0; name[i]; i++) option[i] = name[i] == '_' ? '-' : name[i];
  if (value->kind == '0' && bytes < sizeof text) memcpy(text, value->at, bytes);
  if (runner_options_set(option, text, &out->options)) return MB_OK;
  return mb_fail(MB_ERROR_ARGUMENT, "the request's %s is not a value of that option", name);
}

static mb_status take_member(const json_value *name, const json_value *value, request *out) {
  if (json_is(name, "messages")) return take_messages(value, out);
  if (json_is(name, "prompt") && !out->prompt) return take_text(value, "prompt", &out->prompt, &out->prompt_bytes);
  if (json_is(name, "ignore_eos")) {
    out->options.ignore_eos = value->kind == 't';
    return MB_OK;
  }
  if (json_is(name, "thinking")) {
    if (value->kind != 't' && value->kind != 'f')
      return mb_fail(MB_ERROR_ARGUMENT, "the request's thinking is neither true nor false");
    out->options.thinking = value->kind == 't' ? MB_THINKING_ON : MB_THINKING_OFF;
    return MB_OK;
  }
  for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++) {
    if (json_is(name, sampling[i])) return take_option(sampling[i], value, out);
  }
  return mb_fail(MB_ERROR_ARGUMENT, "the request has a member that serve does not know: %.*s",
                 (int)(name->end - name->at < 64 ? name->end - name->at : 64), name->at);
}

mb_status request_parse(const char *text, size_t bytes, const runner_options *defaults, request *out) {
  *out = (request){.options = *defaults};
  json_value object, name, value;
  if (!json_parse(text, bytes, &object) || object.kind != '{')
    return mb_fail(MB_ERROR_ARGUMENT, "a request is one JSON object in a line of at most 4 MiB");
  mb_status status = MB_OK;
  for (const char *at = NULL; status == MB_OK && json_next(&object, &at, &name, &value);)
    status = take_member(&name, &value, out);
  if (status == MB_OK && !out->prompt == !out->messages)
    return mb_fail(MB_ERROR_ARGUMENT, "a request has either a prompt or messages");
  if (status == MB_OK && out->prompt && out->options.thinking != defaults->thinking)
    return mb_fail(MB_ERROR_ARGUMENT, "a request's thinking needs messages");
  return status;
}

void request_free(request *r) {
  for (size_t i = 0; i < r->message_count; i++) free(r->messages[i].content);
  free(r->messages);
  free(r->prompt);
  *r = (request){0};
}

/* Moves the oldest exchange out of the messages: from the first that is no system message to the next user message.
 * false: what is left is the last user message and what follows it. */
static bool drop_exchange(prompt_message *messages, size_t *count) {
  const size_t first = messages[0].role == MB_ROLE_SYSTEM ? 1 : 0;
  size_t next = first + 1;
  while (next < *count && messages[next].role != MB_ROLE_USER) next++;
  if (next >= *count) return false;
  memmove(messages + first, messages + next, (*count - next) * sizeof *messages);
  *count -= next - first;
  return true;
}

static mb_status conversation_tokens(const request *r, const open_bundle *bundle, int32_t **ids, size_t *count,
                                     uint32_t *dropped) {
  const uint32_t context = decoder_options(bundle->decoder)->context, quarter = context / 4;
  const uint32_t room = r->options.max_new_tokens < quarter ? r->options.max_new_tokens : quarter;
  size_t left = r->message_count;
  prompt_message *messages = malloc(left * sizeof *messages);
  if (!messages) return mb_fail(MB_ERROR_MEMORY, "no memory for the request");
  memcpy(messages, r->messages, left * sizeof *messages);
  mb_status status;
  for (;;) {
    status = prompt_chat_tokens(bundle, messages, left, r->options.thinking, ids, count);
    if (status != MB_OK || *count + room <= context || !drop_exchange(messages, &left)) break;
    free(*ids);
    *ids = NULL;
  }
  *dropped = (uint32_t)(r->message_count - left);
  free(messages);
  return status;
}

mb_status request_tokens(const request *r, const open_bundle *bundle, int32_t **ids, size_t *count, uint32_t *dropped) {
  *ids = NULL;
  *dropped = 0;
  if (r->messages) return conversation_tokens(r, bundle, ids, count, dropped);
  return prompt_text_tokens(bundle, r->prompt, r->prompt_bytes, ids, count);
}
