/* Small training runs in the test's own process: the bundled base, a few documents, a few steps.
 *
 *     Run run;
 *     char out[PATH_BYTES];
 *     scratch_path(state, "run", out);
 *     assert_ok(SMALL_RUN(&run, out, SMALL_TARGETS, "--max_steps", "2"));
 *     run_close(&run);
 *     ... small_run_test(a_test) */
#ifndef GRAFT_TESTS_SUPPORT_SMALL_RUN_H
#define GRAFT_TESTS_SUPPORT_SMALL_RUN_H

#include "tests/support/check.h"
#include "train/run.h"

enum { SMALL_RUN_DOCUMENTS = 6 };

/* Two files of SMALL_RUN_DOCUMENTS documents each: prose and verse, prose. Training reads the first one. */
extern char small_run_data[2][PATH_BYTES];

/* Setup of a test: a fresh directory with the two files. */
int small_run_setup(void **state);

/* Open a run with the common words, then those of `extra` up to NULL; small_run also takes its steps. */
Err *small_run_open(Run *run, char *directory, char *const *extra);
Err *small_run(Run *run, char *directory, char *const *extra);

#define SMALL_RUN(run, directory, ...)      small_run(run, directory, (char *const[]){__VA_ARGS__, NULL})
#define SMALL_RUN_OPEN(run, directory, ...) small_run_open(run, directory, (char *const[]){__VA_ARGS__, NULL})
#define SMALL_TARGETS                       "--target_modules", "[\"q_a_proj\",\"o_proj\"]"

#define small_run_test(test) cmocka_unit_test_setup_teardown(test, small_run_setup, scratch_close)

bool small_run_has(const char *directory, const char *name);

/* metrics.jsonl. Owner: the caller, until free(). */
char *small_run_metrics(const char *directory);

#endif
