#include "chat/date.h"

#include <stdio.h>
#include <time.h>

static const char days[7][10] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
static const char months[12][10] = {"January", "February", "March",     "April",   "May",      "June",
                                    "July",    "August",   "September", "October", "November", "December"};

/* The number that a letter stands for, its width and what pads it; false: no number. */
static bool number(char letter, const struct tm *now, int *value, int *width, char *pad) {
  static const char letters[] = "dHIjmMSyeY";
  const int hour = now->tm_hour % 12;
  const int values[] = {now->tm_mday, now->tm_hour, hour ? hour : 12,   now->tm_yday + 1, now->tm_mon + 1,
                        now->tm_min,  now->tm_sec,  now->tm_year % 100, now->tm_mday,     now->tm_year + 1900};
  const char *at = letter ? strchr(letters, letter) : NULL;
  if (!at) return false;
  *value = values[at - letters];
  *width = letter == 'j' ? 3 : letter == 'Y' ? 1 : 2;
  *pad = letter == 'e' ? ' ' : '0';
  return true;
}

static const char *name(char letter, const struct tm *now, int *bytes) {
  const char *day = days[((unsigned)now->tm_wday) % 7], *month = months[((unsigned)now->tm_mon) % 12];
  *bytes = letter == 'a' || letter == 'b' || letter == 'h' ? 3 : 10;
  switch (letter) {
    case 'a':
    case 'A':
      return day;
    case 'b':
    case 'h':
    case 'B':
      return month;
    case 'p':
      return now->tm_hour < 12 ? "AM" : "PM";
    case '%':
      return "%";
    case 'n':
      return "\n";
    case 't':
      return "\t";
    default:
      return NULL;
  }
}

static const char *compound(char letter) {
  switch (letter) {
    case 'F':
      return "%Y-%m-%d";
    case 'D':
      return "%m/%d/%y";
    case 'T':
      return "%H:%M:%S";
    case 'R':
      return "%H:%M";
    default:
      return NULL;
  }
}

static bool append(chat_memory *memory, chat_text format, const struct tm *now, bool nested, mb_buffer *out) {
  for (size_t i = 0; i < format.bytes; i++) {
    char made[32] = {(char)format.at[i]};
    int length = 1, value, width;
    char pad;
    if (format.at[i] == '%') {
      const bool bare = i + 1 < format.bytes && format.at[i + 1] == '-';
      i += bare ? 2 : 1;
      const char letter = i < format.bytes ? (char)format.at[i] : '\0';
      const char *text = bare ? NULL : name(letter, now, &length), *parts = bare || nested ? NULL : compound(letter);
      if (parts) {
        if (!append(memory, (chat_text){(const uint8_t *)parts, strlen(parts)}, now, true, out)) return false;
        continue;
      }
      if (text) {
        length = snprintf(made, sizeof made, "%.*s", length, text);
      } else if (number(letter, now, &value, &width, &pad)) {
        length = snprintf(made, sizeof made, pad == ' ' ? "%*d" : "%0*d", bare ? 1 : width, value);
      } else {
        return chat_cannot(memory, "a date in a form that it does not know");
      }
    }
    if (!mb_buffer_append(out, made, (size_t)length)) return chat_no_memory(memory);
  }
  return true;
}

bool chat_date(chat_memory *memory, chat_text format, const struct tm *now, chat_value *out) {
  mb_buffer made = {0};
  const bool done = append(memory, format, now, false, &made) && chat_keep(memory, &made, out);
  mb_buffer_free(&made);
  return done;
}
