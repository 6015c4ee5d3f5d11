#include "runner/answer.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "runner/cancel.h"
#include "runner/events.h"
#include "runner/lookup.h"

enum { CHUNKS_PER_PIECE = 2 };

static bool ends(const mb_model_config *config, int32_t token) {
  for (uint32_t i = 0; i < config->eos_count; i++) {
    if (config->eos_tokens[i] == token) return true;
  }
  return false;
}

/* What is left of the text at the end: an unfinished character, and what might have become a stop string. */
static void say_rest(const runner_options *options, stop_watch *stops, const char *piece, size_t bytes) {
  const char *text;
  size_t size;
  (void)stop_piece(stops, piece, bytes, &text, &size);
  if (size) emit_token(options->json, -1, text, size);
  size = stop_rest(stops, &text);
  if (size) emit_token(options->json, -1, text, size);
}

/* The next token, of those that the answer's form allows. */
static mb_status choose(mb_sampler *sampler, mb_constraint *constraint, const float *logits, int32_t *token) {
  const uint32_t *allowed = NULL;
  mb_status status = constraint ? mb_constraint_allowed(constraint, &allowed) : MB_OK;
  if (status == MB_OK) status = mb_sampler_sample_among(sampler, logits, allowed, token);
  return status;
}

/* The token loop. */
static mb_status decode(const runner_options *options, open_bundle *bundle, lookup *guesses, mb_sampler *sampler,
                        const answer_prompt *prompt, stop_watch *stops, const float *logits, char *piece,
                        size_t piece_bytes, done_event *done) {
  const mb_model_config *config = decoder_config(bundle->decoder);
  mb_constraint *constraint = prompt->constraint;
  mb_stream stream;
  mb_stream_begin(&stream, bundle->tokenizer, MB_STREAM_SKIP_SPECIAL | MB_STREAM_CONTINUES);
  const double begin = seconds_now();
  mb_status status = MB_OK;
  done->reason = "length";
  while (done->tokens < options->max_new_tokens) {
    if (cancel_requested()) {
      done->reason = "cancelled";
      break;
    }
    int32_t token;
    if ((status = choose(sampler, constraint, logits, &token)) != MB_OK) break;
    if (done->tokens == 0) done->first_token_seconds = seconds_now() - bundle->started;
    if (!options->ignore_eos && ends(config, token)) {
      done->reason = "eos";
      break;
    }
    mb_sampler_accept(sampler, token);
    if (constraint && (status = mb_constraint_accept(constraint, token)) != MB_OK) break;
    const char *text;
    size_t bytes = mb_stream_token(&stream, token, piece, piece_bytes);
    const bool stopped = stop_piece(stops, piece, bytes, &text, &bytes);
    emit_token(options->json, token, text, bytes);
    done->tokens++;
    if (stopped) {
      done->reason = "stop";
      break;
    }
    if (constraint && mb_constraint_complete(constraint)) {
      done->reason = "eos"; /* nothing else could follow */
      break;
    }
    if (done->tokens == options->max_new_tokens) break;
    if (guesses->position == decoder_options(bundle->decoder)->context) {
      uint32_t removed = 0;
      if (prompt->make_room) status = prompt->make_room(prompt->room_maker, &removed);
      lookup_removed(guesses, removed);
      done->reached = guesses->position + removed;
      if (status == MB_ERROR_CANCELLED) {
        done->reason = "cancelled";
        status = MB_OK;
        break;
      }
      if (status == MB_OK && removed == 0) done->reason = "context";
      if (status != MB_OK || removed == 0) break;
    }
    status = lookup_feed(guesses, token, options->max_new_tokens - done->tokens, &logits);
    if (status == MB_ERROR_CANCELLED) {
      done->reason = "cancelled";
      status = MB_OK;
      break;
    }
    if (status != MB_OK) break;
  }
  const mb_status ended = lookup_end(guesses);
  if (status == MB_OK) status = ended;
  done->seconds = seconds_now() - begin;
  if (strcmp(done->reason, "stop") != 0) say_rest(options, stops, piece, mb_stream_finish(&stream, piece, piece_bytes));
  return status;
}

/* Feeds what the decoder does not hold yet, in pieces, and tells how far it is: reading a long prompt takes a phone a
 * minute. Every piece but the last costs one product with the output matrix for nothing. */
static mb_status prefill(const runner_options *options, open_bundle *bundle, const answer_prompt *prompt,
                         const float **logits) {
  const mb_session_options *session = decoder_options(bundle->decoder);
  const size_t piece = (size_t)session->prefill_chunk * CHUNKS_PER_PIECE;
  const uint32_t begin = decoder_position(bundle->decoder);
  const bool fits = prompt->count <= session->context;
  if (fits) memcpy(prompt->held + begin, prompt->ids + begin, (prompt->count - begin) * sizeof *prompt->ids);
  for (;;) {
    const uint32_t position = decoder_position(bundle->decoder);
    const size_t left = prompt->count - position;
    /* What does not fit is refused as a whole, before anything is computed. */
    const size_t count = fits && left > piece ? piece : left;
    const mb_status status = decoder_feed(bundle->decoder, prompt->ids + position, count, logits);
    /* A cancel that came too late for the answer before may have been left in the decoder: it does not mean this one.
     */
    if (status == MB_ERROR_CANCELLED && !cancel_requested()) continue;
    if (status != MB_OK || count == left) return status;
    emit_reading(options->json, decoder_position(bundle->decoder), (uint32_t)prompt->count);
  }
}

/* chunk: the most tokens that were computed together. */
static mb_status say_done(const runner_options *options, open_bundle *bundle, uint32_t chunk, uint64_t form_bytes,
                          done_event *done) {
  /* What these very tokens should have cost: a prompt shorter than a chunk leaves most of the scratch untouched. */
  mb_memory used;
  const uint32_t position = decoder_position(bundle->decoder);
  mb_status status = decoder_memory(bundle->decoder, chunk, position < done->reached ? done->reached : position, &used);
  if (status != MB_OK) return status;
  done->memory = process_memory_read();
  done->predicted_peak_bytes = used.resident_file_bytes + bundle->tokenizer_bytes + used.scratch_bytes +
                               used.process_bytes + used.kv_bytes + form_bytes;
  if (decoder_state_bytes(bundle->decoder, &done->state_bytes) != MB_OK) done->state_bytes = 0;
  emit_done(options->json, done);
  return MB_OK;
}

mb_status answer_cancelled(const runner_options *options, open_bundle *bundle) {
  done_event done = {.reason = "cancelled"};
  return say_done(options, bundle, 1, 0, &done);
}

static mb_status run(const runner_options *options, open_bundle *bundle, const answer_prompt *prompt,
                     mb_sampler *sampler, stop_watch *stops, char *piece, size_t piece_bytes) {
  const uint32_t count = (uint32_t)prompt->count;
  uint32_t chunk = count;
  done_event done = {.reason = "cancelled", .prompt_tokens = count, .kept_tokens = decoder_position(bundle->decoder)};
  const float *logits;
  const double begin = seconds_now();
  mb_status status = prefill(options, bundle, prompt, &logits);
  if (status == MB_OK) {
    done.prompt_seconds = seconds_now() - begin;
    const prompt_event event = {count, done.kept_tokens, prompt->dropped_messages, done.prompt_seconds};
    emit_prompt(options->json, &event);
    for (size_t i = 0; i < prompt->count; i++) mb_sampler_accept(sampler, prompt->ids[i]);
    lookup guesses;
    lookup_begin(&guesses, bundle->decoder, prompt->held, decoder_options(bundle->decoder)->lookahead,
                 count - done.kept_tokens, done.prompt_seconds);
    guesses.constraint = prompt->constraint;
    status = decode(options, bundle, &guesses, sampler, prompt, stops, logits, piece, piece_bytes, &done);
    done.lookup = guesses.most > 0;
    done.guessed = guesses.all_guessed;
    done.right = guesses.all_right;
    if (guesses.all_guessed && chunk <= guesses.most) chunk = guesses.most + 1;
  } else if (status == MB_ERROR_CANCELLED) {
    status = MB_OK;
  }
  return status == MB_OK ? say_done(options, bundle, chunk, prompt->form_bytes, &done) : status;
}

mb_status answer(const runner_options *options, open_bundle *bundle, const answer_prompt *prompt) {
  const size_t piece_bytes = mb_tokenizer_longest(bundle->tokenizer) + 16;
  mb_sampler *sampler = NULL;
  char *piece = malloc(piece_bytes);
  stop_watch stops;
  const bool room = stop_begin(&stops, prompt->stops, piece_bytes);
  mb_status status = piece && room ? MB_OK : mb_fail(MB_ERROR_MEMORY, "no memory for a token");
  if (status == MB_OK)
    status = mb_sampler_open(decoder_config(bundle->decoder)->vocabulary, &options->sampler, &sampler);
  if (status == MB_OK) status = run(options, bundle, prompt, sampler, &stops, piece, piece_bytes);
  mb_sampler_close(sampler);
  stop_end(&stops);
  free(piece);
  return status;
}
