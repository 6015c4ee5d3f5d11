/* One JSON object on one line of standard output, put together without allocating. */
#ifndef MB_WATCH_LINE_H
#define MB_WATCH_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  char text[2048]; /* longer than any event with one reason or name in it */
  size_t length;
} line;

void line_begin(line *l, const char *event);
void line_integer(line *l, const char *name, uint64_t value);
void line_number(line *l, const char *name, double value, int decimals);
void line_boolean(line *l, const char *name, bool value);
/* value: any bytes, as mb_one_line makes them. */
void line_text(line *l, const char *name, const char *value);
/* Ends the line and writes it at once. False when standard output is broken. */
bool line_send(line *l);

#endif
