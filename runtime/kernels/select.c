/* Which kernel tables this processor can run. The build defines MB_HAVE_AVX2, MB_HAVE_NEON and MB_HAVE_NEON_DOTPROD
 * for the tables it compiled; whether the processor has the instructions is asked at run time (base/processor.h). */
#include <string.h>

#include "base/processor.h"
#include "kernels/kernels.h"
#include "kernels/tables.h"

#if defined(MB_HAVE_AVX2)
/* Of the two AVX2 tables, and of the two AVX-512 ones, both do the same; which is faster depends on who made the
 * processor's memory prefetch. */
static const mb_kernels *for_this_maker(const mb_kernels *table) {
  if (!mb_processor_is_intel()) return table;
  return table == &mb_avx512_kernels ? &mb_avx512_ahead_kernels : &mb_avx2_ahead_kernels;
}
#endif

/* Best first. What a processor can run is always an end of this list: one with dot products has NEON too. */
static const mb_kernels *const tables[] = {
#if defined(MB_HAVE_AVX2)
    &mb_avx512_kernels,       &mb_avx2_kernels,
#endif
#if defined(MB_HAVE_NEON_DOTPROD)
    &mb_neon_dotprod_kernels,
#endif
#if defined(MB_HAVE_NEON)
    &mb_neon_kernels,
#endif
    &mb_scalar_kernels,
};
static const char *const names[] = {
#if defined(MB_HAVE_AVX2)
    "avx512",       "avx2",
#endif
#if defined(MB_HAVE_NEON_DOTPROD)
    "neon_dotprod",
#endif
#if defined(MB_HAVE_NEON)
    "neon",
#endif
    "scalar",       NULL,
};
#define TABLES (sizeof tables / sizeof *tables)

static size_t first_runnable(void) {
  size_t first = 0;
#if defined(MB_HAVE_AVX2)
  if (first == 0 && !mb_processor_has_avx512()) first = 1;
  if (first == 1 && !mb_processor_has_avx2()) first = 2;
#endif
#if defined(MB_HAVE_NEON_DOTPROD)
  if (first == 0 && !mb_processor_has_dotprod()) first = 1;
#endif
#if defined(MB_HAVE_NEON)
  if (first == TABLES - 2 && !mb_processor_has_neon()) first = TABLES - 1;
#endif
  return first;
}

static const mb_kernels *table_at(size_t i) {
#if defined(MB_HAVE_AVX2)
  if (tables[i] == &mb_avx2_kernels || tables[i] == &mb_avx512_kernels) return for_this_maker(tables[i]);
#endif
  return tables[i];
}

const mb_kernels *mb_kernels_select(const char *name) {
  size_t first = first_runnable();
  if (name == NULL || strcmp(name, "auto") == 0) return table_at(first);
  for (size_t i = first; i < TABLES; i++)
    if (strcmp(name, names[i]) == 0) return table_at(i);
  return NULL;
}

const char *const *mb_kernels_available(void) { return names + first_runnable(); }
