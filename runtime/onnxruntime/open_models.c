#include "onnxruntime/open_models.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"

/* A file is known by device and inode: a bundle that is built again under the name of an open one is another file. */
typedef struct open_model {
  struct open_model *next;
  dev_t device;
  ino_t inode;
  mb_model *model;
  size_t references;
} open_model;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static open_model *models;

static mb_status open_new(const char *path, const struct stat *st, open_model **out) {
  open_model *entry = calloc(1, sizeof *entry);
  if (!entry) return mb_fail(MB_ERROR_MEMORY, "no memory to open a model");
  const mb_model_options options = {.size = sizeof options, .cache_dir = getenv("MOBILE_BUNDLE_CACHE_DIR")};
  const mb_status status = mb_model_open(path, &options, &entry->model);
  if (status != MB_OK) {
    free(entry);
    return status;
  }
  entry->device = st->st_dev;
  entry->inode = st->st_ino;
  entry->next = models;
  models = *out = entry;
  return MB_OK;
}

mb_status open_models_acquire(const char *path, const mb_model **model) {
  struct stat st;
  if (stat(path, &st) != 0) return mb_fail(MB_ERROR_IO, "%s: %s", path, strerror(errno));
  mb_status status = MB_OK;
  pthread_mutex_lock(&lock);
  open_model *entry = models;
  while (entry && (entry->device != st.st_dev || entry->inode != st.st_ino)) entry = entry->next;
  if (!entry) status = open_new(path, &st, &entry);
  if (status == MB_OK) {
    entry->references++;
    *model = entry->model;
  }
  pthread_mutex_unlock(&lock);
  return status;
}

void open_models_release(const mb_model *model) {
  pthread_mutex_lock(&lock);
  open_model **place = &models;
  while (*place && (*place)->model != model) place = &(*place)->next;
  open_model *entry = *place;
  if (entry && --entry->references == 0) {
    *place = entry->next;
    mb_model_close(entry->model);
    free(entry);
  }
  pthread_mutex_unlock(&lock);
}
