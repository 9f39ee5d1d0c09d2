/* A table of options: it reads the JSON configuration and the command line, prints --help and checks ranges.
 *
 *     static const Option table[] = {
 *         {"r", OPT_INT, offsetof(Config, r), .preset = "16", .min = 1, .max = 4096, .help = "inner size of A and B"},
 *         {0}};
 *     TRY(options_defaults(&config, table));
 *     TRY(options_file(&config, table, "config.json"));
 *     TRY(options_arguments(&config, table, argc, argv, positional, 1, &count));   // --key value overrides
 *     options_free(&config, table);
 *
 * Keys are the same in the file and on the command line (`--r 8`, `--r=8`). A nested key has dots on the command
 * line; in the file it is a member of an object, or has dots. A flag needs no value (`--use_rslora`). An unknown key
 * is an error that names the nearest known one. */
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
    OPT_LIST,   /* TextList: a JSON array of strings; on the command line, separated by commas */
    OPT_JSON,   /* Json *, owned: any value; on the command line JSON text, or else a string */
} OptionKind;

typedef struct {
    size_t count;
    char **items;
} TextList;

typedef struct {
    const char *key;
    OptionKind kind;
    size_t offset;       /* of the field in the caller's struct */
    const char *preset;  /* the default, as on the command line; NULL: 0, false, none */
    double min, max;     /* range of a number, when min < max */
    const char *choices; /* of a text, separated by spaces: "linear cosine constant" */
    const char *help;    /* a row with only `help` set is the title of a group in --help */
    const char *refused; /* set for a key that other programs have and this one does not: the explanation */
    const char *old;     /* a former name, which still works: one line on stderr names the new one */
} Option;

MUST_USE Err *options_defaults(void *config, const Option *table);

/* Read arguments. Those that start with -- are options; the others are positional.
 *   positional  [max_positional]  out: borrowed from argv; *count is their number
 * Fails: ERR_USAGE, naming the option. */
MUST_USE Err *options_arguments(void *config, const Option *table, int argc, char **argv, const char **positional,
                                size_t max_positional, size_t *count);

/* Set options from the members of a JSON object; `where` names the file in errors. */
MUST_USE Err *options_file(void *config, const Option *table, const char *path);
MUST_USE Err *options_json(void *config, const Option *table, const Json *object, const char *where);

/* All settings as a JSON object, in the order of the table. Owner: the caller. */
MUST_USE Err *options_to_json(const void *config, const Option *table, Json **out);

void options_help(FILE *stream, const Option *table);
void options_free(void *config, const Option *table);

/* The word of `words` (NULL-terminated) nearest to `word` by edit distance, or NULL when none is near. */
const char *options_nearest(const char *word, const char *const *words);

#endif
