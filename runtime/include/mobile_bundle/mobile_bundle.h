/* mobile-bundle's C API: open a bundle, make a session, feed tokens, read logits.
 *
 * Memory is predictable: mb_model_open maps files read-only, mb_session_open maps one anonymous area whose size
 * mb_memory_estimate predicts, and feeding allocates nothing. Only installing (below) writes a file: the weights cache,
 * for a bundle with stored tensors.
 * A model may be shared by sessions of several threads; a session belongs to one thread at a time.
 */
#ifndef MOBILE_BUNDLE_H
#define MOBILE_BUNDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mobile_bundle/weights_index.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MB_API __attribute__((visibility("default")))

typedef enum {
  MB_OK = 0,
  MB_ERROR_ARGUMENT = 1, /* an argument is invalid */
  MB_ERROR_IO = 2,       /* a file is missing or cannot be read */
  MB_ERROR_FORMAT = 3,   /* a file is damaged, foreign or of another version */
  MB_ERROR_MEMORY = 4,   /* not enough memory */
  MB_ERROR_CANCELLED = 5,
  MB_ERROR_NUMERIC = 6, /* the model computes values that are not finite */
} mb_status;

/* The library's version, "1.2.3". */
MB_API const char *mb_version(void);

/* What went wrong in this thread's last failing call, one line of UTF-8 for a person; never NULL. */
MB_API const char *mb_error_message(void);

/* Types of the KV cache; MB_KV_K8V4: keys of 8 bits, values of 4. */
typedef enum { MB_KV_INT8 = 0, MB_KV_F16 = 1, MB_KV_INT4 = 2, MB_KV_K8V4 = 3 } mb_kv_type;

typedef struct mb_model mb_model;
typedef struct mb_session mb_session;

/* Progress of a long task: `done` of `total` bytes, now at `what` (NULL: at the end). Return false to stop soon, with
 * MB_ERROR_CANCELLED. */
typedef bool (*mb_progress)(void *context, uint64_t done, uint64_t total, const char *what);

/* Called now and then by a task that may take long. Return false to stop, with MB_ERROR_CANCELLED. */
typedef bool (*mb_go_on)(void *context);

typedef enum {
  MB_MAPPING_WHOLE = 0,  /* pages stay until the kernel reclaims them: for models that fit into memory */
  MB_MAPPING_LAYERS = 1, /* a layer's pages are dropped after use, the next layer's are read ahead */
} mb_mapping;

/* Option structs begin with their size, which the caller sets. So a program that was built with an older header works
 * with this library: members that its struct lacks count as 0. */
typedef struct {
  uint32_t size;         /* sizeof of this struct */
  const char *kernels;   /* NULL: the best for this processor; else one of mb_kernels_available() */
  const char *cache_dir; /* folder for the cache of stored forms, one folder per bundle; NULL: beside weights.ptd */
  mb_mapping mapping;
  mb_progress progress; /* called while the first load installs; NULL: not called */
  void *progress_context;
} mb_model_options;

typedef struct {
  uint32_t size;          /* sizeof of this struct */
  uint32_t context;       /* positions the KV cache holds; 0: the bundle's default */
  uint32_t threads;       /* 0: one per processor, at most 4 */
  uint32_t prefill_chunk; /* tokens computed together; 0: 32 */
  mb_kv_type kv_type;
  bool all_logits;    /* room for logits of a whole chunk: for perplexity only */
  bool unchecked;     /* open even if free memory is below the session's peak */
  uint32_t lookahead; /* room for logits of so many tokens more than one: for checking guesses together */
} mb_session_options;

typedef struct {
  uint64_t file_bytes;          /* weights.ptd and the cache of its stored forms, mapped */
  uint64_t touched_file_bytes;  /* of them, what generating text reads: all but a separate input embedding and what is
                                   in the cache in another form */
  uint64_t resident_file_bytes; /* of those, what must be in memory at once: all, but with MB_MAPPING_LAYERS the small
                                   tensors, two layers (or shares of the output head as large as a layer) */
  uint64_t
      kv_bytes_per_token; /* what one position more adds at this context: layers whose window is full add nothing */
  uint64_t kv_bytes;      /* the whole KV cache at this context */
  uint64_t scratch_bytes; /* activations, logits, attention scores, sampling, thread stacks: anonymous */
  uint64_t process_bytes; /* mobile-run itself: its code, the C library's data, the main stack */
} mb_memory;

typedef struct {
  uint32_t size;         /* sizeof of this struct */
  const char *cache_dir; /* as in mb_model_options */
  mb_progress progress;  /* counts bytes of decoded blobs; NULL: not called */
  void *progress_context;
} mb_install_options;

typedef struct {
  uint32_t tensors;       /* stored forms that the bundle holds; 0: there is nothing to install */
  uint64_t stored_bytes;  /* of their blobs in weights.ptd */
  uint64_t decoded_bytes; /* of their packed blobs, written by this call; 0: a whole cache was there already */
  uint64_t cache_bytes;   /* size of the cache file; 0 if the bundle needs none */
} mb_install_result;

/* Decodes every stored form of the bundle (formats from MB_FIRST_STORED_FORMAT on) into its cache file, weights.cache,
 * which appears whole or not at all. A whole cache that is there already, read and checked to its last byte, is kept;
 * any other is replaced. Memory: a few MB, whatever the model. options and result may be NULL. */
MB_API mb_status mb_install(const char *bundle, const mb_install_options *options, mb_install_result *result);

/* Reads every byte of weights.ptd, and of its cache if there is one, and compares checksums; writes nothing. A missing
 * cache is not an error, one that does not fit is. */
MB_API mb_status mb_verify(const char *bundle, const char *cache_dir);

/* bundle: the NAME.mbundle directory, or a weights.ptd file. options may be NULL. Installs a bundle with
 * stored tensors first, if it has no valid weights cache. */
MB_API mb_status mb_model_open(const char *bundle, const mb_model_options *options, mb_model **model);
MB_API void mb_model_close(mb_model *model);
MB_API const mb_model_config *mb_model_get_config(const mb_model *model);
MB_API const char *mb_model_kernels(const mb_model *model);
/* Reads every byte of weights.ptd and of its cache, and compares checksums. */
MB_API mb_status mb_model_verify(const mb_model *model);

/* What a session of these options will use. Needs only the config, so it can be asked before a bundle exists
 * (the bytes of files are then 0). */
MB_API mb_status mb_memory_estimate(const mb_model_config *config, const mb_session_options *options,
                                    mb_memory *memory);

MB_API mb_status mb_session_open(mb_model *model, const mb_session_options *options, mb_session **session);
MB_API void mb_session_close(mb_session *session);
MB_API mb_status mb_session_memory(const mb_session *session, mb_memory *memory);
/* The options with every default filled in, its size too. */
MB_API const mb_session_options *mb_session_get_options(const mb_session *session);
MB_API uint32_t mb_session_position(const mb_session *session);
/* Forgets everything after the first `position` tokens. MB_ERROR_ARGUMENT where that is not possible: layers with a
 * sliding window keep only what their window needs, and MB_KV_INT4 only some of the last positions in 8 bits (going
 * back by at most a prefill chunk, or to at most 64 tokens, is always possible with it). */
MB_API mb_status mb_session_rewind(mb_session *session, uint32_t position);
/* Where a session that should be rewound to `position` can be: there, or at 0. */
MB_API uint32_t mb_session_rewind_point(const mb_session *session, uint32_t position);
/* Takes the tokens first..end-1 out of what the session holds. Those behind them move to their places: their keys are
 * turned back, their values copied (MB_KV_INT4: rounded again where they come from 8 bits to 4). That is not what
 * reading the rest again would give: what was removed still has its part in what stood behind it, and a key of an int8
 * or int4 cache is rounded once more with each removal before it. MB_ERROR_ARGUMENT where the session does not hold
 * them, or as mb_session_can_remove says. */
MB_API mb_status mb_session_remove(mb_session *session, uint32_t first, uint32_t end);
/* MB_ERROR_ARGUMENT for models whose keys cannot be moved: with sliding windows, convolutions, or norms behind the
 * rotation. */
MB_API mb_status mb_session_can_remove(const mb_session *session);
/* Bytes of the file that mb_session_save will write when the session holds so many tokens. */
MB_API mb_status mb_session_state_bytes(const mb_session *session, uint32_t positions, uint64_t *bytes);
/* Writes what the session holds to a file (state_file.h), which appears whole or not at all and which only its owner
 * may read. tokens: int32[mb_session_position]: those that it was fed. */
MB_API mb_status mb_session_save(const mb_session *session, const int32_t *tokens, const char *path);
/* Takes up a saved state in place of what the session holds: what is fed next gives the bits that it would have given
 * in the session that was saved. tokens: room for int32[context], which gets the state's *count tokens. A file
 * that is damaged, or of another model, type of KV cache or layout, is refused; the session then holds what it held,
 * except where the file changes while it is read, which leaves the session empty. */
MB_API mb_status mb_session_resume(mb_session *session, const char *path, int32_t *tokens, uint32_t *count);
/* Prefill (many tokens, in chunks) or decode (one). *logits: float[vocabulary] of the last token, valid until the next
 * call. */
MB_API mb_status mb_session_feed(mb_session *session, const int32_t *tokens, size_t count, const float **logits);
/* At most 1 + lookahead tokens at once, or prefill_chunk with all_logits; *logits: float[count][vocabulary], one row
 * per token. */
MB_API mb_status mb_session_feed_all(mb_session *session, const int32_t *tokens, size_t count, const float **logits);
/* Feeds tokens as mb_session_feed does, and checks the result of every step: MB_ERROR_NUMERIC if one is not
 * finite, with a message that names the tensor it comes from and the magnitude of its input. */
MB_API mb_status mb_session_check(mb_session *session, const int32_t *tokens, size_t count);
/* Asks a feed that runs in another thread (or, when none runs, the next one) to stop soon with MB_ERROR_CANCELLED. The
 * position then counts only the chunks that were finished. */
MB_API void mb_session_cancel(mb_session *session);

typedef struct {
  uint32_t size;              /* sizeof of this struct */
  float temperature;          /* 0: greedy */
  uint32_t top_k;             /* 0: off */
  float top_p;                /* 1: off */
  float min_p;                /* 0: off */
  float repetition_penalty;   /* 1: off */
  uint32_t repetition_window; /* last tokens that count as repeated */
  uint64_t seed;
} mb_sampler_options;

typedef struct mb_sampler mb_sampler;
MB_API mb_status mb_sampler_open(uint32_t vocabulary, const mb_sampler_options *options, mb_sampler **sampler);
MB_API void mb_sampler_close(mb_sampler *sampler);
MB_API void mb_sampler_accept(mb_sampler *sampler, int32_t token); /* counts for the repetition penalty */
/* MB_ERROR_NUMERIC: a logit is infinite or NaN; *token is -1 then. */
MB_API mb_status mb_sampler_sample(mb_sampler *sampler, const float *logits, int32_t *token);
/* The same among the allowed tokens only, as if there were no others: bit t % 32 of allowed[t / 32]. NULL: all. */
MB_API mb_status mb_sampler_sample_among(mb_sampler *sampler, const float *logits, const uint32_t *allowed,
                                         int32_t *token);

#ifdef __cplusplus
}
#endif

#endif
