/* Reading a whole weights.ptd or weights.cache, every byte once. */
#ifndef MB_ENGINE_VERIFY_H
#define MB_ENGINE_VERIFY_H

#include "engine/weights.h"

/* Compares every blob's checksum and sees that the gaps between blobs, and what fills the file up to the index, are
 * zero. The index has been checked by whoever opened the file. The FlatTensor table before it, which only ExecuTorch
 * reads, is only checked to lie within the file. MB_ERROR_FORMAT with a message that says what is damaged. */
mb_status mb_weights_verify_file(const mb_weights *weights);
/* The same for a cache, whose head is the fixed header and an identity. */
mb_status mb_weights_cache_verify_file(const mb_weights *cache);
/* Both: `weights`, and its cache if it has one. */
mb_status mb_weights_verify(const mb_weights *weights);

#endif
