/* mobile-run's command line. */
#ifndef MB_RUNNER_OPTIONS_H
#define MB_RUNNER_OPTIONS_H

#include "mobile_bundle/mobile_bundle.h"
#include "mobile_bundle/tokenizer.h"

typedef enum { COMMAND_GENERATE, COMMAND_BENCH, COMMAND_SERVE, COMMAND_INSTALL, COMMAND_VERIFY } runner_command;

typedef struct {
  runner_command command;
  const char *bundle;
  bool json;
  mb_model_options model;
  mb_session_options session;
  const char *runtime_library; /* NULL: the decoder looks for it */
  mb_sampler_options sampler;
  const char *prompt;
  const char *prompt_file;
  bool chat;
  const char *system;
  mb_chat_thinking thinking;
  uint32_t max_new_tokens;
  bool ignore_eos;
  const char *json_schema_file; /* of the answer's form; or */
  const char *regex;
  uint32_t bench_prompt;      /* -p: tokens of prefill */
  uint32_t bench_generate;    /* -n: tokens of decode */
  uint32_t bench_repetitions; /* -r */
} runner_options;

/* Returns -1 to go on, else the exit code (0 after --help and --version, 2 after bad usage, with the line printed). */
int runner_options_parse(int argc, char **argv, runner_options *options);

/* Sets the option of that name, "top-p", to a value. false: it is not a value of it, or there is no such option. */
bool runner_options_set(const char *name, const char *value, runner_options *options);

#endif
