/* The one way in which failure is reported: NULL is success, anything else is an Err. Callers add context to it.
 *
 *     Err *thing_open(Thing *thing, const char *path)
 *     {
 *         TRY(file_map(&thing->map, path));            // nothing to release yet
 *         Err *err = read_header(thing);
 *         return err_wrap(err, "open %s", path);       // NULL stays NULL
 *     }
 *
 * Owner: whoever receives an Err passes it on, or hands it to err_free or err_report. Only main reports. */
#ifndef GRAFT_BASE_ERR_H
#define GRAFT_BASE_ERR_H

#include <stddef.h>

#define MUST_USE           __attribute__((warn_unused_result))
#define PRINTF(text, args) __attribute__((format(printf, text, args)))

typedef enum {
    ERR_USAGE = 1, /* the command line or the configuration is wrong */
    ERR_IO,        /* a file could not be read or written */
    ERR_FORMAT,    /* a file was read, but its content is not valid */
    ERR_DATA,      /* a training record cannot be used */
    ERR_MEMORY,
    ERR_COMM,    /* another rank failed, or the ranks disagree */
    ERR_NUMERIC, /* a number is not finite */
    ERR_STOPPED, /* a signal ended the run; everything is saved */
} ErrKind;

typedef struct Err Err;

MUST_USE Err *err_new(ErrKind kind, const char *format, ...) PRINTF(2, 3);

/* The same, with the text of errno added: `open base.h5: No such file or directory`. */
MUST_USE Err *err_errno(const char *format, ...) PRINTF(1, 2);

/* Put `context: ` before the message. NULL stays NULL. */
MUST_USE Err *err_wrap(Err *err, const char *format, ...) PRINTF(2, 3);

ErrKind err_kind(const Err *err);
const char *err_message(const Err *err);
void err_free(Err *err);

/* Keep the first of two errors and free the second; either may be NULL. */
MUST_USE Err *err_first(Err *first, Err *second);

/* Print `graft who: message` to stderr, free the error and return the exit code: 0 for NULL, else the kind. */
int err_report(const char *who, Err *err);

#define TRY(call)                      \
    do {                               \
        Err *try_err_ = (call);        \
        if (try_err_) return try_err_; \
    } while (0)

/* A condition that only a bug can violate. Checked unless NDEBUG is defined; prints the condition and the numbers,
 * then aborts. */
#ifdef NDEBUG
#define ASSERT(condition, ...) ((void)0)
#else
#define ASSERT(condition, ...)                                                     \
    do {                                                                           \
        if (!(condition)) err_assert(__FILE__, __LINE__, #condition, __VA_ARGS__); \
    } while (0)
#endif
void err_assert(const char *file, int line, const char *condition, const char *format, ...) PRINTF(4, 5)
    __attribute__((noreturn));

#endif
