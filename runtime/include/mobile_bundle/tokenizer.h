/* The tokenizer: tokenizer.bin mapped read-only, exact with the Hugging Face tokenizer it was compiled from.
 * Layout of the file: tokenizer_format.h. */
#ifndef MOBILE_BUNDLE_TOKENIZER_H
#define MOBILE_BUNDLE_TOKENIZER_H

#include "mobile_bundle/mobile_bundle.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mb_tokenizer mb_tokenizer;

MB_API mb_status mb_tokenizer_open(const char *path, mb_tokenizer **tokenizer);
MB_API void mb_tokenizer_close(mb_tokenizer *tokenizer);
MB_API uint32_t mb_tokenizer_vocabulary(const mb_tokenizer *tokenizer); /* highest id + 1 */

/* text: bytes, of which invalid UTF-8 counts as U+FFFD exactly as Python's errors="replace" does.
 * special: whether the tokenizer's own template (BOS and the like) is applied; added tokens that stand in the text are
 * recognised either way, as Hugging Face does.
 * Writes at most `capacity` ids and sets *count to how many there are: call again when it is larger. */
MB_API mb_status mb_tokenizer_encode(const mb_tokenizer *tokenizer, const char *text, size_t bytes, bool special,
                                     int32_t *ids, size_t capacity, size_t *count);
/* Decodes all ids at once, as Hugging Face's decode(ids, skip_special_tokens=skip_special) does. Same capacity rule. */
MB_API mb_status mb_tokenizer_decode(const mb_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                                     char *text, size_t capacity, size_t *bytes);

/* Streaming: gives the bytes that token adds, and keeps back an unfinished UTF-8 sequence until it is complete (at the
 * end, mb_stream_finish gives U+FFFD for one that never was). The concatenation equals mb_tokenizer_decode. */
typedef struct {
  const mb_tokenizer *tokenizer;
  uint8_t pending[8];
  uint32_t pending_bytes;
  uint32_t emitted; /* tokens so far: the first may lose its leading space */
} mb_stream;
MB_API void mb_stream_begin(mb_stream *stream, const mb_tokenizer *tokenizer);
/* Returns the number of bytes written to text[capacity]; capacity of mb_tokenizer_longest() + 8 always suffices. */
MB_API size_t mb_stream_token(mb_stream *stream, int32_t id, char *text, size_t capacity);
MB_API size_t mb_stream_finish(mb_stream *stream, char *text, size_t capacity);
MB_API size_t mb_tokenizer_longest(const mb_tokenizer *tokenizer); /* bytes of the longest token */

/* Chat: the template, compiled at build time into pieces. false: the bundle has none. */
typedef enum { MB_ROLE_SYSTEM = 0, MB_ROLE_USER = 1, MB_ROLE_ASSISTANT = 2 } mb_chat_role;
MB_API bool mb_tokenizer_has_chat(const mb_tokenizer *tokenizer);
/* The text of a message as it stands in the conversation: what goes before and after its content. `first` says that it
 * opens the conversation (BOS and a default system prompt belong there). */
MB_API mb_status mb_chat_wrap(const mb_tokenizer *tokenizer, mb_chat_role role, bool first, const char **before,
                              size_t *before_bytes, const char **after, size_t *after_bytes);
/* What asks the model to answer. */
MB_API mb_status mb_chat_answer(const mb_tokenizer *tokenizer, const char **text, size_t *bytes);

#ifdef __cplusplus
}
#endif

#endif
