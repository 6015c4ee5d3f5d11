/* One JSON object on one line of standard output, put together without allocating: how every event is written. Which
 * fields an event has is in toolchain/mobile_bundle/events/events.schema.json. */
#ifndef MB_BASE_JSON_LINE_H
#define MB_BASE_JSON_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  char bytes[2048]; /* a longer line is written in parts */
  size_t length;
  bool first;  /* no field of this object has been written */
  bool broken; /* standard output took less than it was given */
} json_line;

void json_line_begin(json_line *line, const char *event);
void json_line_integer(json_line *line, const char *name, int64_t value);
/* decimals: digits after the point. */
void json_line_number(json_line *line, const char *name, double value, int decimals);
void json_line_numbers(json_line *line, const char *name, const double *values, size_t count, int decimals);
void json_line_boolean(json_line *line, const char *name, bool value);
/* text: any bytes; what of them is no UTF-8 becomes U+FFFD. */
void json_line_text(json_line *line, const char *name, const char *text, size_t bytes);
/* The fields until json_line_close are those of an object that is the value of `name`. */
void json_line_open(json_line *line, const char *name);
void json_line_close(json_line *line);
/* Ends the line and writes it at once. False when standard output is broken. */
bool json_line_end(json_line *line);

#endif
