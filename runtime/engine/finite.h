/* Where a forward pass stops being finite: mb_session_check looks at the results of every step. */
#ifndef MB_ENGINE_FINITE_H
#define MB_ENGINE_FINITE_H

#include <stdint.h>

struct mb_session;

enum { MB_CHECKED_NAME_BYTES = 96 };

/* What a tensor gave. */
typedef struct {
  char tensor[MB_CHECKED_NAME_BYTES];
  float reach; /* the largest magnitude */
} mb_checked;

typedef struct {
  mb_checked suspect; /* the tensor that gave the first value that is not finite; an empty name: all were finite.
                         reach: the largest magnitude of its input */
  mb_checked giver;   /* the tensor that gave that input */
  mb_checked input;   /* what the next products are made of */
  mb_checked product; /* the largest of those since */
  mb_checked large;   /* the first that is suspiciously large */
} mb_finite_check;

/* A step of mb_decoder_forward has been done, for `count` tokens. */
typedef enum {
  MB_STEP_EMBEDDING,  /* hidden and normed are the first layer's */
  MB_STEP_HEADS,      /* query, key, value are multiplied */
  MB_STEP_HEADS_DONE, /* ... and have their biases and norms */
  MB_STEP_MIX,        /* attention is what the heads saw */
  MB_STEP_MIX_NORM,   /* ... normed */
  MB_STEP_GATES,      /* gates are multiplied: a convolution in place of attention */
  MB_STEP_CONVOLVED,  /* convolved is what it gives */
  MB_STEP_OUTPUT,     /* normed is the attention's output, or the convolution's */
  MB_STEP_MIDDLE,     /* ... added to hidden, and normed is the MLP's input */
  MB_STEP_WIDE,       /* gate and up are multiplied */
  MB_STEP_ACTIVATE,   /* gate is both together */
  MB_STEP_DOWN,       /* normed is the MLP's output */
  MB_STEP_END,        /* ... added to hidden, and normed is the next layer's input */
} mb_step;

/* Looks at the step's results, unless an earlier one is suspect already. */
void mb_check_step(const struct mb_session *session, mb_finite_check *check, mb_step step, uint32_t layer,
                   uint32_t count);
/* The same for logits[count][vocabulary]. */
void mb_check_logits(const struct mb_session *session, mb_finite_check *check, uint32_t count);

#endif
