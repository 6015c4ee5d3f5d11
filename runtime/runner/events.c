#include "runner/events.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/unicode.h"

/* A JSON string, whatever the bytes are: a path or a name may be no UTF-8, and becomes U+FFFD where it is none. */
static void write_string(const char *text, size_t bytes) {
  putchar('"');
  for (size_t i = 0; i < bytes;) {
    const unsigned char c = (unsigned char)text[i];
    const int length = mb_utf8_scan((const uint8_t *)text + i, bytes - i);
    if (length <= 0) {
      fputs("\xEF\xBF\xBD", stdout);
    } else if (c == '"' || c == '\\') {
      printf("\\%c", c);
    } else if (c < 0x20 || c == 0x7f) {
      printf("\\u%04x", c);
    } else {
      fwrite(text + i, 1, (size_t)length, stdout);
    }
    i += length > 0 ? (size_t)length : length < 0 ? (size_t)-length : bytes - i;
  }
  putchar('"');
}

static double megabytes(uint64_t bytes) { return (double)bytes / 1e6; }

static double rate(uint32_t tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

static void write_memory(const process_memory *m) {
  printf(
      "\"memory\":{\"peak_rss_bytes\":%llu,\"peak_anon_bytes\":%llu,\"anon_bytes\":%llu,\"file_bytes\":%llu,"
      "\"swap_bytes\":%llu,\"major_faults\":%llu}",
      (unsigned long long)m->peak_rss_bytes, (unsigned long long)(m->anonymous_bytes + m->swap_bytes),
      (unsigned long long)m->anonymous_bytes, (unsigned long long)m->file_bytes, (unsigned long long)m->swap_bytes,
      (unsigned long long)m->major_faults);
}

void emit_install_progress(bool json, uint64_t done, uint64_t total, const char *what) {
  if (json) {
    printf("{\"event\":\"install\",\"done_bytes\":%llu,\"total_bytes\":%llu,\"tensor\":", (unsigned long long)done,
           (unsigned long long)total);
    write_string(what, strlen(what));
    printf("}\n");
    fflush(stdout);
  } else if (isatty(STDERR_FILENO)) {
    fprintf(stderr, "\rinstalling: %.0f of %.0f MB%s", megabytes(done), megabytes(total), done == total ? "\n" : "");
  }
}

void emit_installed(bool json, const install_event *e) {
  const mb_install_result *r = &e->result;
  const double speed = e->seconds > 0 ? (double)r->decoded_bytes / e->seconds : 0;
  if (json) {
    printf("{\"event\":\"installed\",\"bundle\":");
    write_string(e->bundle, strlen(e->bundle));
    printf(
        ",\"tensors\":%u,\"stored_bytes\":%llu,\"decoded_bytes\":%llu,\"cache_bytes\":%llu,\"seconds\":%.6f,"
        "\"bytes_per_second\":%.0f,\"peak_anon_bytes\":%llu,\"peak_rss_bytes\":%llu}\n",
        r->tensors, (unsigned long long)r->stored_bytes, (unsigned long long)r->decoded_bytes,
        (unsigned long long)r->cache_bytes, e->seconds, speed, (unsigned long long)e->peak_anonymous_bytes,
        (unsigned long long)e->peak_rss_bytes);
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
  printf("{\"event\":\"load\",\"runtime\":\"%s\",\"bundle\":", decoder_runtime);
  write_string(e->bundle, strlen(e->bundle));
  printf(",\"kernels\":\"%s\",\"threads\":%u,\"context\":%u,\"load_seconds\":%.6f,", e->kernels, e->threads, e->context,
         e->seconds);
  printf("\"predicted\":{\"file_bytes\":%llu,\"anon_bytes\":%llu,\"kv_bytes_per_token\":%llu,\"peak_bytes\":%llu}}\n",
         (unsigned long long)(m->resident_file_bytes + e->tokenizer_bytes), (unsigned long long)anonymous,
         (unsigned long long)m->kv_bytes_per_token,
         (unsigned long long)(m->resident_file_bytes + e->tokenizer_bytes + anonymous + m->process_bytes));
  fflush(stdout);
}

void emit_prompt(bool json, const prompt_event *e) {
  if (!json) return;
  printf("{\"event\":\"prompt\",\"tokens\":%u,\"kept_tokens\":%u,\"dropped_messages\":%u,\"seconds\":%.6f,", e->tokens,
         e->kept_tokens, e->dropped_messages, e->seconds);
  printf("\"tokens_per_second\":%.3f}\n", rate(e->tokens - e->kept_tokens, e->seconds));
  fflush(stdout);
}

void emit_token(bool json, int32_t id, const char *text, size_t bytes) {
  if (json) {
    printf("{\"event\":\"token\",\"id\":%d,\"text\":", id);
    write_string(text, bytes);
    printf("}\n");
  } else {
    fwrite(text, 1, bytes, stdout);
  }
  fflush(stdout);
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
  printf(
      "{\"event\":\"done\",\"reason\":\"%s\",\"prompt_tokens\":%u,\"tokens\":%u,\"seconds\":%.6f,"
      "\"tokens_per_second\":%.3f,\"prompt_tokens_per_second\":%.3f,\"first_token_seconds\":%.6f,"
      "\"predicted_peak_bytes\":%llu,",
      e->reason, e->prompt_tokens, e->tokens, e->seconds, rate(e->tokens, e->seconds),
      rate(e->prompt_tokens - e->kept_tokens, e->prompt_seconds), e->first_token_seconds,
      (unsigned long long)e->predicted_peak_bytes);
  write_memory(&e->memory);
  printf("}\n");
  fflush(stdout);
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
  printf("{\"event\":\"bench\",\"test\":\"%s\",\"threads\":%u,\"tokens_per_second\":[", e->test, e->threads);
  for (uint32_t i = 0; i < e->repetitions; i++) printf("%s%.4f", i ? "," : "", e->tokens_per_second[i]);
  printf("],\"load_seconds\":%.6f,\"first_token_seconds\":%.6f,", e->load_seconds, e->first_token_seconds);
  write_memory(&e->memory);
  printf("}\n");
  fflush(stdout);
}

void emit_verified(bool json, const char *bundle) {
  if (json) {
    printf("{\"event\":\"verified\",\"bundle\":");
    write_string(bundle, strlen(bundle));
    printf("}\n");
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
    printf("{\"event\":\"error\",\"kind\":\"%s\",\"message\":", kind_of(status));
    write_string(message, strlen(message));
    printf("}\n");
    fflush(stdout);
  } else {
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", decoder_program, message);
  }
}
