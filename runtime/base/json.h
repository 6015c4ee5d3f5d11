/* Reading one JSON text where it lies: nothing is allocated but the strings that are asked for. */
#ifndef MB_BASE_JSON_H
#define MB_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>

/* A value inside of a text that json_parse has checked. kind: the value's first character, '{' '[' '"' 't' 'f' 'n', or
 * '0' for a number. */
typedef struct {
  const char *at, *end;
  char kind;
} json_value;

/* Checks the whole text, which is one value with nothing behind it but white space, nested at most 80 deep. */
bool json_parse(const char *text, size_t bytes, json_value *value);

/* The members of an object or the elements of an array, in order. Begin with *at = NULL; false: there are no more.
 * name: the member's (a JSON string); not set for an array. */
bool json_next(const json_value *container, const char **at, json_value *name, json_value *value);

/* Whether a string is that ASCII text, written without escapes. */
bool json_is(const json_value *string, const char *text);

/* A string's characters as UTF-8, malloc'd and zero-terminated; unpaired surrogates become U+FFFD. NULL: no memory. */
char *json_text(const json_value *string, size_t *bytes);

#endif
