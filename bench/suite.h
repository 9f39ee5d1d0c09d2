/* Everything that `graft bench` measures: the machine, products, operations, whole steps; each as a share of what the machine
 * could do in the same minutes. */
#ifndef GRAFT_BENCH_SUITE_H
#define GRAFT_BENCH_SUITE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define SUITE_PARTS "products operations steps generate"

typedef struct {
    const char *json;      /* the file for records; NULL: none */
    const char *directory; /* where random models of shapes S and S256 are, or are made: 2.5 GB */
    const char *compute;
    bool products, operations, steps, generate;
    int64_t rounds; /* of processes that measure steps, one after the other for every configuration */
} SuiteConfig;

/* Fails as its parts do; no file is written then. */
MUST_USE Err *suite_run(const SuiteConfig *config);

#endif
