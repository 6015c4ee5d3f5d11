/* Listens on standard input for the line `cancel`. */
#ifndef MB_RUNNER_CANCEL_H
#define MB_RUNNER_CANCEL_H

#include "mobile_bundle/mobile_bundle.h"

/* Starts a thread that waits for the line and then cancels the session. */
void cancel_listen(mb_session *session);
bool cancel_requested(void);
/* From here on the session is not touched any more; the thread itself ends with the process. */
void cancel_forget(void);

#endif
