#include "runner/cancel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static atomic_bool requested;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static decoder *watched; /* under the lock: NULL once the decoder may be closed */

static void *listen(void *unused) {
  (void)unused;
  static const char word[] = "cancel";
  size_t matched = 0; /* characters of `word` at the start of this line; sizeof word: this line is another one */
  char buffer[256];
  for (;;) {
    /* read, not stdio: exit() must not wait for a lock that a blocked fgets holds. */
    const ssize_t got = read(STDIN_FILENO, buffer, sizeof buffer);
    if (got <= 0) return NULL;
    for (ssize_t i = 0; i < got; i++) {
      if (buffer[i] == '\n' || buffer[i] == '\r') {
        if (matched == sizeof word - 1) {
          cancel_request();
          return NULL;
        }
        matched = 0;
      } else {
        matched = matched < sizeof word - 1 && buffer[i] == word[matched] ? matched + 1 : sizeof word;
      }
    }
  }
}

void cancel_watch(decoder *answering) {
  pthread_mutex_lock(&lock);
  watched = answering;
  pthread_mutex_unlock(&lock);
}

void cancel_listen(decoder *answering) {
  cancel_watch(answering);
  pthread_t thread;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 64 * 1024);
  /* Without the thread the answer still comes; it just cannot be stopped this way. */
  (void)pthread_create(&thread, &attributes, listen, NULL);
  pthread_attr_destroy(&attributes);
}

void cancel_request(void) {
  atomic_store(&requested, true);
  pthread_mutex_lock(&lock);
  if (watched) decoder_cancel(watched);
  pthread_mutex_unlock(&lock);
}

bool cancel_requested(void) { return atomic_load(&requested); }

void cancel_renew(void) { atomic_store(&requested, false); }

void cancel_forget(void) { cancel_watch(NULL); }
