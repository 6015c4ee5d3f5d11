/* Which file a weights.ptd is that ExecuTorch's loader has open. */
#ifndef MB_EXECUTORCH_WEIGHTS_FILE_H
#define MB_EXECUTORCH_WEIGHTS_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The path of the file that holds exactly this index segment (`bytes` bytes of it, as the loader handed it out): the
 * file that it is a mapping of, or one that this process has open (a loader that reads instead of mapping keeps its
 * file open). false: there is none, for the data came from memory. */
bool weights_file_path(const void *index, size_t bytes, char *path, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
