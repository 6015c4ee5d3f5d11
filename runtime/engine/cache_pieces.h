/* Where in memory the state of a session lies: what a state file holds, piece by piece. */
#ifndef MB_ENGINE_CACHE_PIECES_H
#define MB_ENGINE_CACHE_PIECES_H

#include "engine/session.h"

/* Does something with a piece of the cache, which it may change. */
typedef mb_status (*mb_cache_visit)(void *context, uint8_t *piece, size_t bytes);

/* Visits every piece that a session needs of which `written` positions were written and `position` are held, in the
 * order of the file (state_file.h). Ends with the first status that is not MB_OK. */
mb_status mb_cache_pieces(const mb_session *session, uint32_t position, uint32_t written, mb_cache_visit visit,
                          void *context);

typedef struct {
  uint64_t bytes;
  uint64_t fingerprint; /* of the type and of the pieces' sizes: the same for caches that can be taken over */
} mb_cache_shape;

/* MB_ERROR_ARGUMENT where the session's cache has parts that are no piece: such a state cannot be saved. */
mb_status mb_cache_shape_of(const mb_session *session, uint32_t position, uint32_t written, mb_cache_shape *shape);

#endif
