/* Listens on standard input for the line `cancel`. */
#ifndef MB_RUNNER_CANCEL_H
#define MB_RUNNER_CANCEL_H

#include "decoder.h"

/* Starts a thread that waits for the line and then cancels what the decoder does. */
void cancel_listen(decoder *decoder);
bool cancel_requested(void);
/* From here on the decoder is not touched any more; the thread itself ends with the process. */
void cancel_forget(void);

#endif
