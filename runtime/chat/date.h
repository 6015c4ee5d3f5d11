/* Dates in a chat template. */
#ifndef MB_CHAT_DATE_H
#define MB_CHAT_DATE_H

#include "chat/value.h"

struct tm;

/* Python's strftime in English, whatever the locale: a A b B h d e H I j m M p S y Y F T D R n t %, and - before a
 * number to have it without padding. */
bool chat_date(chat_memory *memory, chat_text format, const struct tm *now, chat_value *out);

#endif
