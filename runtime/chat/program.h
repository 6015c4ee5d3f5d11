/* A compiled chat template: opened from the sections of a tokenizer.bin, and run. */
#ifndef MB_CHAT_PROGRAM_H
#define MB_CHAT_PROGRAM_H

#include "chat/value.h"
#include "mobile_bundle/chat_format.h"
#include "mobile_bundle/tokenizer_format.h"

typedef struct {
  const mb_chat_program *header;
  const mb_chat_node *nodes; /* shapes are right, children come before, depth is within the limit */
  const uint32_t *edges;
  const mb_token_span *texts; /* within bytes, valid UTF-8 */
  const uint8_t *bytes;
} chat_program;

/* Checks all that running takes for granted. `section` is 8-byte aligned and outlives the program, as the texts do. */
mb_status chat_program_open(const void *section, size_t section_bytes, const void *texts, size_t texts_bytes,
                            chat_program *program);

/* The conversation as a text, appended to `out`. options: as mb_chat_render's. */
mb_status chat_program_run(const chat_program *program, const mb_chat_message *messages, size_t count,
                           const mb_chat_options *options, mb_buffer *out);

/* For the build, which compares what a program says with what its template says, and for tests: mb_chat_render of a
 * program that is in no file yet. */
MB_API mb_status mb_chat_render_program(const void *section, size_t section_bytes, const void *texts,
                                        size_t texts_bytes, const mb_chat_message *messages, size_t count,
                                        const mb_chat_options *options, char **text, size_t *bytes);

#endif
