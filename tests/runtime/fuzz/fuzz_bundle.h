/* The parts of the target fuzz_bundle. */
#ifndef MB_FUZZ_BUNDLE_H
#define MB_FUZZ_BUNDLE_H

#include <stdbool.h>

#include "engine/model.h"
#include "fuzz.h"

enum { MOST_RECORDS = 256 };

/* bundle_file.c: the parts of a seed, which is valid, and what has to be right of a changed one. */
typedef struct {
  uint8_t *data;
  size_t size, most;
  mb_index_header *header;
  mb_model_config *config;
  mb_index_record *records;
  char *names;
  uint32_t count, names_bytes;
} bundle_file;

bundle_file bundle_parts(uint8_t *data, size_t size, size_t most);
/* Whether a record's blob lies in the file. */
bool bundle_holds(const bundle_file *f, const mb_index_record *r);
/* The blob's header; NULL: it does not lie in the file. */
mb_blob_header *bundle_blob(const bundle_file *f, const mb_index_record *r);
/* Hashes, order, sizes and checksums as they have to be. */
void bundle_mend(bundle_file *f, uint64_t index_bytes);

/* bundle_layout.c: other dimensions that go together, small enough for a file of a few hundred kilobytes. */
void bundle_choose_dimensions(mb_model_config *c);
/* Lays all blobs out again, in the shapes that the config asks for (`follow`) or their own. */
void bundle_lay_out(bundle_file *f, bool follow);

/* bundle_changes.c: one thing changed. */
void bundle_change_dimension(mb_model_config *c);
void bundle_change_shape(const bundle_file *f, mb_index_record *r);
void bundle_change_place(const bundle_file *f, mb_index_record *r);
/* The payload, or what an entropy-coded blob says of the blob in it. */
void bundle_change_values(const bundle_file *f, const mb_index_record *r);
void bundle_change_name(const bundle_file *f, mb_index_record *r);
void bundle_change_header(const bundle_file *f);

/* bundle_use.c: what a program does with a bundle; `variant` chooses how. Ends the process where something is wrong. */
void bundle_estimates(const mb_model_config *c);
void bundle_look_at(const mb_weights *weights, uint32_t variant);
void bundle_use(mb_model *model, uint32_t variant);
/* Stored forms are decoded into a cache, which the model is then opened with. */
void bundle_install_and_use(const uint8_t *data, size_t size, uint32_t variant);

static inline uint32_t bundle_one_to(uint32_t most) { return 1 + fuzz_below(most); }
/* A size near a limit, or anything. */
uint32_t bundle_any_size(uint32_t limit);

#endif
