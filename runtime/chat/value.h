/* Values of a chat template that runs, and the memory they live in: all of it is freed at once when it has run. */
#ifndef MB_CHAT_VALUE_H
#define MB_CHAT_VALUE_H

#include "base/buffer.h"
#include "mobile_bundle/tokenizer.h"

typedef enum {
  CHAT_UNDEFINED,
  CHAT_NONE,
  CHAT_BOOL,
  CHAT_INT,
  CHAT_TEXT,
  CHAT_LIST,
  CHAT_MAP,
  CHAT_NAMESPACE,
  CHAT_LOOP,
  CHAT_FUNCTION
} chat_kind;

typedef struct chat_value chat_value;

typedef struct { /* valid UTF-8 in memory that outlives the run */
  const uint8_t *at;
  size_t bytes;
} chat_text;

typedef struct {
  chat_value *items;
  size_t count;
} chat_list;

typedef struct chat_entry chat_entry;
typedef struct {
  chat_entry *entries;
  size_t count, capacity;
} chat_map; /* of a namespace, too */

typedef struct {
  const chat_list *list;
  size_t index;
} chat_loop;

struct chat_value {
  chat_kind kind;
  union {
    bool truth;
    int64_t number;
    chat_text text;
    const chat_list *list;
    chat_map *map;
    const chat_loop *loop;
  };
};

struct chat_entry {
  chat_text key;
  chat_value value;
};

/* What a run may use. */
typedef struct chat_block chat_block;
typedef struct {
  chat_block *blocks;
  uint8_t *free; /* in the newest block */
  size_t free_bytes;
  size_t left; /* bytes that may still be asked for */
  uint64_t work_left;
  mb_status status; /* why the run failed; mb_error_message says more */
} chat_memory;

/* 8-byte aligned and uninitialised, never NULL unless there is no memory, and the run has failed. */
void *chat_allocate(chat_memory *memory, size_t count, size_t size);
void chat_memory_free(chat_memory *memory);
/* Counts work that is not bounded by the number of nodes. false: it was too much, and the run has failed. */
bool chat_work(chat_memory *memory, uint64_t steps);

/* These end the run with a message, and return false. chat_cannot: what this program does not do as Python would.
 * chat_error: what Python refuses, too. */
bool chat_cannot(chat_memory *memory, const char *what);
bool chat_error(chat_memory *memory, const char *what);
bool chat_no_memory(chat_memory *memory);

static inline chat_value chat_bool(bool truth) { return (chat_value){.kind = CHAT_BOOL, .truth = truth}; }
static inline chat_value chat_int(int64_t number) { return (chat_value){.kind = CHAT_INT, .number = number}; }
static inline chat_value chat_of_text(const void *at, size_t bytes) {
  return (chat_value){.kind = CHAT_TEXT, .text = {at, bytes}};
}
static inline bool chat_is_number(const chat_value *value) {
  return value->kind == CHAT_INT || value->kind == CHAT_BOOL;
}
static inline int64_t chat_number(const chat_value *value) {
  return value->kind == CHAT_BOOL ? value->truth : value->number;
}
static inline bool chat_same_text(chat_text a, chat_text b) {
  return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.at, b.at, a.bytes) == 0);
}

bool chat_truth(const chat_value *value);
/* Python's str(). */
bool chat_string(chat_memory *memory, const chat_value *value, chat_text *out);
bool chat_equal(chat_memory *memory, const chat_value *a, const chat_value *b, bool *equal);
/* Python's `a in b`. */
bool chat_contains(chat_memory *memory, const chat_value *a, const chat_value *b, bool *contains);
/* Python's < for numbers and texts: *order is below, equal to or above 0. */
bool chat_order(chat_memory *memory, const chat_value *a, const chat_value *b, int *order);
/* The entry's value; NULL: there is none. */
chat_value *chat_find(const chat_map *map, chat_text key);
bool chat_put(chat_memory *memory, chat_map *map, chat_text key, const chat_value *value);
bool chat_new_list(chat_memory *memory, size_t count, chat_list **list, chat_value *out);
/* Jinja's len(). */
bool chat_length(chat_memory *memory, const chat_value *value, size_t *length);
/* Appends json.dumps(value, ensure_ascii=False). */
bool chat_json(chat_memory *memory, const chat_value *value, mb_buffer *out);
/* A buffer's bytes as a text of the run; empties the buffer. */
bool chat_keep(chat_memory *memory, mb_buffer *buffer, chat_value *out);

#endif
