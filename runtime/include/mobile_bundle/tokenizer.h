/* The tokenizer: tokenizer.bin mapped read-only, exact with the Hugging Face tokenizer it was compiled from.
 * Layout of the file: tokenizer_format.h. A tokenizer may be shared by threads; a stream belongs to one. */
#ifndef MOBILE_BUNDLE_TOKENIZER_H
#define MOBILE_BUNDLE_TOKENIZER_H

#include <time.h>

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
/* The same for a text that may be long: `go_on` is asked after every few words. */
MB_API mb_status mb_tokenizer_encode_while(const mb_tokenizer *tokenizer, const char *text, size_t bytes, bool special,
                                           int32_t *ids, size_t capacity, size_t *count, mb_go_on go_on, void *context);
/* Decodes all ids at once, as Hugging Face's decode(ids, skip_special_tokens=skip_special) does; ids that are no token
 * give nothing. Same capacity rule; the text is not zero-terminated. */
MB_API mb_status mb_tokenizer_decode(const mb_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                                     char *text, size_t capacity, size_t *bytes);

/* Streaming: gives the bytes that a token adds, always whole characters, and keeps back what is not decided yet: an
 * unfinished UTF-8 sequence, or with a byte-fallback tokenizer a run of byte tokens until it ends (one invalid byte
 * turns every byte of its run into U+FFFD). The concatenation, mb_stream_finish included, equals mb_tokenizer_decode;
 * only a run of more than MB_STREAM_PENDING byte tokens that turns invalid after that many is replaced from there on
 * instead of from its start. */
#define MB_STREAM_PENDING 256
#define MB_STREAM_SKIP_SPECIAL 1u /* as skip_special */
#define MB_STREAM_CONTINUES 2u    /* other text stands before it: a leading space is kept */
typedef struct {
  const mb_tokenizer *tokenizer;
  uint32_t flags;
  uint32_t strip;         /* spaces still to be taken from the left of the text */
  uint32_t pending_bytes; /* kept back in pending */
  uint32_t whole_bytes;   /* of them, in whole characters */
  bool broken;            /* the run of byte tokens that goes on is invalid */
  uint8_t pending[MB_STREAM_PENDING];
} mb_stream;
MB_API void mb_stream_begin(mb_stream *stream, const mb_tokenizer *tokenizer, uint32_t flags); /* MB_STREAM_* */
/* Both return the number of bytes written to text[capacity]; a text that does not fit is cut. */
MB_API size_t mb_stream_token(mb_stream *stream, int32_t id, char *text, size_t capacity);
MB_API size_t mb_stream_finish(mb_stream *stream, char *text, size_t capacity);
/* The capacity that always suffices for these two. */
MB_API size_t mb_tokenizer_longest(const mb_tokenizer *tokenizer);

/* The bytes that a token adds to a text that it does not begin: of a byte-level tokenizer they need not be whole
 * characters. Writes at most `capacity` of them and returns how many there are; 0: none, as of a special token. */
MB_API size_t mb_tokenizer_token_bytes(const mb_tokenizer *tokenizer, uint32_t id, uint8_t *bytes, size_t capacity);
/* How many bytes the tokenizer's file has of it: no fewer than mb_tokenizer_token_bytes says, and quicker to tell. */
MB_API size_t mb_tokenizer_piece_bytes(const mb_tokenizer *tokenizer, uint32_t id);

/* Chat: a conversation as the model's own chat template writes it, byte for byte what transformers' apply_chat_template
 * gives. Encode it with special=false: it has its own BOS. */
typedef enum { MB_ROLE_SYSTEM = 0, MB_ROLE_USER = 1, MB_ROLE_ASSISTANT = 2 } mb_chat_role;

typedef struct {
  mb_chat_role role;
  const char *content; /* invalid UTF-8 counts as U+FFFD */
  size_t bytes;
} mb_chat_message;

typedef enum { MB_THINKING_DEFAULT = 0, MB_THINKING_OFF = 1, MB_THINKING_ON = 2 } mb_chat_thinking;

typedef struct {
  uint32_t size;             /* sizeof of this struct */
  mb_chat_thinking thinking; /* DEFAULT: as the template has it; the others only with mb_tokenizer_has_thinking */
  const struct tm *now;      /* the local time; NULL: a template that writes the date ends with MB_ERROR_ARGUMENT */
} mb_chat_options;

MB_API bool mb_tokenizer_has_chat(const mb_tokenizer *tokenizer); /* false: the bundle has no (usable) template */
MB_API bool mb_tokenizer_has_thinking(const mb_tokenizer *tokenizer);
/* The conversation with the request to answer; one that ends with the assistant's message has that message continued
 * (continue_final_message). options may be NULL. *text is to be freed with mb_chat_free and is not zero-terminated.
 * MB_ERROR_ARGUMENT when the template refuses the conversation, or does what the runtime cannot do exactly. */
MB_API mb_status mb_chat_render(const mb_tokenizer *tokenizer, const mb_chat_message *messages, size_t count,
                                const mb_chat_options *options, char **text, size_t *bytes);
MB_API void mb_chat_free(char *text);

#ifdef __cplusplus
}
#endif

#endif
