/* Any bytes as a config.json. One that is accepted must describe tensors that have a size. */
#include "model/config.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>

static Err *check(void *context, const char *name, const TensorSpec *spec)
{
    size_t *visits = context, max_elements = (size_t)1 << 45;
    if (!name[0] || !spec->rows || !spec->cols || spec->rows > max_elements / spec->cols) abort();
    if (spec->vector && spec->rows != 1) abort();
    return ++*visits > 2000 ? err_new(ERR_DATA, "enough") : NULL; /* a million experts would only cost time */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    ModelConfig config;
    size_t visits = 0;
    Err *err = model_config_read(&config, fuzz_file(data, bytes));
    if (!err) {
        err = model_config_tensors(&config, true, check, &visits);
        model_config_free(&config);
    }
    err_free(err);
    return 0;
}

FUZZ_MAIN("config")
