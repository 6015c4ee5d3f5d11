#include "base/json_line.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/unicode.h"

static void write_out(json_line *line) {
  for (size_t sent = 0; sent < line->length && !line->broken;) {
    const ssize_t written = write(STDOUT_FILENO, line->bytes + sent, line->length - sent);
    if (written < 0 && errno == EINTR) continue;
    line->broken = written <= 0;
    if (written > 0) sent += (size_t)written;
  }
  line->length = 0;
}

static void append(json_line *line, const char *bytes, size_t count) {
  while (count > 0) {
    if (line->length == sizeof line->bytes) write_out(line);
    const size_t room = sizeof line->bytes - line->length, part = count < room ? count : room;
    memcpy(line->bytes + line->length, bytes, part);
    line->length += part;
    bytes += part;
    count -= part;
  }
}

static void append_string(json_line *line, const char *text) { append(line, text, strlen(text)); }

static void append_name(json_line *line, const char *name) {
  append_string(line, line->first ? "\"" : ",\"");
  append_string(line, name);
  append_string(line, "\":");
  line->first = false;
}

static void append_number(json_line *line, double value, int decimals) {
  char digits[400]; /* the largest double has 309 before the point */
  const int length = snprintf(digits, sizeof digits, "%.*f", decimals, value);
  append(line, digits, length > 0 ? (size_t)length : 0);
}

static void append_escaped(json_line *line, const char *text, size_t bytes) {
  append_string(line, "\"");
  for (size_t i = 0; i < bytes;) {
    const unsigned char c = (unsigned char)text[i];
    const int length = mb_utf8_scan((const uint8_t *)text + i, bytes - i);
    if (length <= 0) {
      append_string(line, "\xEF\xBF\xBD");
    } else if (c == '"' || c == '\\') {
      append(line, (const char[]){'\\', (char)c}, 2);
    } else if (c < 0x20 || c == 0x7f) {
      char escape[8];
      snprintf(escape, sizeof escape, "\\u%04x", c);
      append_string(line, escape);
    } else {
      append(line, text + i, (size_t)length);
    }
    i += length > 0 ? (size_t)length : length < 0 ? (size_t)-length : bytes - i;
  }
  append_string(line, "\"");
}

void json_line_begin(json_line *line, const char *event) {
  *line = (json_line){.first = true};
  append_string(line, "{");
  json_line_text(line, "event", event, strlen(event));
}

void json_line_integer(json_line *line, const char *name, int64_t value) {
  char digits[32];
  snprintf(digits, sizeof digits, "%lld", (long long)value);
  append_name(line, name);
  append_string(line, digits);
}

void json_line_number(json_line *line, const char *name, double value, int decimals) {
  append_name(line, name);
  append_number(line, value, decimals);
}

void json_line_numbers(json_line *line, const char *name, const double *values, size_t count, int decimals) {
  append_name(line, name);
  append_string(line, "[");
  for (size_t i = 0; i < count; i++) {
    if (i > 0) append_string(line, ",");
    append_number(line, values[i], decimals);
  }
  append_string(line, "]");
}

void json_line_boolean(json_line *line, const char *name, bool value) {
  append_name(line, name);
  append_string(line, value ? "true" : "false");
}

void json_line_text(json_line *line, const char *name, const char *text, size_t bytes) {
  append_name(line, name);
  append_escaped(line, text, bytes);
}

void json_line_open(json_line *line, const char *name) {
  append_name(line, name);
  append_string(line, "{");
  line->first = true;
}

void json_line_close(json_line *line) {
  append_string(line, "}");
  line->first = false;
}

bool json_line_end(json_line *line) {
  append_string(line, "}\n");
  write_out(line);
  return !line->broken;
}
