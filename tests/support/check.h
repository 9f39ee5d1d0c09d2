/* Short forms for tests that use Err. Include after cmocka's headers. */
#ifndef GRAFT_TESTS_SUPPORT_CHECK_H
#define GRAFT_TESTS_SUPPORT_CHECK_H

#include "base/err.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#define assert_ok(call)                                          \
    do {                                                         \
        Err *ok_ = (call);                                       \
        if (ok_) fail_msg("%s: %s", #call, err_message(ok_));    \
    } while (0)

/* The call fails with this kind, and its message holds these words. */
#define assert_fails(call, kind, words)                                                                         \
    do {                                                                                                        \
        Err *bad_ = (call);                                                                                     \
        if (!bad_) fail_msg("%s: no error; expected one that says %s", #call, words);                           \
        if (err_kind(bad_) != (kind)) fail_msg("%s: kind %d: %s", #call, (int)err_kind(bad_), err_message(bad_)); \
        if (!strstr(err_message(bad_), words)) fail_msg("%s: does not say %s: %s", #call, words, err_message(bad_)); \
        err_free(bad_);                                                                                         \
    } while (0)

#endif
