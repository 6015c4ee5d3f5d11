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
  mb_mapping mapping;
  char kernels[SETTING_NAME_BYTES];
  char *cache_dir; /* NULL: beside the file */
  mb_model *model;
  size_t references;
} open_model;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static open_model *models;

static void forget(open_model *entry) {
  mb_model_close(entry->model);
  free(entry->cache_dir);
  free(entry);
}

static mb_status open_new(const char *path, const struct stat *st, const onnx_settings *settings, const char *cache_dir,
                          open_model **out) {
  open_model *entry = calloc(1, sizeof *entry);
  char *folder = cache_dir ? strdup(cache_dir) : NULL;
  if (!entry || (cache_dir && !folder)) {
    free(entry);
    free(folder);
    return mb_fail(MB_ERROR_MEMORY, "no memory to open a model");
  }
  memcpy(entry->kernels, settings->kernels, sizeof entry->kernels);
  entry->device = st->st_dev;
  entry->inode = st->st_ino;
  entry->mapping = settings->mapping;
  entry->cache_dir = folder;
  const mb_model_options options = {.size = sizeof options,
                                    .kernels = entry->kernels[0] ? entry->kernels : NULL,
                                    .cache_dir = folder,
                                    .mapping = entry->mapping};
  const mb_status status = mb_model_open(path, &options, &entry->model);
  if (status != MB_OK) {
    forget(entry);
    return status;
  }
  entry->next = models;
  models = *out = entry;
  return MB_OK;
}

static bool opened_so(const open_model *entry, const struct stat *st, const onnx_settings *settings,
                      const char *cache_dir) {
  return entry->device == st->st_dev && entry->inode == st->st_ino && entry->mapping == settings->mapping &&
         strcmp(entry->kernels, settings->kernels) == 0 &&
         strcmp(entry->cache_dir ? entry->cache_dir : "", cache_dir ? cache_dir : "") == 0;
}

mb_status open_models_acquire(const char *path, const onnx_settings *settings, mb_model **model) {
  static const onnx_settings none;
  if (!settings) settings = &none;
  struct stat st;
  if (stat(path, &st) != 0) return mb_fail(MB_ERROR_IO, "%s: %s", path, strerror(errno));
  mb_status status = MB_OK;
  pthread_mutex_lock(&lock);
  const char *cache_dir = settings->cache_dir[0] ? settings->cache_dir : getenv("MOBILE_BUNDLE_CACHE_DIR");
  open_model *entry = models;
  while (entry && !opened_so(entry, &st, settings, cache_dir)) entry = entry->next;
  if (!entry) status = open_new(path, &st, settings, cache_dir, &entry);
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
    forget(entry);
  }
  pthread_mutex_unlock(&lock);
}
