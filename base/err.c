/* An error is one heap block with its message in another. When there is no memory for them, a static error says so;
 * it is never freed and never wrapped, so every function here must recognise it. */
#define _GNU_SOURCE
#include "base/err.h"

#include "base/safe_text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Err {
    ErrKind kind;
    char *message;
};

static Err no_memory = {ERR_MEMORY, (char[]){"out of memory (while reporting an error)"}};

static char *PRINTF(1, 0) vformat(const char *format, va_list args)
{
    char *text;
    return vasprintf(&text, format, args) < 0 ? NULL : text;
}

static Err *make_err(ErrKind kind, char *message)
{
    Err *err = message ? malloc(sizeof *err) : NULL;
    if (!err) {
        free(message);
        return &no_memory;
    }
    *err = (Err){kind, message};
    return err;
}

Err *err_new(ErrKind kind, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *message = vformat(format, args);
    va_end(args);
    return make_err(kind, message);
}

Err *err_errno(const char *format, ...)
{
    int code = errno;
    va_list args;
    va_start(args, format);
    char *what = vformat(format, args);
    va_end(args);
    if (!what) return &no_memory;
    Err *err = err_new(code == ENOMEM ? ERR_MEMORY : ERR_IO, "%s: %s", what, strerror(code));
    free(what);
    return err;
}

Err *err_wrap(Err *err, const char *format, ...)
{
    if (!err || err == &no_memory) return err;
    va_list args;
    va_start(args, format);
    char *context = vformat(format, args);
    va_end(args);
    if (!context) return err;
    Err *wrapped = err_new(err->kind, "%s: %s", context, err->message);
    free(context);
    if (wrapped == &no_memory) return err;
    err_free(err);
    return wrapped;
}

ErrKind err_kind(const Err *err) { return err->kind; }

const char *err_message(const Err *err) { return err->message; }

void err_free(Err *err)
{
    if (!err || err == &no_memory) return;
    free(err->message);
    free(err);
}

Err *err_first(Err *first, Err *second)
{
    if (!first) return second;
    err_free(second);
    return first;
}

int err_report(const char *who, Err *err)
{
    if (!err) return 0;
    int code = (int)err->kind;
    fprintf(stderr, "graft %s: ", who);
    safe_print(stderr, err->message, true); /* it may quote a file */
    fputc('\n', stderr);
    err_free(err);
    return code;
}

void err_assert(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s:%d: bug: !(%s): ", file, line, condition);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}
