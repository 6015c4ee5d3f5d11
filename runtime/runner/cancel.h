/* Stops an answer, from a thread that listens on standard input. */
#ifndef MB_RUNNER_CANCEL_H
#define MB_RUNNER_CANCEL_H

#include "runner/decoder.h"

/* Names the decoder that cancel_request stops. */
void cancel_watch(decoder *decoder);
/* cancel_watch, and a thread that waits for the line `cancel` and then requests it. */
void cancel_listen(decoder *decoder);
void cancel_request(void);
bool cancel_requested(void);
/* Before the next answer: forgets the request. */
void cancel_renew(void);
/* From now on the decoder is not touched. The thread itself ends with the process. */
void cancel_forget(void);

#endif
