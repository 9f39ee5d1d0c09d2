/* What most tests need: assertions about Err, and a directory that lives as long as the test.
 *
 *     static void a_file_comes_back(void **state)
 *     {
 *         char path[PATH_BYTES];
 *         scratch_path(state, "a.json", path);
 *         assert_ok(file_write(path, "{}", 2));
 *         assert_fails(json_read_file(&root, "nowhere"), ERR_IO, "nowhere");
 *     }
 *     ... cmocka_unit_test_setup_teardown(a_file_comes_back, scratch_open, scratch_close) */
#ifndef GRAFT_TESTS_SUPPORT_CHECK_H
#define GRAFT_TESTS_SUPPORT_CHECK_H

#include "base/err.h"
#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The call succeeded; otherwise the test fails with its message. */
#define assert_ok(err) check_ok(err, __FILE__, __LINE__)

/* The call failed with that kind of error, and its message contains `part`. Frees the error. */
#define assert_fails(err, kind, part) check_fails(err, kind, part, __FILE__, __LINE__)

void check_ok(Err *err, const char *file, int line);
void check_fails(Err *err, ErrKind kind, const char *part, const char *file, int line);

/* Setup and teardown of a test: a fresh directory, removed with all that is in it. */
int scratch_open(void **state);
int scratch_close(void **state);
const char *scratch_path(void **state, const char *name, char path[PATH_BYTES]);

#define scratch_test(test) cmocka_unit_test_setup_teardown(test, scratch_open, scratch_close)

/* How many entries a directory has whose names do not begin with a dot. */
size_t count_entries(const char *directory);

#endif
