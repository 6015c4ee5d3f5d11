#include "base/option_struct.h"

#include <string.h>

#include "base/error.h"

enum { LARGEST = 4096 /* far beyond any struct of options: a size that was never set */ };

const char *mb_version(void) { return MB_VERSION; }

mb_status mb_options_take(const char *name, const void *given, void *own, uint32_t known) {
  uint32_t size = known;
  memset(own, 0, known);
  if (given) memcpy(&size, given, sizeof size);
  if (size < sizeof size || size > LARGEST)
    return mb_fail(MB_ERROR_ARGUMENT, "%s: its size is %u: set it to sizeof(%s)", name, size, name);
  if (given) memcpy(own, given, size < known ? size : known);
  for (uint32_t i = known; i < size; i++) {
    if (((const uint8_t *)given)[i])
      return mb_fail(MB_ERROR_ARGUMENT, "%s: it sets an option that version %s does not have", name, mb_version());
  }
  memcpy(own, &known, sizeof known);
  return MB_OK;
}
