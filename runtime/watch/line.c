#include "line.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

__attribute__((format(printf, 2, 3))) static void append(line *l, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int written = vsnprintf(l->text + l->length, sizeof l->text - l->length, format, arguments);
  va_end(arguments);
  if (written > 0 && (size_t)written < sizeof l->text - l->length) l->length += (size_t)written;
}

void line_begin(line *l, const char *event) {
  l->length = 0;
  append(l, "{\"event\":\"%s\"", event);
}

void line_integer(line *l, const char *name, uint64_t value) {
  append(l, ",\"%s\":%llu", name, (unsigned long long)value);
}

void line_number(line *l, const char *name, double value, int decimals) {
  append(l, ",\"%s\":%.*f", name, decimals, value);
}

void line_boolean(line *l, const char *name, bool value) { append(l, ",\"%s\":%s", name, value ? "true" : "false"); }

void line_text(line *l, const char *name, const char *value) {
  append(l, ",\"%s\":\"", name);
  for (int i = 0; value[i] && i < 200; i++) {
    const unsigned char c = (unsigned char)value[i];
    /* A byte beyond ASCII may be half a character, or none at all: a question mark is always valid JSON. */
    if (c == '"' || c == '\\') {
      append(l, "\\%c", c);
    } else {
      append(l, "%c", c < 0x20 || c >= 0x7f ? '?' : c);
    }
  }
  append(l, "\"");
}

bool line_send(line *l) {
  append(l, "}\n");
  for (size_t sent = 0; sent < l->length;) {
    const ssize_t written = write(STDOUT_FILENO, l->text + sent, l->length - sent);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    sent += (size_t)written;
  }
  return true;
}
