/* Checks a model's dimensions against the limits of weights_index.h. */
#ifndef MB_ENGINE_CONFIG_H
#define MB_ENGINE_CONFIG_H

#include "mobile_bundle/mobile_bundle.h"

/* MB_ERROR_FORMAT and a message that names the value and its limit. Dimensions that pass do not
 * overflow: heads * head_dim fits 32 bits, the KV cache of a whole context 64. */
mb_status mb_config_check(const mb_model_config *config);

#endif
