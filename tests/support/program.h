/* The program as a user runs it: in a process of its own, with its exit code and everything that it prints. GRAFT names
 * the program; otherwise it is build/graft. A test must be a scratch_test.
 *
 *     char *words[PROGRAM_MAX_WORDS];
 *     program_train_words(words, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS("--r", "3"));
 *     program_expect(program_wait(state, program_start(state, words)), ERR_USAGE, "holds a run", NULL); */
#ifndef GRAFT_TESTS_SUPPORT_PROGRAM_H
#define GRAFT_TESTS_SUPPORT_PROGRAM_H

#include "tests/support/check.h"

#include <sys/types.h>

enum { PROGRAM_MAX_WORDS = 48, PROGRAM_SECONDS = 60 };

#define PROGRAM_BASE       "examples/tiny-glm5"
#define PROGRAM_DATA       "examples/devils/devils_eval.jsonl"
#define PROGRAM_WORDS(...) ((char *const[]){__VA_ARGS__, NULL})

/* What the last program printed, on both streams. */
extern char program_output[8192];

char *program_path(void);

/* Start a program; words end with NULL. */
pid_t program_start(void **state, char *const *words);

/* Wait for it and read program_output. Returns the exit code, or 128 + the signal that ended it. The test fails when
 * the program runs for more than PROGRAM_SECONDS. */
int program_wait(void **state, pid_t pid);

/* A few milliseconds. */
void program_pause(void);

/* Check that it ended with this code and printed these two; other NULL: only one. */
void program_expect(int code, int expected, const char *part, const char *other);

/* Words of a training run of four small steps, then `more` (up to NULL; NULL: none). Returns their number. */
size_t program_train_words(char **words, char *model, char *file, char *output, char *const *more);

/* Train so and wait. Returns the exit code. */
int program_train(void **state, char *model, char *file, char *output, char *const *more);

/* The bytes of metrics.jsonl that the checkpoint of a step in a run's directory counted. */
uint64_t program_counted_metrics(const char *output, uint64_t step);

#endif
