#include "runner/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/one_line.h"
#include "runner/decoder.h"

static const char usage_begin[] =
    "usage: %1$s generate BUNDLE --prompt TEXT [options]\n"
    "       %1$s bench BUNDLE [-p TOKENS | -n TOKENS] [-r REPETITIONS] [options]\n"
    "       %1$s serve BUNDLE [options]\n"
    "       %1$s install BUNDLE [--cache DIR] [--json]\n"
    "       %1$s verify BUNDLE [--cache DIR] [--json]\n"
    "\n"
    "  --prompt TEXT            the text to continue (--prompt-file FILE reads it from a file)\n"
    "  --chat                   treat the prompt as a user's message, by the model's chat template\n"
    "  --system TEXT            with --chat: the system message\n"
    "  --thinking on|off        with --chat or serve: switch thinking, for templates that can do so\n"
    "  --max-new-tokens N       stop after N tokens (default 128)\n"
    "  --ignore-eos             go on after an end-of-sequence token\n"
    "  --json-schema FILE       with generate: the answer is JSON of that schema\n"
    "  --regex R                with generate: the answer matches that regular expression\n"
    "  --temperature T          0 is greedy (default 0)\n"
    "  --top-k K, --top-p P, --min-p P, --repetition-penalty R, --repetition-window N, --seed S\n"
    "  --context N              tokens that the KV cache holds (default: the bundle's)\n"
    "  --threads N              default: one per processor, at most 4\n"
    "  --prefill-chunk N        prompt tokens computed together (default 32)\n"
    "  --cache DIR              folder of the weights cache that install makes (default: the bundle)\n"
    "  --force                  run even if free memory is below the full-context peak\n"
    "  --json                   one JSON event per line\n";

static const char usage_end[] =
    "\n"
    "install decodes the bundle's stored tensors once. The first generate, bench or serve does the same.\n"
    "A line `cancel` on standard input stops the answer.\n"
    "serve answers requests on standard input, one JSON object per line: {\"prompt\":TEXT} or "
    "{\"messages\":[{\"role\":\n"
    "\"user\",\"content\":TEXT}, ...]}, with options such as \"max_new_tokens\" and \"temperature\". It writes the "
    "events\n"
    "of --json. What two requests have in common is computed once. End of input ends it, even during an answer.\n";

/* Of decoder.h's DECODER_*. */
static const struct {
  unsigned flag;
  const char *usage;
} decoder_usage[] = {
    {DECODER_KV, "  --kv int8|k8v4|int4|f16  type of the KV cache (default int8; k8v4: keys of 8 bits, values of 4)\n"},
    {DECODER_KERNELS,
     "  --kernels NAME           scalar, avx2, avx512, neon, neon_dotprod (default: the processor's best)\n"},
    {DECODER_MAPPING,
     "  --mapping whole|layers   layers: reads each layer when it is used, for models larger than memory\n"},
    {DECODER_LOOKUP,
     "  --lookup N               guess up to N tokens at once from the text (default 0: none; 31 at most)\n"},
    {DECODER_RUNTIME_LIBRARY, "  --runtime-library PATH   the runtime's shared library (default: by its plain name)\n"},
};

enum {
  OPTION_PROMPT = 256,
  OPTION_PROMPT_FILE,
  OPTION_CHAT,
  OPTION_SYSTEM,
  OPTION_THINKING,
  OPTION_MAX_NEW_TOKENS,
  OPTION_IGNORE_EOS,
  OPTION_JSON_SCHEMA,
  OPTION_REGEX,
  OPTION_TEMPERATURE,
  OPTION_TOP_K,
  OPTION_TOP_P,
  OPTION_MIN_P,
  OPTION_REPETITION_PENALTY,
  OPTION_REPETITION_WINDOW,
  OPTION_SEED,
  OPTION_CONTEXT,
  OPTION_THREADS,
  OPTION_PREFILL_CHUNK,
  OPTION_KV,
  OPTION_KERNELS,
  OPTION_MAPPING,
  OPTION_CACHE,
  OPTION_FORCE,
  OPTION_RUNTIME_LIBRARY,
  OPTION_LOOKUP,
  OPTION_JSON,
  OPTION_VERSION,
};

static const struct option long_options[] = {
    {"prompt", required_argument, NULL, OPTION_PROMPT},
    {"prompt-file", required_argument, NULL, OPTION_PROMPT_FILE},
    {"chat", no_argument, NULL, OPTION_CHAT},
    {"system", required_argument, NULL, OPTION_SYSTEM},
    {"thinking", required_argument, NULL, OPTION_THINKING},
    {"max-new-tokens", required_argument, NULL, OPTION_MAX_NEW_TOKENS},
    {"json-schema", required_argument, NULL, OPTION_JSON_SCHEMA},
    {"regex", required_argument, NULL, OPTION_REGEX},
    {"ignore-eos", no_argument, NULL, OPTION_IGNORE_EOS},
    {"temperature", required_argument, NULL, OPTION_TEMPERATURE},
    {"top-k", required_argument, NULL, OPTION_TOP_K},
    {"top-p", required_argument, NULL, OPTION_TOP_P},
    {"min-p", required_argument, NULL, OPTION_MIN_P},
    {"repetition-penalty", required_argument, NULL, OPTION_REPETITION_PENALTY},
    {"repetition-window", required_argument, NULL, OPTION_REPETITION_WINDOW},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"context", required_argument, NULL, OPTION_CONTEXT},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"prefill-chunk", required_argument, NULL, OPTION_PREFILL_CHUNK},
    {"kv", required_argument, NULL, OPTION_KV},
    {"kernels", required_argument, NULL, OPTION_KERNELS},
    {"mapping", required_argument, NULL, OPTION_MAPPING},
    {"cache", required_argument, NULL, OPTION_CACHE},
    {"force", no_argument, NULL, OPTION_FORCE},
    {"lookup", required_argument, NULL, OPTION_LOOKUP},
    {"runtime-library", required_argument, NULL, OPTION_RUNTIME_LIBRARY},
    {"json", no_argument, NULL, OPTION_JSON},
    {"version", no_argument, NULL, OPTION_VERSION},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_usage(FILE *to) {
  fprintf(to, usage_begin, decoder_program);
  for (size_t i = 0; i < sizeof decoder_usage / sizeof decoder_usage[0]; i++)
    if (decoder_option_set & decoder_usage[i].flag) fputs(decoder_usage[i].usage, to);
  fputs(usage_end, to);
}

/* Whether this program's decoder has the option. */
static bool has_option(int option) {
  const unsigned flag = option == OPTION_KV                ? DECODER_KV
                        : option == OPTION_KERNELS         ? DECODER_KERNELS
                        : option == OPTION_MAPPING         ? DECODER_MAPPING
                        : option == OPTION_LOOKUP          ? DECODER_LOOKUP
                        : option == OPTION_RUNTIME_LIBRARY ? DECODER_RUNTIME_LIBRARY
                                                           : 0;
  return (decoder_option_set & flag) == flag;
}

static int fail(const char *message, const char *what) {
  char shown[MB_ONE_LINE_BYTES];
  if (what) mb_one_line(what, strlen(what), shown);
  fprintf(stderr, "%s: %s%s%s (see %s --help)\n", decoder_program, message, what ? ": " : "", what ? shown : "",
          decoder_program);
  return 2;
}

static bool whole(const char *text, uint64_t most, uint64_t *out) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (text[0] < '0' || text[0] > '9' || *end || errno || value > most) return false;
  *out = value;
  return true;
}

static bool kv_type(const char *text, mb_kv_type *out) {
  static const char *const names[] = {
      [MB_KV_INT8] = "int8", [MB_KV_F16] = "f16", [MB_KV_INT4] = "int4", [MB_KV_K8V4] = "k8v4"};
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
    *out = (mb_kv_type)i;
    if (strcmp(text, names[i]) == 0) return true;
  }
  return false;
}

static bool number(const char *text, float *out) {
  char *end;
  float value = strtof(text, &end);
  if (end == text || *end || !isfinite(value)) return false;
  *out = value;
  return true;
}

/* One option's value into its place; false when it is not a value of that option. */
static bool apply(int option, const char *value, runner_options *o) {
  uint64_t n = 0;
  switch (option) {
    case OPTION_TEMPERATURE:
      return number(value, &o->sampler.temperature);
    case OPTION_TOP_P:
      return number(value, &o->sampler.top_p);
    case OPTION_MIN_P:
      return number(value, &o->sampler.min_p);
    case OPTION_REPETITION_PENALTY:
      return number(value, &o->sampler.repetition_penalty);
    case OPTION_SEED:
      return whole(value, UINT64_MAX, &o->sampler.seed);
    case OPTION_THINKING:
      o->thinking = strcmp(value, "on") == 0 ? MB_THINKING_ON : MB_THINKING_OFF;
      return strcmp(value, "on") == 0 || strcmp(value, "off") == 0;
    case OPTION_KV:
      return kv_type(value, &o->session.kv_type);
    case OPTION_MAPPING:
      o->model.mapping = strcmp(value, "layers") == 0 ? MB_MAPPING_LAYERS : MB_MAPPING_WHOLE;
      return strcmp(value, "layers") == 0 || strcmp(value, "whole") == 0;
    default:
      break;
  }
  if (!whole(value, 1u << 24, &n)) return false;
  switch (option) {
    case OPTION_MAX_NEW_TOKENS:
      o->max_new_tokens = (uint32_t)n;
      return n > 0;
    case OPTION_TOP_K:
      o->sampler.top_k = (uint32_t)n;
      return true;
    case OPTION_REPETITION_WINDOW:
      o->sampler.repetition_window = (uint32_t)n;
      return n <= 65536;
    case OPTION_CONTEXT:
      o->session.context = (uint32_t)n;
      return n > 0;
    case OPTION_THREADS:
      o->session.threads = (uint32_t)n;
      return n > 0;
    case OPTION_LOOKUP:
      o->session.lookahead = (uint32_t)n;
      return n < 32;
    case OPTION_PREFILL_CHUNK:
      o->session.prefill_chunk = (uint32_t)n;
      return n > 0;
    case 'p':
      o->bench_prompt = (uint32_t)n;
      return n > 0;
    case 'n':
      o->bench_generate = (uint32_t)n;
      return n > 0;
    case 'r':
      o->bench_repetitions = (uint32_t)n;
      return n > 0 && n <= 1000;
    default:
      return false;
  }
}

bool runner_options_set(const char *name, const char *value, runner_options *o) {
  for (const struct option *option = long_options; option->name; option++) {
    if (strcmp(option->name, name) == 0) return option->has_arg && apply(option->val, value, o);
  }
  return false;
}

static int parse_command(int argc, char **argv, runner_options *o) {
  if (argc < 2) {
    print_usage(stderr);
    return 2;
  }
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
    print_usage(stdout);
    return 0;
  }
  if (strcmp(argv[1], "--version") == 0) {
    printf("%s " MB_VERSION "\n", decoder_program);
    return 0;
  }
  if (strcmp(argv[1], "generate") == 0) {
    o->command = COMMAND_GENERATE;
  } else if (strcmp(argv[1], "bench") == 0) {
    o->command = COMMAND_BENCH;
  } else if (strcmp(argv[1], "serve") == 0) {
    o->command = COMMAND_SERVE;
    o->json = true;
  } else if (strcmp(argv[1], "install") == 0) {
    o->command = COMMAND_INSTALL;
  } else if (strcmp(argv[1], "verify") == 0) {
    o->command = COMMAND_VERIFY;
  } else {
    return fail("unknown command", argv[1]);
  }
  return -1;
}

static int fail_value(int option, const char *value) {
  char message[64];
  const struct option *o = long_options;
  while (o->name && o->val != option) o++;
  if (o->name)
    snprintf(message, sizeof message, "not a value of --%s", o->name);
  else
    snprintf(message, sizeof message, "not a value of -%c", option);
  return fail(message, value);
}

int runner_options_parse(int argc, char **argv, runner_options *o) {
  *o = (runner_options){
      .max_new_tokens = 128,
      .bench_repetitions = 5,
      .model = {.size = sizeof o->model},
      .session = {.size = sizeof o->session},
      .sampler = {.size = sizeof o->sampler, .top_p = 1, .repetition_penalty = 1, .repetition_window = 64},
  };
  int code = parse_command(argc, argv, o);
  if (code >= 0) return code;
  argc--;
  argv++;
  opterr = 0;
  for (int option, index = 0; (option = getopt_long(argc, argv, "p:n:r:h", long_options, &index)) != -1;) {
    if (!has_option(option)) return fail("unknown option, or a value is missing", long_options[index].name);
    switch (option) {
      case 'h':
        print_usage(stdout);
        return 0;
      case OPTION_PROMPT:
        o->prompt = optarg;
        break;
      case OPTION_PROMPT_FILE:
        o->prompt_file = optarg;
        break;
      case OPTION_CHAT:
        o->chat = true;
        break;
      case OPTION_SYSTEM:
        o->system = optarg;
        break;
      case OPTION_IGNORE_EOS:
        o->ignore_eos = true;
        break;
      case OPTION_JSON_SCHEMA:
        o->json_schema_file = optarg;
        break;
      case OPTION_REGEX:
        o->regex = optarg;
        break;
      case OPTION_KERNELS:
        o->model.kernels = optarg;
        break;
      case OPTION_CACHE:
        o->model.cache_dir = optarg;
        break;
      case OPTION_FORCE:
        o->session.unchecked = true;
        break;
      case OPTION_RUNTIME_LIBRARY:
        o->runtime_library = optarg;
        break;
      case OPTION_JSON:
        o->json = true;
        break;
      case OPTION_VERSION:
        printf("%s " MB_VERSION "\n", decoder_program);
        return 0;
      case '?':
        return fail("unknown option, or a value is missing", argv[optind - 1]);
      default:
        if (!apply(option, optarg, o)) return fail_value(option, optarg);
    }
  }
  if (optind + 1 != argc) return fail(optind == argc ? "name a bundle" : "one bundle at a time", NULL);
  o->bundle = argv[optind];
  if (o->command == COMMAND_GENERATE && !o->prompt == !o->prompt_file)
    return fail("give --prompt TEXT or --prompt-file FILE", NULL);
  if (o->command == COMMAND_SERVE && (o->prompt || o->prompt_file || o->chat))
    return fail("serve takes prompts from its standard input", NULL);
  if (o->command != COMMAND_GENERATE && (o->json_schema_file || o->regex))
    return fail("--json-schema and --regex are for generate; requests to serve have members of that name", NULL);
  if (o->json_schema_file && o->regex) return fail("give --json-schema or --regex, not both", NULL);
  if (o->system && !o->chat) return fail("--system needs --chat", NULL);
  if (o->thinking != MB_THINKING_DEFAULT && !o->chat && o->command != COMMAND_SERVE)
    return fail("--thinking needs --chat", NULL);
  if (o->command == COMMAND_BENCH && !o->bench_prompt == !o->bench_generate)
    return fail("bench takes either -p or -n", NULL);
  return -1;
}
