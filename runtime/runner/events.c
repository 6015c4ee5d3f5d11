#include "runner/events.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json_line.h"

static void write_string(json_line *l, const char *name, const char *text) {
  json_line_text(l, name, text, strlen(text));
}

static double megabytes(uint64_t bytes) { return (double)bytes / 1e6; }

static double rate(uint32_t tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

static void write_memory(json_line *l, const process_memory *m) {
  json_line_open(l, "memory");
  json_line_integer(l, "peak_rss_bytes", m->peak_rss_bytes);
  json_line_integer(l, "peak_anon_bytes", m->anonymous_bytes + m->swap_bytes);
  json_line_integer(l, "anon_bytes", m->anonymous_bytes);
  json_line_integer(l, "file_bytes", m->file_bytes);
  json_line_integer(l, "swap_bytes", m->swap_bytes);
  json_line_integer(l, "major_faults", m->major_faults);
  json_line_close(l);
}

void emit_install_progress(bool json, uint64_t done, uint64_t total, const char *what) {
  if (json) {
    json_line l;
    json_line_begin(&l, "install");
    json_line_integer(&l, "done_bytes", done);
    json_line_integer(&l, "total_bytes", total);
    write_string(&l, "tensor", what);
    json_line_end(&l);
  } else if (isatty(STDERR_FILENO)) {
    fprintf(stderr, "\rinstalling: %.0f of %.0f MB%s", megabytes(done), megabytes(total), done == total ? "\n" : "");
  }
}

void emit_installed(bool json, const install_event *e) {
  const mb_install_result *r = &e->result;
  const double speed = e->seconds > 0 ? (double)r->decoded_bytes / e->seconds : 0;
  if (json) {
    json_line l;
    json_line_begin(&l, "installed");
    write_string(&l, "bundle", e->bundle);
    json_line_integer(&l, "tensors", r->tensors);
    json_line_integer(&l, "stored_bytes", r->stored_bytes);
    json_line_integer(&l, "decoded_bytes", r->decoded_bytes);
    json_line_integer(&l, "cache_bytes", r->cache_bytes);
    json_line_number(&l, "seconds", e->seconds, 6);
    json_line_number(&l, "bytes_per_second", speed, 0);
    json_line_integer(&l, "peak_anon_bytes", e->peak_anonymous_bytes);
    json_line_integer(&l, "peak_rss_bytes", e->peak_rss_bytes);
    json_line_end(&l);
  } else if (r->decoded_bytes > 0) {
    printf("%s: installed, %u tensors, %.1f MB decoded in %.2f s (%.0f MB/s), peak anonymous memory %.1f MB\n",
           e->bundle, r->tensors, megabytes(r->decoded_bytes), e->seconds, speed / 1e6,
           megabytes(e->peak_anonymous_bytes));
  } else {
    printf("%s: %s\n", e->bundle, r->tensors ? "installed already, and whole" : "nothing to install");
  }
  fflush(stdout);
}

void emit_load(bool json, const load_event *e) {
  if (!json) return;
  const mb_memory *m = &e->memory;
  const uint64_t anonymous = m->kv_bytes + m->scratch_bytes;
  const uint64_t file_bytes = m->resident_file_bytes + e->tokenizer_bytes;
  json_line l;
  json_line_begin(&l, "load");
  write_string(&l, "runtime", decoder_runtime);
  write_string(&l, "bundle", e->bundle);
  write_string(&l, "kernels", e->kernels);
  json_line_integer(&l, "threads", e->threads);
  json_line_integer(&l, "context", e->context);
  json_line_number(&l, "load_seconds", e->seconds, 6);
  json_line_open(&l, "predicted");
  json_line_integer(&l, "file_bytes", file_bytes);
  json_line_integer(&l, "anon_bytes", anonymous);
  json_line_integer(&l, "kv_bytes_per_token", m->kv_bytes_per_token);
  json_line_integer(&l, "peak_bytes", file_bytes + anonymous + m->process_bytes);
  json_line_integer(&l, "form_bytes", e->form_bytes);
  json_line_close(&l);
  json_line_end(&l);
}

void emit_reading(bool json, uint32_t done, uint32_t total) {
  if (!json) return;
  json_line l;
  json_line_begin(&l, "reading");
  json_line_integer(&l, "done_tokens", done);
  json_line_integer(&l, "total_tokens", total);
  json_line_end(&l);
}

void emit_prompt(bool json, const prompt_event *e) {
  if (!json) return;
  json_line l;
  json_line_begin(&l, "prompt");
  json_line_integer(&l, "tokens", e->tokens);
  json_line_integer(&l, "kept_tokens", e->kept_tokens);
  json_line_integer(&l, "dropped_messages", e->dropped_messages);
  json_line_number(&l, "seconds", e->seconds, 6);
  json_line_number(&l, "tokens_per_second", rate(e->tokens - e->kept_tokens, e->seconds), 3);
  json_line_end(&l);
}

void emit_token(bool json, int32_t id, const char *text, size_t bytes) {
  if (json) {
    json_line l;
    json_line_begin(&l, "token");
    json_line_integer(&l, "id", id);
    json_line_text(&l, "text", text, bytes);
    json_line_end(&l);
  } else {
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
  }
}

static void say_memory(const process_memory *m) {
  fprintf(stderr, "peak memory %.1f MB (anonymous %.1f MB, file %.1f MB, swap %.1f MB), %llu major faults\n",
          megabytes(m->peak_rss_bytes), megabytes(m->anonymous_bytes), megabytes(m->file_bytes),
          megabytes(m->swap_bytes), (unsigned long long)m->major_faults);
}

void emit_done(bool json, const done_event *e) {
  if (!json) {
    fputc('\n', stdout);
    fflush(stdout);
    fprintf(stderr, "%u prompt tokens at %.1f tokens/s, %u tokens at %.1f tokens/s (%s), first after %.3f s\n",
            e->prompt_tokens, rate(e->prompt_tokens - e->kept_tokens, e->prompt_seconds), e->tokens,
            rate(e->tokens, e->seconds), e->reason, e->first_token_seconds);
    say_memory(&e->memory);
    return;
  }
  json_line l;
  json_line_begin(&l, "done");
  write_string(&l, "reason", e->reason);
  json_line_integer(&l, "prompt_tokens", e->prompt_tokens);
  json_line_integer(&l, "tokens", e->tokens);
  json_line_number(&l, "seconds", e->seconds, 6);
  json_line_number(&l, "tokens_per_second", rate(e->tokens, e->seconds), 3);
  json_line_number(&l, "prompt_tokens_per_second", rate(e->prompt_tokens - e->kept_tokens, e->prompt_seconds), 3);
  json_line_number(&l, "first_token_seconds", e->first_token_seconds, 6);
  json_line_integer(&l, "predicted_peak_bytes", e->predicted_peak_bytes);
  if (e->lookup) {
    json_line_integer(&l, "guessed_tokens", e->guessed);
    json_line_integer(&l, "right_guesses", e->right);
  }
  if (e->state_bytes) json_line_integer(&l, "state_bytes", e->state_bytes);
  write_memory(&l, &e->memory);
  json_line_end(&l);
}

void emit_state(bool json, const state_event *e) {
  if (!json) return;
  json_line l;
  json_line_begin(&l, "state");
  write_string(&l, "action", e->action);
  json_line_integer(&l, "tokens", e->tokens);
  json_line_integer(&l, "bytes", e->bytes);
  json_line_number(&l, "seconds", e->seconds, 6);
  json_line_end(&l);
}

void emit_bench(bool json, const bench_event *e) {
  if (!json) {
    printf("%s, %u threads:", e->test, e->threads);
    for (uint32_t i = 0; i < e->repetitions; i++) printf(" %.2f", e->tokens_per_second[i]);
    printf(" tokens/s, loaded in %.3f s, first token after %.3f s\n", e->load_seconds, e->first_token_seconds);
    fflush(stdout);
    say_memory(&e->memory);
    return;
  }
  json_line l;
  json_line_begin(&l, "bench");
  write_string(&l, "test", e->test);
  json_line_integer(&l, "threads", e->threads);
  json_line_numbers(&l, "tokens_per_second", e->tokens_per_second, e->repetitions, 4);
  json_line_number(&l, "load_seconds", e->load_seconds, 6);
  json_line_number(&l, "first_token_seconds", e->first_token_seconds, 6);
  write_memory(&l, &e->memory);
  json_line_end(&l);
}

void emit_verified(bool json, const char *bundle) {
  if (json) {
    json_line l;
    json_line_begin(&l, "verified");
    write_string(&l, "bundle", bundle);
    json_line_end(&l);
  } else {
    printf("%s: weights and tokenizer are whole\n", bundle);
  }
}

/* What kind of thing went wrong, for a program that must choose what to do about it. */
static const char *kind_of(mb_status status) {
  switch (status) {
    case MB_ERROR_ARGUMENT:
      return "argument";
    case MB_ERROR_IO:
      return "io";
    case MB_ERROR_FORMAT:
      return "format";
    case MB_ERROR_MEMORY:
      return "memory";
    case MB_ERROR_NUMERIC:
      return "numeric";
    default:
      return "cancelled";
  }
}

void emit_error(bool json, mb_status status, const char *message) {
  if (json) {
    json_line l;
    json_line_begin(&l, "error");
    write_string(&l, "kind", kind_of(status));
    write_string(&l, "message", message);
    json_line_end(&l);
  } else {
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", decoder_program, message);
  }
}
