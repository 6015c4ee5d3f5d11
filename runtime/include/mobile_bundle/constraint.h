/* Answers in a given form: which tokens may come next, so that the whole answer is a text of a JSON schema or of a
 * regular expression. Both become one automaton over bytes, whose states are made when they are first reached, in a
 * memory of fixed size; a trie of the vocabulary says which tokens it can go on with. docs/SERVE.md says what of JSON
 * Schema and of regular expressions there is, and how the values are written. */
#ifndef MOBILE_BUNDLE_CONSTRAINT_H
#define MOBILE_BUNDLE_CONSTRAINT_H

#include "mobile_bundle/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The bytes of a model's tokens, as a trie. It is never changed: constraints of any threads may share it. */
typedef struct mb_vocabulary mb_vocabulary;

/* vocabulary: of the model, which may be larger than the tokenizer's; ends: tokens that end an answer. Special tokens
 * stand in no answer. The tokenizer must outlive it. */
MB_API mb_status mb_vocabulary_open(const mb_tokenizer *tokenizer, uint32_t vocabulary, const int32_t *ends,
                                    size_t end_count, mb_vocabulary **out);
MB_API void mb_vocabulary_close(mb_vocabulary *vocabulary);
MB_API uint64_t mb_vocabulary_bytes(const mb_vocabulary *vocabulary); /* that it takes of memory */

typedef enum { MB_CONSTRAINT_JSON_SCHEMA = 0, MB_CONSTRAINT_REGEX = 1 } mb_constraint_kind;

/* One answer under way: of one thread. */
typedef struct mb_constraint mb_constraint;

/* Bytes of a schema or an expression; a longer one is refused. */
#define MB_CONSTRAINT_MOST_TEXT (256 * 1024)

/* The most memory that answers in a given form take, one at a time: the trie, also while it is made, the largest form
 * that mb_constraint_open does not refuse, and four copies of its text, as a program that reads requests makes.
 * vocabulary: as in mb_vocabulary_open. Reads the tokens' lengths, no more. */
MB_API uint64_t mb_constraint_most_bytes(const mb_tokenizer *tokenizer, uint32_t vocabulary);

/* text: the schema as JSON, or the expression; it is not needed afterwards. MB_ERROR_ARGUMENT, with what is wrong and
 * where, for one that is not valid, not supported or too large. The vocabulary must outlive it. */
MB_API mb_status mb_constraint_open(const mb_vocabulary *vocabulary, mb_constraint_kind kind, const char *text,
                                    size_t bytes, mb_constraint **out);
MB_API void mb_constraint_close(mb_constraint *constraint);
/* That it may take of memory: nothing is allocated after it was opened. */
MB_API uint64_t mb_constraint_bytes(const mb_constraint *constraint);
/* Begins another answer of the same form. */
MB_API void mb_constraint_begin(mb_constraint *constraint);
/* The tokens that may come next: bit t % 32 of allowed[t / 32], valid until the next call. MB_ERROR_ARGUMENT where this
 * vocabulary has none; MB_ERROR_MEMORY where the automaton outgrows its memory. */
MB_API mb_status mb_constraint_allowed(mb_constraint *constraint, const uint32_t **allowed);
/* The next token. MB_ERROR_ARGUMENT for one that is not allowed, which leaves it as it was. */
MB_API mb_status mb_constraint_accept(mb_constraint *constraint, int32_t token);
/* How many of the tokens, which are to come next, it would accept. */
MB_API size_t mb_constraint_fitting(mb_constraint *constraint, const int32_t *tokens, size_t count);
/* Whether the answer is whole, so that it may end here. */
MB_API bool mb_constraint_may_end(const mb_constraint *constraint);
/* Whether it is whole and nothing can follow. */
MB_API bool mb_constraint_complete(const mb_constraint *constraint);

#ifdef __cplusplus
}
#endif

#endif
