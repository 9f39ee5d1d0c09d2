/* Paths that a user gives for results. base/file.h (FileWriter) says where a path leads; here is what is refused. */
#ifndef GRAFT_CLI_OUTPUT_H
#define GRAFT_CLI_OUTPUT_H

#include "base/err.h"

#include <stddef.h>

/* Check an output before the work whose result goes there: it can be written, and it is none of the inputs, by whatever
 * name. NULL and `-`, standard output, are always right.
 *   option  names the path in errors: "--output"
 *   inputs  [n] files, or directories of models, adapters and runs; NULL: not given
 * Fails: ERR_USAGE for an input; ERR_IO when nothing can be written there. */
MUST_USE Err *output_check(const char *option, const char *path, size_t n, const char *const *inputs);

#endif
