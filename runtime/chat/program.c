#include "chat/program.h"

#include "base/error.h"
#include "base/unicode.h"

enum { ANY = 255 };
typedef enum { NOTHING, TEXT, NUMBER, TRUTH } value_kind;

/* How many children an operation has, what its value is and how many variants it has. */
static const struct {
  uint8_t least, most, value, variants;
} shapes[MB_CHAT_OPS] = {
    [MB_CHAT_BLOCK] = {0, ANY, NOTHING, 1},
    [MB_CHAT_OUTPUT] = {1, 1, NOTHING, 1},
    [MB_CHAT_IF] = {2, ANY, NOTHING, 1},
    [MB_CHAT_FOR] = {2, 4, TEXT, 4},
    [MB_CHAT_SET] = {1, 1, TEXT, 1},
    [MB_CHAT_SET_ATTRIBUTE] = {2, 2, TEXT, 1},
    [MB_CHAT_CAPTURE] = {1, 1, TEXT, 1},
    [MB_CHAT_BREAK] = {0, 0, NOTHING, 1},
    [MB_CHAT_CONTINUE] = {0, 0, NOTHING, 1},
    [MB_CHAT_SCOPE] = {1, 1, NOTHING, 1},
    [MB_CHAT_MACRO] = {1, ANY, NOTHING, 1},
    [MB_CHAT_PARAMETER] = {0, 1, TEXT, 1},
    [MB_CHAT_TEXT] = {0, 0, TEXT, 1},
    [MB_CHAT_INT] = {0, 0, NUMBER, 1},
    [MB_CHAT_BOOL] = {0, 0, TRUTH, 1},
    [MB_CHAT_NONE] = {0, 0, NOTHING, 1},
    [MB_CHAT_UNDEFINED] = {0, 0, NOTHING, 1},
    [MB_CHAT_NAME] = {0, 0, TEXT, 1},
    [MB_CHAT_MESSAGES] = {0, 0, NOTHING, 1},
    [MB_CHAT_ADD_GENERATION_PROMPT] = {0, 0, NOTHING, 1},
    [MB_CHAT_THINKING] = {0, 0, NOTHING, 1},
    [MB_CHAT_FUNCTION] = {0, 0, NOTHING, 1},
    [MB_CHAT_LOOP] = {0, 0, NOTHING, 1},
    [MB_CHAT_LIST] = {0, ANY, NOTHING, 1},
    [MB_CHAT_MAP] = {0, ANY, NOTHING, 1},
    [MB_CHAT_NAMESPACE] = {0, ANY, NOTHING, 1},
    [MB_CHAT_ATTRIBUTE] = {1, 1, TEXT, 32},
    [MB_CHAT_ITEM] = {2, 2, NOTHING, 32},
    [MB_CHAT_SLICE] = {4, 4, NOTHING, 1},
    [MB_CHAT_AND] = {2, 2, NOTHING, 1},
    [MB_CHAT_OR] = {2, 2, NOTHING, 1},
    [MB_CHAT_NOT] = {1, 1, NOTHING, 1},
    [MB_CHAT_IF_ELSE] = {3, 3, NOTHING, 1},
    [MB_CHAT_COMPARE] = {2, 2, NOTHING, MB_CHAT_COMPARISONS},
    [MB_CHAT_ADD] = {2, 2, NOTHING, 1},
    [MB_CHAT_SUBTRACT] = {2, 2, NOTHING, 1},
    [MB_CHAT_MULTIPLY] = {2, 2, NOTHING, 1},
    [MB_CHAT_FLOOR_DIVIDE] = {2, 2, NOTHING, 1},
    [MB_CHAT_MODULO] = {2, 2, NOTHING, 1},
    [MB_CHAT_NEGATE] = {1, 1, NOTHING, 1},
    [MB_CHAT_JOIN] = {0, ANY, NOTHING, 1},
    [MB_CHAT_CALL] = {1, ANY, NOTHING, 1},
    [MB_CHAT_METHOD] = {1, 4, NOTHING, MB_CHAT_METHODS},
    [MB_CHAT_FILTER] = {1, 4, NOTHING, MB_CHAT_FILTERS},
    [MB_CHAT_TEST] = {1, 2, NOTHING, MB_CHAT_TESTS},
    [MB_CHAT_SELECT] = {2, 3, NOTHING, 2},
    [MB_CHAT_RANGE] = {1, 3, NOTHING, 1},
    [MB_CHAT_DATE] = {0, 0, TEXT, 1},
    [MB_CHAT_RAISE] = {1, 1, NOTHING, 1},
    [MB_CHAT_CANNOT] = {0, 0, TEXT, 1},
};

static mb_status damaged(const char *what) {
  return mb_fail(MB_ERROR_FORMAT,
                 "tokenizer.bin: its chat template %s: the file is damaged, copy or build the bundle again", what);
}

static bool shape_fits(const chat_program *program, const mb_chat_node *node) {
  if (node->op >= MB_CHAT_OPS || node->variant >= shapes[node->op].variants || node->count < shapes[node->op].least ||
      (shapes[node->op].most != ANY && node->count > shapes[node->op].most))
    return false;
  switch (node->op) {
    case MB_CHAT_FOR:
      if (node->count != 2u + (node->variant & 1) + (node->variant >> 1)) return false;
      break;
    case MB_CHAT_MAP:
    case MB_CHAT_NAMESPACE:
      if (node->count % 2) return false;
      break;
    default:
      break;
  }
  switch (shapes[node->op].value) {
    case TEXT:
      return node->value < program->header->text_count;
    case NUMBER:
      return true;
    case TRUTH:
      return node->value <= 1;
    default:
      return node->value == 0;
  }
}

/* A macro and its parameters stand where they are looked for, and nowhere else. */
static bool child_fits(const chat_program *program, const mb_chat_node *node, uint32_t position) {
  const mb_chat_node *child = &program->nodes[program->edges[node->first + position]];
  if ((child->op == MB_CHAT_MACRO) != (node->op == MB_CHAT_CALL && position == 0)) return false;
  if ((child->op == MB_CHAT_PARAMETER) != (node->op == MB_CHAT_MACRO && position > 0)) return false;
  return child->op != MB_CHAT_MACRO || child->count >= node->count; /* as many parameters as arguments */
}

static mb_status check_nodes(const chat_program *program, uint8_t *depths) {
  const mb_chat_program *header = program->header;
  for (uint32_t i = 0; i < header->node_count; i++) {
    const mb_chat_node *node = &program->nodes[i];
    if (node->first > header->edge_count || node->count > header->edge_count - node->first ||
        !shape_fits(program, node))
      return damaged("has an impossible operation");
    depths[i] = 1;
    for (uint32_t j = 0; j < node->count; j++) {
      const uint32_t child = program->edges[node->first + j];
      if (child >= i || !child_fits(program, node, j)) return damaged("hangs together in an impossible way");
      if (depths[child] >= MB_CHAT_MAX_DEPTH) return damaged("is nested too deep");
      if (depths[child] >= depths[i]) depths[i] = (uint8_t)(depths[child] + 1);
    }
  }
  return MB_OK;
}

mb_status chat_program_open(const void *section, size_t section_bytes, const void *texts, size_t texts_bytes,
                            chat_program *program) {
  const mb_chat_program *header = section;
  if (section_bytes < sizeof *header) return damaged("is cut off");
  if (header->version != MB_CHAT_VERSION || header->flags & ~MB_CHAT_KNOWN_FLAGS || header->reserved[0] ||
      header->reserved[1] || header->reserved[2])
    return mb_fail(MB_ERROR_FORMAT,
                   "tokenizer.bin needs a feature that this program does not have: use a newer program");
  const uint64_t expected = sizeof *header + (uint64_t)header->node_count * sizeof(mb_chat_node) +
                            (uint64_t)header->edge_count * sizeof(uint32_t) +
                            (uint64_t)header->text_count * sizeof(mb_token_span);
  if (header->node_count == 0 || header->node_count > MB_CHAT_MAX_NODES || expected != section_bytes)
    return damaged("is not as long as it says");
  const uint8_t *at = (const uint8_t *)section + sizeof *header;
  program->header = header;
  program->nodes = (const mb_chat_node *)at;
  at += header->node_count * sizeof(mb_chat_node);
  program->edges = (const uint32_t *)at;
  at += header->edge_count * sizeof(uint32_t);
  program->texts = (const mb_token_span *)at;
  program->bytes = texts;
  for (uint32_t i = 0; i < header->text_count; i++) {
    const mb_token_span span = program->texts[i];
    if (span.offset > texts_bytes || span.bytes > texts_bytes - span.offset ||
        !mb_utf8_valid(program->bytes + span.offset, span.bytes))
      return damaged("has a text that leads out of the file or is not UTF-8");
  }
  uint8_t *depths = malloc(header->node_count);
  if (!depths) return mb_fail(MB_ERROR_MEMORY, "no memory for the chat template");
  const mb_status status = check_nodes(program, depths);
  free(depths);
  return status;
}
