/* Python's methods of str, as chat templates use them; the texts are valid UTF-8. */
#ifndef MB_CHAT_TEXT_H
#define MB_CHAT_TEXT_H

#include "chat/value.h"
#include "mobile_bundle/chat_format.h"

/* What str.strip takes away. */
bool chat_is_space(uint32_t point);
size_t chat_characters(chat_text text);
/* Where character `index` begins; the text's end when it has no more than that. */
size_t chat_offset(chat_text text, size_t index);
/* str.strip of the chosen sides: of white space, or of the characters of `strip`. */
bool chat_strip(chat_memory *memory, chat_text *text, const chat_text *strip, bool left, bool right);
/* The first place of `part`. */
bool chat_search(chat_memory *memory, chat_text text, chat_text part, bool *found, size_t *at);
bool chat_replace(chat_memory *memory, chat_text text, chat_text old, chat_text by, int64_t most, chat_value *out);
/* upper, lower, title and capitalize as methods; of ASCII only. */
bool chat_case(chat_memory *memory, mb_chat_method method, chat_text text, chat_value *out);
/* Jinja's filter `title`, which differs from the method. */
bool chat_title(chat_memory *memory, chat_text text, chat_value *out);
bool chat_join(chat_memory *memory, chat_text separator, const chat_list *list, bool any, chat_value *out);

/* A method of a text with up to three arguments. */
bool chat_text_method(chat_memory *memory, mb_chat_method method, chat_text text, const chat_value *arguments,
                      size_t count, chat_value *out);

#endif
