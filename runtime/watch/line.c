#include "watch/line.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/one_line.h"

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
  char shown[MB_ONE_LINE_BYTES];
  mb_one_line(value, strlen(value), shown);
  append(l, ",\"%s\":\"", name);
  for (const char *c = shown; *c; c++) append(l, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
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
