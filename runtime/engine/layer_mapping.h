/* Mapping layer by layer (MB_MAPPING_LAYERS), for models that are larger than memory.
 *
 * Before a layer is computed the next one is asked for, where the kernel does not read ahead by itself; afterwards its
 * own pages are given back. The output head goes the same way in shares of rows as large as a layer. All of it is
 * advice about pages: what another session still reads comes back by itself, and nothing changes a result. */
#ifndef MB_ENGINE_LAYER_MAPPING_H
#define MB_ENGINE_LAYER_MAPPING_H

#include "kernels/kernels.h"
#include "mobile_bundle/mobile_bundle.h"

typedef struct mb_layer_mapping mb_layer_mapping;

mb_status mb_layer_mapping_open(const mb_model *model, mb_layer_mapping **mapping);
void mb_layer_mapping_close(mb_layer_mapping *mapping);

/* Before a pass: the rows of the embedding that it needed have been read; the first layer is next. */
void mb_layer_mapping_begin(const mb_layer_mapping *mapping);
void mb_layer_mapping_enter(const mb_layer_mapping *mapping, uint32_t layer);
void mb_layer_mapping_leave(const mb_layer_mapping *mapping, uint32_t layer);
/* The head is computed in rows 0..step-1, step..2*step-1 and so on; a multiple of 64. */
uint32_t mb_layer_mapping_head_rows(const mb_layer_mapping *mapping);
void mb_layer_mapping_enter_head(const mb_layer_mapping *mapping, uint32_t first_row);
void mb_layer_mapping_leave_head(const mb_layer_mapping *mapping, uint32_t first_row);

/* Of the `touched` bytes, those that are in memory at once. */
uint64_t mb_layer_mapping_resident_bytes(const mb_layer_mapping *mapping, uint64_t touched);

#endif
