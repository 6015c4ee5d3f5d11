#include "runner/form.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "runner/prompt.h"

static void forget(form_maker *m) {
  mb_constraint_close(m->constraint);
  m->constraint = NULL;
  free(m->made_for.text);
  m->made_for = (form){0};
}

static bool is_for(const form_maker *m, const form *wanted) {
  return m->constraint && m->made_for.kind == wanted->kind && m->made_for.bytes == wanted->bytes &&
         memcmp(m->made_for.text, wanted->text, wanted->bytes) == 0;
}

mb_status form_check(const runner_options *options) {
  if (options->ignore_eos)
    return mb_fail(MB_ERROR_ARGUMENT, "an answer in a given form ends where the form does: leave out ignore_eos");
  if (options->thinking == MB_THINKING_ON)
    return mb_fail(MB_ERROR_ARGUMENT, "an answer in a given form has no room for thinking: leave out thinking");
  return MB_OK;
}

mb_status form_of_options(const runner_options *options, form *out) {
  *out = (form){0};
  if (!options->json_schema_file && !options->regex) return MB_OK;
  mb_status status = form_check(options);
  if (status != MB_OK) return status;
  if (options->json_schema_file) {
    status = prompt_file(options->json_schema_file, &out->text, &out->bytes);
    if (status == MB_OK && !out->text) status = mb_fail(MB_ERROR_ARGUMENT, "%s: is empty", options->json_schema_file);
    return status;
  }
  out->kind = MB_CONSTRAINT_REGEX;
  out->bytes = strlen(options->regex);
  out->text = strdup(options->regex);
  return out->text ? MB_OK : mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
}

mb_status form_make(form_maker *m, const open_bundle *bundle, const form *wanted, mb_constraint **constraint) {
  *constraint = NULL;
  if (!wanted->text) return MB_OK;
  if (is_for(m, wanted)) {
    mb_constraint_begin(m->constraint);
    *constraint = m->constraint;
    return MB_OK;
  }
  const mb_model_config *config = decoder_config(bundle->decoder);
  mb_status status = MB_OK;
  forget(m);
  if (!m->vocabulary)
    status = mb_vocabulary_open(bundle->tokenizer, config->vocabulary, config->eos_tokens, config->eos_count,
                                &m->vocabulary);
  if (status == MB_OK)
    status = mb_constraint_open(m->vocabulary, wanted->kind, wanted->text, wanted->bytes, &m->constraint);
  if (status != MB_OK) return status;
  m->made_for = (form){wanted->kind, malloc(wanted->bytes + 1), wanted->bytes};
  if (!m->made_for.text) {
    forget(m);
    return mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
  }
  memcpy(m->made_for.text, wanted->text, wanted->bytes);
  *constraint = m->constraint;
  return MB_OK;
}

uint64_t form_most_bytes(const open_bundle *bundle) {
  return mb_constraint_most_bytes(bundle->tokenizer, decoder_config(bundle->decoder)->vocabulary);
}

uint64_t form_bytes(const form_maker *m) {
  return (m->vocabulary ? mb_vocabulary_bytes(m->vocabulary) : 0) +
         (m->constraint ? mb_constraint_bytes(m->constraint) : 0);
}

void form_end(form_maker *m) {
  forget(m);
  mb_vocabulary_close(m->vocabulary);
  m->vocabulary = NULL;
}
