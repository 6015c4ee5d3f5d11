/* mobile-run serve: answers one request after another. What is the same at the start of two requests is computed once:
 * an app sends the whole conversation every time, and only its last message is new to the decoder. */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "runner/answer.h"
#include "runner/cancel.h"
#include "runner/commands.h"
#include "runner/events.h"
#include "runner/holding.h"
#include "runner/request.h"

enum { LONGEST_LINE = 4 << 20, LOOK_FOR_HANGUP_NANOSECONDS = 100 * 1000 * 1000 };

/* Between the thread that reads lines and the one that answers. */
static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  char *line; /* a request that waits; NULL: none */
  size_t bytes;
  bool line_cancelled;
  bool answering;
  bool ended;
} inbox = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* Whoever asked is gone, and waits for nothing. Under the lock. */
static void end_here(void) {
  inbox.ended = true;
  if (inbox.answering) cancel_request();
  pthread_cond_broadcast(&inbox.changed);
}

/* Waits until there is room for a line. Nothing is read meanwhile, so that the end of the input is only told by its
 * writer hanging up. Under the lock; false: it ended. */
static bool wait_for_room(void) {
  while (inbox.line) {
    struct pollfd input = {.fd = STDIN_FILENO};
    if (poll(&input, 1, 0) > 0 && input.revents & (POLLHUP | POLLERR)) {
      end_here();
      return false;
    }
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LOOK_FOR_HANGUP_NANOSECONDS;
    if (until.tv_nsec >= 1000000000) {
      until.tv_nsec -= 1000000000;
      until.tv_sec++;
    }
    pthread_cond_timedwait(&inbox.changed, &inbox.lock, &until);
  }
  return true;
}

/* A whole line, malloc'd: the reader's from here on. `cancel` stops what was asked before it, and nothing after it. */
static void deliver(char *line, size_t bytes) {
  pthread_mutex_lock(&inbox.lock);
  if (bytes == 6 && memcmp(line, "cancel", 6) == 0) {
    if (inbox.answering) cancel_request();
    inbox.line_cancelled = true;
    free(line);
  } else if (!wait_for_room()) {
    free(line);
  } else {
    inbox.line = line;
    inbox.bytes = bytes;
    inbox.line_cancelled = false;
    pthread_cond_broadcast(&inbox.changed);
  }
  pthread_mutex_unlock(&inbox.lock);
}

static void *read_lines(void *unused) {
  (void)unused;
  char *line = NULL;
  size_t bytes = 0, room = 0;
  char buffer[4096];
  for (ssize_t got; (got = read(STDIN_FILENO, buffer, sizeof buffer)) > 0;) {
    for (ssize_t i = 0; i < got; i++) {
      if (buffer[i] == '\n') {
        if (bytes > 0) deliver(line, bytes);
        line = bytes > 0 ? NULL : line;
        room = line ? room : 0;
        bytes = 0;
        continue;
      }
      if (bytes == LONGEST_LINE) continue; /* the cut line is not a JSON object any more, and is refused as such */
      if (bytes == room) {
        char *grown = realloc(line, room = room ? 2 * room : 1024);
        if (!grown) goto end;
        line = grown;
      }
      line[bytes++] = buffer[i];
    }
  }
end:
  free(line);
  pthread_mutex_lock(&inbox.lock);
  end_here();
  pthread_mutex_unlock(&inbox.lock);
  return NULL;
}

/* The next request, malloc'd; NULL: no more come. What was requested of the one before is over. */
static char *next_line(size_t *bytes) {
  pthread_mutex_lock(&inbox.lock);
  inbox.answering = false;
  while (!inbox.line && !inbox.ended) pthread_cond_wait(&inbox.changed, &inbox.lock);
  char *line = inbox.line;
  inbox.line = NULL;
  if (inbox.ended) {
    free(line);
    line = NULL;
  }
  if (line) {
    *bytes = inbox.bytes;
    inbox.answering = true;
    cancel_renew();
    if (inbox.line_cancelled) cancel_request();
  }
  pthread_cond_broadcast(&inbox.changed);
  pthread_mutex_unlock(&inbox.lock);
  return line;
}

/* What a conversation is answered from. */
typedef struct {
  open_bundle *bundle;
  holding held;
  system_state system;
  form_maker forms;
} serving;

/* Writes the state of what was read, or takes one up. */
static mb_status serve_state(const request *r, serving *s) {
  decoder *d = s->bundle->decoder;
  state_event event = {.action = r->kind == REQUEST_SAVE ? "saved" : "resumed"};
  const double begin = seconds_now();
  mb_status status;
  if (r->kind == REQUEST_RESUME) {
    status = decoder_resume(d, r->path, s->held.tokens, &event.tokens);
    if (status == MB_OK || decoder_position(d) == 0) holding_renew(&s->held);
  } else if (s->held.exact < decoder_position(d)) {
    status = mb_fail(MB_ERROR_ARGUMENT,
                     "keys were moved in a full context, and a state holds what reading gives: it is not saved");
  } else {
    status = decoder_save(d, s->held.tokens, r->path);
  }
  event.tokens = decoder_position(d);
  event.seconds = seconds_now() - begin;
  if (status == MB_OK) status = decoder_state_bytes(d, &event.bytes);
  if (status == MB_OK) emit_state(r->options.json, &event);
  return status;
}

/* What makes room in a full context. */
typedef struct {
  serving *serving;
  const request *request;
  uint32_t dropped; /* messages that are left out by now */
} room_maker;

/* Leaves out the oldest exchange that is still there. *removed: so many tokens; 0: there is none but the last one. */
static mb_status make_room(void *context, uint32_t *removed) {
  room_maker *m = context;
  int32_t *ids = NULL;
  size_t count = 0;
  mb_status status = request_shorter(m->request, m->serving->bundle, &m->dropped, &ids, &count);
  *removed = 0;
  if (status == MB_OK && count > 0) status = holding_shorten(&m->serving->held, ids, count, removed);
  free(ids);
  return status;
}

static mb_status serve_answer(const request *r, serving *s) {
  int32_t *ids = NULL;
  room_maker maker = {.serving = s, .request = r};
  answer_prompt prompt = {.stops = &r->stops, .held = s->held.tokens};
  mb_status status = r->move ? decoder_can_remove(s->bundle->decoder) : MB_OK;
  if (status == MB_OK) status = request_tokens(r, s->bundle, &ids, &prompt.count, &prompt.dropped_messages);
  if (status == MB_ERROR_CANCELLED) {
    status = answer_cancelled(&r->options, s->bundle);
  } else {
    if (status == MB_OK) status = form_make(&s->forms, s->bundle, &r->form, &prompt.constraint);
    prompt.form_bytes = form_bytes(&s->forms);
    const holding_use use = !r->move ? HOLDING_EXACT : prompt.dropped_messages ? HOLDING_REMOVE : HOLDING_MOVED;
    if (status == MB_OK) status = holding_keep(&s->held, &s->system, ids, prompt.count, use);
    prompt.ids = ids;
    if (r->move) {
      maker.dropped = prompt.dropped_messages;
      prompt.make_room = make_room;
      prompt.room_maker = &maker;
    }
    if (status == MB_OK) status = answer(&r->options, s->bundle, &prompt);
  }
  free(ids);
  return status;
}

static mb_status serve_one(const runner_options *options, serving *s, const char *line, size_t bytes) {
  s->bundle->started = seconds_now();
  request r;
  mb_status status = request_parse(line, bytes, options, &r);
  if (status == MB_OK) status = r.kind == REQUEST_ANSWER ? serve_answer(&r, s) : serve_state(&r, s);
  request_free(&r);
  return status;
}

mb_status command_serve(const runner_options *options, open_bundle *bundle) {
  serving s = {.bundle = bundle, .held = {.decoder = bundle->decoder}};
  s.held.tokens = malloc(decoder_options(bundle->decoder)->context * sizeof *s.held.tokens);
  holding_renew(&s.held);
  mb_status result = s.held.tokens ? system_state_open(options, bundle->decoder, s.held.tokens, &s.system)
                                   : mb_fail(MB_ERROR_MEMORY, "no memory to serve requests");
  pthread_t reader;
  cancel_watch(bundle->decoder);
  if (result == MB_OK && pthread_create(&reader, NULL, read_lines, NULL) != 0)
    result = mb_fail(MB_ERROR_MEMORY, "no memory for a thread that reads requests");
  if (result == MB_OK) {
    size_t bytes;
    for (char *line; (line = next_line(&bytes));) {
      /* A request that cannot be answered ends nothing but itself. */
      const mb_status status = serve_one(options, &s, line, bytes);
      if (status != MB_OK) emit_error(options->json, status, mb_error_message());
      free(line);
    }
    pthread_join(reader, NULL);
  }
  cancel_forget();
  system_state_close(&s.system);
  form_end(&s.forms);
  free(s.held.tokens);
  return result;
}
