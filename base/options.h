/* One table of options serves the JSON configuration, the command line, --help and the range checks.
 *
 *     static const Option table[] = {
 *         {"r", OPT_INT, offsetof(Config, r), .preset = "16", .min = 1, .max = 4096, .help = "inner size of A and B"},
 *         {0}};
 *     TRY(options_defaults(&config, table));
 *     TRY(options_file(&config, table, "config.json"));
 *     TRY(options_arguments(&config, table, argc, argv, positional, 1, &count));   // --key value wins
 *     options_free(&config, table);
 *
 * Keys are the same in the file and on the command line (`--r 8`, `--r=8`); a nested key has dots there and an object
 * in the file. A flag may stand alone (`--use_rslora`). An unknown key is an error that names the nearest known one. */
#ifndef GRAFT_BASE_OPTIONS_H
#define GRAFT_BASE_OPTIONS_H

#include "base/err.h"
#include "base/json.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum {
    OPT_INT,    /* int64_t */
    OPT_NUMBER, /* double */
    OPT_FLAG,   /* bool */
    OPT_TEXT,   /* char *, owned; NULL when not given */
    OPT_LIST,   /* TextList: a JSON array of strings, or comma-separated on the command line */
    OPT_JSON,   /* Json *, owned: any value; on the command line JSON text, else a plain string */
} OptionKind;

typedef struct {
    size_t count;
    char **items;
} TextList;

typedef struct {
    const char *key;
    OptionKind kind;
    size_t offset;       /* of the field in the caller's struct */
    const char *preset;  /* as on the command line; NULL: 0, false, none */
    double min, max;     /* for numbers, when min < max */
    const char *choices; /* for texts: "linear cosine constant" */
    const char *help;    /* a row with only `help` set starts a group in --help */
    const char *refused; /* a key that others know and we do not take: the explanation */
    const char *old;     /* a former name, which still works: one line on stderr names the new one */
} Option;

MUST_USE Err *options_defaults(void *config, const Option *table);

/* Arguments that start with -- are options, others are positional: at most `most` of them, put into positional[]
 * (borrowed) with their number in *count. */
MUST_USE Err *options_arguments(void *config, const Option *table, int argc, char **argv, const char **positional,
                                size_t most, size_t *count);

/* Every member of a JSON object sets the option of its name; `where` names the file in errors. */
MUST_USE Err *options_file(void *config, const Option *table, const char *path);
MUST_USE Err *options_json(void *config, const Option *table, const Json *object, const char *where);

/* The settings as a JSON object: all of them, in table order. Owner: the caller. */
MUST_USE Err *options_to_json(const void *config, const Option *table, Json **out);

void options_help(FILE *stream, const Option *table);
void options_free(void *config, const Option *table);

/* The word of `words` (NULL-terminated) nearest to `word` by edit distance, or NULL when none is near. */
const char *options_nearest(const char *word, const char *const *words);

#endif
