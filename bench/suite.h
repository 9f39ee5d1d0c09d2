/* All measurements of `graft bench` without a directory: the machine, products, operations, training steps and
 * generation; as shares of the machine's peaks, which are measured in the same minutes. */
#ifndef GRAFT_BENCH_SUITE_H
#define GRAFT_BENCH_SUITE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define SUITE_PARTS "products operations steps generate"

typedef struct {
    const char *json;      /* path of the report; NULL: none */
    const char *directory; /* of the random models of shapes S and S256, which are made if needed: 2.5 GB */
    const char *compute;
    bool products, operations, steps, generate;
    int64_t rounds; /* processes that measure steps, per configuration */
} SuiteConfig;

/* Fails as its parts do; no report is written then. */
MUST_USE Err *suite_run(const SuiteConfig *config);

#endif
