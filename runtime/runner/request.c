#include "runner/request.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "runner/cancel.h"

enum { NAME_BYTES = 32, VALUE_BYTES = 64, LONGEST_SHOWN = 1024 /* bytes; the message is cut by characters */ };

static const char *const sampling[] = {"max_new_tokens",     "temperature",       "top_k", "top_p", "min_p",
                                       "repetition_penalty", "repetition_window", "seed"};

static mb_status take_text(const json_value *value, const char *what, char **text, size_t *bytes) {
  if (value->kind != '"') return mb_fail(MB_ERROR_ARGUMENT, "the request's %s is not a string", what);
  *text = json_text(value, bytes);
  return *text ? MB_OK : mb_fail(MB_ERROR_MEMORY, "no memory for the request");
}

static mb_status unknown_member(const char *of, const json_value *name) {
  const ptrdiff_t bytes = name->end - name->at;
  return mb_fail(MB_ERROR_ARGUMENT, "%s has a member that serve does not know, or has it twice: %.*s", of,
                 (int)(bytes < LONGEST_SHOWN ? bytes : LONGEST_SHOWN), name->at);
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
    } else if (json_is(&name, "role") && !has_role) {
      has_role = json_is(&value, "system") || json_is(&value, "user") || json_is(&value, "assistant");
      message->role = json_is(&value, "system") ? MB_ROLE_SYSTEM
                      : json_is(&value, "user") ? MB_ROLE_USER
                                                : MB_ROLE_ASSISTANT;
    } else {
      /* A template may use it (reasoning_content, tool_calls), so leaving it out would change the answer. */
      return unknown_member("a message", &name);
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

static mb_status take_boolean(const json_value *value, const char *what, bool *out) {
  if (value->kind != 't' && value->kind != 'f')
    return mb_fail(MB_ERROR_ARGUMENT, "the request's %s is neither true nor false", what);
  *out = value->kind == 't';
  return MB_OK;
}

static mb_status take_path(const json_value *value, request_kind kind, request *out) {
  size_t bytes;
  const char *what = kind == REQUEST_SAVE ? "save" : "resume";
  mb_status status = take_text(value, what, &out->path, &bytes);
  out->kind = kind;
  if (status == MB_OK && (bytes == 0 || strlen(out->path) != bytes))
    status = mb_fail(MB_ERROR_ARGUMENT, "the request's %s is not the path of a file", what);
  return status;
}

static mb_status take_stops(const json_value *array, request *out) {
  stop_strings *stops = &out->stops;
  const char *at = NULL;
  json_value unused, value;
  if (array->kind != '[') return mb_fail(MB_ERROR_ARGUMENT, "the request's stop is not a list of strings");
  while (json_next(array, &at, &unused, &value)) {
    if (stops->count == STOP_MOST)
      return mb_fail(MB_ERROR_ARGUMENT, "the request's stop has more than %d strings", STOP_MOST);
    mb_status status = take_text(&value, "stop", &stops->texts[stops->count], &stops->bytes[stops->count]);
    if (status != MB_OK) return status;
    const size_t bytes = stops->bytes[stops->count++];
    if (bytes == 0 || bytes > STOP_MOST_BYTES)
      return mb_fail(MB_ERROR_ARGUMENT, "the request's stop has a string of %zu bytes: 1 to %d are possible", bytes,
                     STOP_MOST_BYTES);
  }
  return stops->count ? MB_OK : mb_fail(MB_ERROR_ARGUMENT, "the request's stop is empty");
}

static mb_status take_form(const json_value *value, mb_constraint_kind kind, request *out) {
  form *wanted = &out->form;
  if (wanted->text) return mb_fail(MB_ERROR_ARGUMENT, "a request has either a json_schema or a regex, and once");
  wanted->kind = kind;
  if (kind == MB_CONSTRAINT_REGEX) return take_text(value, "regex", &wanted->text, &wanted->bytes);
  if (value->kind != '{') return mb_fail(MB_ERROR_ARGUMENT, "the request's json_schema is not an object");
  wanted->bytes = (size_t)(value->end - value->at);
  if (!(wanted->text = malloc(wanted->bytes))) return mb_fail(MB_ERROR_MEMORY, "no memory for the request");
  memcpy(wanted->text, value->at, wanted->bytes);
  return MB_OK;
}

static mb_status take_member(const json_value *name, const json_value *value, request *out) {
  if (json_is(name, "save") && !out->path) return take_path(value, REQUEST_SAVE, out);
  if (json_is(name, "resume") && !out->path) return take_path(value, REQUEST_RESUME, out);
  if (json_is(name, "stop") && out->stops.count == 0) return take_stops(value, out);
  if (json_is(name, "full_context")) {
    out->move = json_is(value, "move");
    if (out->move || json_is(value, "read")) return MB_OK;
    return mb_fail(MB_ERROR_ARGUMENT, "the request's full_context is neither \"read\" nor \"move\"");
  }
  if (json_is(name, "json_schema")) return take_form(value, MB_CONSTRAINT_JSON_SCHEMA, out);
  if (json_is(name, "regex")) return take_form(value, MB_CONSTRAINT_REGEX, out);
  if (json_is(name, "messages")) return take_messages(value, out);
  if (json_is(name, "prompt") && !out->prompt) return take_text(value, "prompt", &out->prompt, &out->prompt_bytes);
  if (json_is(name, "ignore_eos")) return take_boolean(value, "ignore_eos", &out->options.ignore_eos);
  if (json_is(name, "thinking")) {
    bool on = false;
    const mb_status status = take_boolean(value, "thinking", &on);
    if (status == MB_OK) out->options.thinking = on ? MB_THINKING_ON : MB_THINKING_OFF;
    return status;
  }
  for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++) {
    if (json_is(name, sampling[i])) return take_option(sampling[i], value, out);
  }
  return unknown_member("the request", name);
}

mb_status request_parse(const char *text, size_t bytes, const runner_options *defaults, request *out) {
  *out = (request){.options = *defaults};
  json_value object, name, value;
  if (!json_parse(text, bytes, &object) || object.kind != '{')
    return mb_fail(MB_ERROR_ARGUMENT, "a request is one JSON object in a line of at most 4 MiB");
  mb_status status = MB_OK;
  size_t members = 0;
  for (const char *at = NULL; status == MB_OK && json_next(&object, &at, &name, &value); members++)
    status = take_member(&name, &value, out);
  if (status == MB_OK && out->path)
    return members == 1 ? MB_OK : mb_fail(MB_ERROR_ARGUMENT, "a request to save or to resume has no other member");
  if (status == MB_OK && !out->prompt == !out->messages)
    return mb_fail(MB_ERROR_ARGUMENT, "a request has either a prompt or messages");
  if (status == MB_OK && out->prompt && out->options.thinking != defaults->thinking)
    return mb_fail(MB_ERROR_ARGUMENT, "a request's thinking needs messages");
  if (status == MB_OK && out->move && !out->messages)
    return mb_fail(MB_ERROR_ARGUMENT,
                   "a request's full_context needs messages: a text has no exchanges that can leave");
  if (status == MB_OK && out->form.text) status = form_check(&out->options);
  return status;
}

void request_free(request *r) {
  for (size_t i = 0; i < r->message_count; i++) free(r->messages[i].content);
  free(r->messages);
  free(r->prompt);
  free(r->path);
  free(r->form.text);
  for (size_t i = 0; i < r->stops.count; i++) free(r->stops.texts[i]);
  *r = (request){0};
}

/* A conversation that is being fitted into the context. */
typedef struct {
  const open_bundle *bundle;
  mb_chat_thinking thinking;
  prompt_message *messages; /* the system message is moved before what is kept while that is tokenised */
  size_t count;
  size_t first;   /* 1 where there is a system message, which is never left out, else 0 */
  size_t *begins; /* [exchanges]: the message that the conversation goes on with when so many exchanges are left out */
  size_t exchanges;
  size_t *weights; /* [exchanges]: bytes of the messages from there on, and some for what stands between them */
  size_t room;     /* tokens that the prompt may take */
} fitting;

enum { WEIGHT_OF_MESSAGE = 16 };

/* A text of so many tokens, and how many exchanges were left out for it. */
typedef struct {
  int32_t *ids;
  size_t count;
  size_t dropped;
} fitted;

static bool fits(const fitting *f, const fitted *t) { return t->count <= f->room; }

static mb_status measure(const fitting *f, size_t dropped, fitted *out) {
  *out = (fitted){.dropped = dropped};
  if (cancel_requested()) return mb_fail(MB_ERROR_CANCELLED, "cancelled");
  const size_t start = f->begins[dropped] - f->first;
  const prompt_message covered = f->messages[start];
  if (f->first) f->messages[start] = f->messages[0];
  mb_status status =
      prompt_chat_tokens(f->bundle, f->messages + start, f->count - start, f->thinking, &out->ids, &out->count);
  f->messages[start] = covered;
  return status;
}

/* An exchange begins with a user message, the first one with whatever the conversation begins with. The last one is the
 * last user message and what follows it. */
static mb_status find_exchanges(const request *r, fitting *f) {
  f->count = r->message_count;
  f->first = r->messages[0].role == MB_ROLE_SYSTEM ? 1 : 0;
  f->messages = malloc(f->count * sizeof *f->messages);
  f->begins = malloc((f->count + 1) * sizeof *f->begins);
  f->weights = malloc((f->count + 1) * sizeof *f->weights);
  if (!f->messages || !f->begins || !f->weights) return mb_fail(MB_ERROR_MEMORY, "no memory for the request");
  memcpy(f->messages, r->messages, f->count * sizeof *f->messages);
  f->begins[f->exchanges++] = f->first;
  for (size_t i = f->first + 1; i < f->count; i++) {
    if (f->messages[i].role == MB_ROLE_USER) f->begins[f->exchanges++] = i;
  }
  size_t weight = 0, end = f->count;
  for (size_t e = f->exchanges; e-- > 0; end = f->begins[e]) {
    for (size_t i = f->begins[e]; i < end; i++) weight += f->messages[i].bytes + WEIGHT_OF_MESSAGE;
    f->weights[e] = weight;
  }
  return MB_OK;
}

/* Takes what was measured where it fits. */
static bool take(const fitting *f, fitted *measured, fitted *best) {
  if (!fits(f, measured)) {
    free(measured->ids);
    return false;
  }
  free(best->ids);
  *best = *measured;
  return true;
}

/* Leaves out the fewest exchanges with which it fits, or all that can be. The more are left out the shorter the prompt,
 * so few lengths need to be tried: all of it; then from its end on, each time up to twice as much as before, until it
 * does not fit; and between the last two by halves. Together that reads the conversation once, and besides only texts
 * that are at most about twice as long as what fits. */
static mb_status fit(const fitting *f, fitted *best) {
  mb_status status = measure(f, 0, best);
  if (status != MB_OK || fits(f, best) || f->exchanges == 1) return status;
  size_t too_long = 0; /* exchanges left out */
  free(best->ids);
  status = measure(f, f->exchanges - 1, best);
  if (status != MB_OK || !fits(f, best)) return status;
  bool growing = true;
  while (best->dropped - too_long > 1) {
    size_t next = best->dropped - 1;
    if (growing) {
      while (next - 1 > too_long && f->weights[next - 1] <= 2 * f->weights[best->dropped]) next--;
    } else {
      next = too_long + (best->dropped - too_long) / 2;
    }
    fitted measured;
    status = measure(f, next, &measured);
    if (status != MB_OK) {
      free(measured.ids);
      return status;
    }
    if (!take(f, &measured, best)) {
      too_long = next;
      growing = false;
    }
  }
  return MB_OK;
}

static void fitting_end(fitting *f) {
  free(f->messages);
  free(f->begins);
  free(f->weights);
}

static mb_status conversation_tokens(const request *r, const open_bundle *bundle, int32_t **ids, size_t *count,
                                     uint32_t *dropped) {
  const uint32_t context = decoder_options(bundle->decoder)->context, quarter = context / 4;
  const uint32_t answer = r->options.max_new_tokens < quarter ? r->options.max_new_tokens : quarter;
  fitting f = {.bundle = bundle, .thinking = r->options.thinking, .room = context - answer};
  fitted best = {0};
  mb_status status = find_exchanges(r, &f);
  if (status == MB_OK) status = fit(&f, &best);
  if (status == MB_OK) *dropped = (uint32_t)(f.begins[best.dropped] - f.first);
  *ids = best.ids;
  *count = best.count;
  fitting_end(&f);
  return status;
}

mb_status request_tokens(const request *r, const open_bundle *bundle, int32_t **ids, size_t *count, uint32_t *dropped) {
  *ids = NULL;
  *dropped = 0;
  if (r->messages) return conversation_tokens(r, bundle, ids, count, dropped);
  return prompt_text_tokens(bundle, r->prompt, r->prompt_bytes, ids, count);
}

mb_status request_shorter(const request *r, const open_bundle *bundle, uint32_t *dropped, int32_t **ids,
                          size_t *count) {
  *ids = NULL;
  *count = 0;
  if (!r->messages) return MB_OK;
  fitting f = {.bundle = bundle, .thinking = r->options.thinking};
  fitted shorter = {0};
  mb_status status = find_exchanges(r, &f);
  size_t next = 0;
  while (status == MB_OK && next < f.exchanges && f.begins[next] - f.first <= *dropped) next++;
  if (status == MB_OK && next < f.exchanges) {
    status = measure(&f, next, &shorter);
    *dropped = (uint32_t)(f.begins[next] - f.first);
  }
  *ids = shorter.ids;
  *count = shorter.count;
  fitting_end(&f);
  return status;
}
