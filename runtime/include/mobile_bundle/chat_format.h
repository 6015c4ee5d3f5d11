/* A compiled chat template: what MB_TOKEN_CHAT of a tokenizer.bin with MB_TOKEN_CHAT_PROGRAM holds. Written by
 * toolchain/mobile_bundle/chat_template/, read by runtime/chat/program.c.
 *
 * It is the syntax tree of the Jinja template. The section is an mb_chat_program, then mb_chat_node[node_count],
 * uint32[edge_count] and mb_token_span[text_count] (inside MB_TOKEN_CHAT_BYTES, UTF-8). A node's children are
 * edges[first .. first + count], each below the node's own index; the last node is the whole template. No node is
 * deeper than MB_CHAT_MAX_DEPTH. Names are indices of texts, each text stands there once.
 *
 * Every operation does exactly what Jinja2 and Python do, or fails with a reason: it never guesses. */
#ifndef MOBILE_BUNDLE_CHAT_FORMAT_H
#define MOBILE_BUNDLE_CHAT_FORMAT_H

#include <assert.h>
#include <stdint.h>

#define MB_CHAT_VERSION 1
#define MB_CHAT_MAX_NODES (1u << 16)
#define MB_CHAT_MAX_DEPTH 96u

#define MB_CHAT_HAS_THINKING 1u /* mb_chat_program.flags: the template can switch thinking */
#define MB_CHAT_KNOWN_FLAGS 1u

typedef struct {
  uint32_t version; /* MB_CHAT_VERSION */
  uint32_t node_count;
  uint32_t edge_count;
  uint32_t text_count;
  uint32_t flags;
  uint32_t reserved[3]; /* 0 */
} mb_chat_program;

typedef struct {
  uint16_t op;      /* mb_chat_op */
  uint16_t variant; /* of the op */
  uint32_t value;   /* of the op; 0 where it has none */
  uint32_t first;   /* of the edges */
  uint32_t count;
} mb_chat_node;

/* children; v: variant; n: value. Children in brackets may be left out. */
typedef enum {
  /* statements */
  MB_CHAT_BLOCK,  /* statements */
  MB_CHAT_OUTPUT, /* expression */
  MB_CHAT_IF,     /* condition, statement, ... [otherwise]: the first one that holds */
  MB_CHAT_FOR,    /* list, body [, filter] [, statement when nothing was done]; n: name; v: 1 filter, 2 otherwise */
  MB_CHAT_SET,    /* expression; n: name */
  MB_CHAT_SET_ATTRIBUTE, /* namespace, expression; n: attribute */
  MB_CHAT_CAPTURE,       /* body, whose output becomes the value; n: name */
  MB_CHAT_BREAK,
  MB_CHAT_CONTINUE,
  MB_CHAT_SCOPE,     /* body, whose names end with it */
  MB_CHAT_MACRO,     /* body, parameters; only as the first child of MB_CHAT_CALL */
  MB_CHAT_PARAMETER, /* [default]; n: name */
  /* expressions */
  MB_CHAT_TEXT, /* n: text */
  MB_CHAT_INT,  /* n: int32 */
  MB_CHAT_BOOL, /* n: 0 or 1 */
  MB_CHAT_NONE,
  MB_CHAT_UNDEFINED,
  MB_CHAT_NAME, /* n: name */
  MB_CHAT_MESSAGES,
  MB_CHAT_ADD_GENERATION_PROMPT,
  MB_CHAT_THINKING, /* undefined unless it was asked for */
  MB_CHAT_FUNCTION, /* a function that is not called, only looked for */
  MB_CHAT_LOOP,     /* of the innermost MB_CHAT_FOR */
  MB_CHAT_LIST,     /* elements */
  MB_CHAT_MAP,      /* keys and values in turn */
  MB_CHAT_NAMESPACE,
  MB_CHAT_ATTRIBUTE, /* object; n: name; v: MB_CHAT_OF_* */
  MB_CHAT_ITEM,      /* object, key; v: MB_CHAT_OF_* of a constant key, MB_CHAT_OF_UNKNOWN for any other */
  MB_CHAT_SLICE,     /* object, start, stop, step */
  MB_CHAT_AND,
  MB_CHAT_OR,
  MB_CHAT_NOT,
  MB_CHAT_IF_ELSE, /* condition, value, other value */
  MB_CHAT_COMPARE, /* v: mb_chat_comparison */
  MB_CHAT_ADD,
  MB_CHAT_SUBTRACT,
  MB_CHAT_MULTIPLY,
  MB_CHAT_FLOOR_DIVIDE,
  MB_CHAT_MODULO,
  MB_CHAT_NEGATE,
  MB_CHAT_JOIN,   /* ~: all children as texts, one after the other */
  MB_CHAT_CALL,   /* MB_CHAT_MACRO, values of its parameters from the left; the others have their defaults */
  MB_CHAT_METHOD, /* object, arguments; v: mb_chat_method */
  MB_CHAT_FILTER, /* value, arguments; v: mb_chat_filter */
  MB_CHAT_TEST,   /* value, arguments; v: mb_chat_test */
  MB_CHAT_SELECT, /* list, attribute [, value that it is to equal]; v: 1 keeps those that are not so */
  MB_CHAT_RANGE,  /* one to three numbers */
  MB_CHAT_DATE,   /* n: text, a format of mb_chat_date_format */
  MB_CHAT_RAISE,  /* message */
  MB_CHAT_CANNOT, /* n: text, what it is that cannot be compiled: reaching it is an error */
  MB_CHAT_OPS
} mb_chat_op;

/* Whose method a name is in Python, which then hides an item of that name: what asks for it cannot be compiled. */
#define MB_CHAT_OF_TEXT 1u
#define MB_CHAT_OF_LIST 2u
#define MB_CHAT_OF_MAP 4u
#define MB_CHAT_OF_NUMBER 8u
#define MB_CHAT_OF_UNKNOWN 16u

typedef enum {
  MB_CHAT_EQUAL,
  MB_CHAT_NOT_EQUAL,
  MB_CHAT_LESS,
  MB_CHAT_LESS_EQUAL,
  MB_CHAT_GREATER,
  MB_CHAT_GREATER_EQUAL,
  MB_CHAT_IN,
  MB_CHAT_NOT_IN,
  MB_CHAT_COMPARISONS
} mb_chat_comparison;

typedef enum {
  MB_CHAT_METHOD_SPLIT,
  MB_CHAT_METHOD_RSPLIT,
  MB_CHAT_METHOD_STRIP,
  MB_CHAT_METHOD_LSTRIP,
  MB_CHAT_METHOD_RSTRIP,
  MB_CHAT_METHOD_STARTSWITH,
  MB_CHAT_METHOD_ENDSWITH,
  MB_CHAT_METHOD_REPLACE,
  MB_CHAT_METHOD_UPPER,
  MB_CHAT_METHOD_LOWER,
  MB_CHAT_METHOD_TITLE,
  MB_CHAT_METHOD_CAPITALIZE,
  MB_CHAT_METHOD_FIND,
  MB_CHAT_METHOD_RFIND,
  MB_CHAT_METHOD_COUNT,
  MB_CHAT_METHOD_JOIN,
  MB_CHAT_METHOD_REMOVEPREFIX,
  MB_CHAT_METHOD_REMOVESUFFIX,
  MB_CHAT_METHOD_PARTITION,
  MB_CHAT_METHOD_RPARTITION,
  MB_CHAT_METHOD_GET,
  MB_CHAT_METHODS
} mb_chat_method;

typedef enum {
  MB_CHAT_FILTER_TRIM,
  MB_CHAT_FILTER_LENGTH,
  MB_CHAT_FILTER_DEFAULT,
  MB_CHAT_FILTER_STRING,
  MB_CHAT_FILTER_UPPER,
  MB_CHAT_FILTER_LOWER,
  MB_CHAT_FILTER_TITLE,
  MB_CHAT_FILTER_CAPITALIZE,
  MB_CHAT_FILTER_REPLACE,
  MB_CHAT_FILTER_JOIN,
  MB_CHAT_FILTER_FIRST,
  MB_CHAT_FILTER_LAST,
  MB_CHAT_FILTER_LIST,
  MB_CHAT_FILTER_TOJSON,
  MB_CHAT_FILTERS
} mb_chat_filter;

typedef enum {
  MB_CHAT_TEST_DEFINED,
  MB_CHAT_TEST_UNDEFINED,
  MB_CHAT_TEST_NONE,
  MB_CHAT_TEST_STRING,
  MB_CHAT_TEST_MAPPING,
  MB_CHAT_TEST_ITERABLE,
  MB_CHAT_TEST_SEQUENCE,
  MB_CHAT_TEST_NUMBER,
  MB_CHAT_TEST_INTEGER,
  MB_CHAT_TEST_BOOLEAN,
  MB_CHAT_TEST_TRUE,
  MB_CHAT_TEST_FALSE,
  MB_CHAT_TEST_ODD,
  MB_CHAT_TEST_EVEN,
  MB_CHAT_TEST_DIVISIBLEBY,
  MB_CHAT_TESTS
} mb_chat_test;

static_assert(sizeof(mb_chat_program) == 32, "the program's header is 32 bytes");
static_assert(sizeof(mb_chat_node) == 16, "a node is 16 bytes");

#endif
