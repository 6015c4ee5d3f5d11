/* The description of the packed blob that a decoder of a stored form makes. */
#ifndef MB_STORAGE_TARGET_H
#define MB_STORAGE_TARGET_H

#include "storage/storage.h"

/* Fills the plan for a target of the same shape. false and a reason where the kernels could not open such a blob. */
bool mb_storage_target(const mb_blob_header *stored, mb_format format, uint32_t group, uint32_t flags, float scale,
                       size_t scratch_bytes, mb_storage_plan *plan, const char **reason);

#endif
