/* words WORDS FILE...: print every word of the files that WORDS (tests/words.txt, whose header explains its columns)
 * replaces by a better one. `sh tests/words.sh` builds and runs it.
 * A file is split into three parts: identifiers, comments and messages, documents. Each part is a text of its own, in
 * which every character remembers where it stood in the file:
 *   - identifiers are lower-case words with a blank between them (`ModulePair`, `n_pairs`), one identifier a line, with
 *     `()` after one that is called;
 *   - comments lose their asterisks and line ends, so that a pattern also finds words on two lines;
 *   - what belongs to another part is zero, and no pattern matches it.
 * A mistake in WORDS ends with 2, a word found with 1. First every line of WORDS is tried: its planted word must be
 * found, its lawful example must not. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDENTIFIERS, COMMENTS, DOCUMENTS, N_PARTS };
enum { SCOPE, PATTERN, USE, LAWFUL, FILES, PLANTED, EXAMPLE, N_COLUMNS };
enum { MAX_RULES = 300, CONTEXT = 30 };

typedef struct {
    char *text;
    size_t *from; /* where each character stood in the file */
    size_t n, capacity;
} Part;

typedef struct {
    const char *column[N_COLUMNS];
    size_t line;
    pcre2_code *pattern, *files; /* files: NULL when no file is left out */
    pcre2_match_data *match;
} Rule;

static Rule rules[MAX_RULES];
static size_t n_rules;
static const char *words_path;

static void stop(const char *what, const char *subject)
{
    fprintf(stderr, "words: %s: %s\n", what, subject);
    exit(2);
}

static char *read_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    if (!file) stop("cannot open", path);
    char *text = NULL;
    size_t capacity = 0;
    *n = 0;
    do {
        capacity += 1 << 16;
        text = realloc(text, capacity + 1);
        if (!text) stop("no memory for", path);
        *n += fread(text + *n, 1, capacity - *n, file);
    } while (*n == capacity);
    fclose(file);
    text[*n] = 0;
    return text;
}

static void put(Part *part, char c, size_t from)
{
    if (part->n == part->capacity) {
        part->capacity = part->capacity ? 2 * part->capacity : 1 << 16;
        part->text = realloc(part->text, part->capacity);
        part->from = realloc(part->from, part->capacity * sizeof *part->from);
        if (!part->text || !part->from) stop("no memory for", "a part");
    }
    part->text[part->n] = c;
    part->from[part->n++] = from;
}

/* ---- splitting ---- */

static bool in_name(char c) { return isalnum((unsigned char)c) || c == '_'; }

/* One identifier as lower-case words; returns its end. */
static size_t put_identifier(Part *part, const char *s, size_t i, size_t n)
{
    size_t begin = i;
    for (; i < n && in_name(s[i]); i++) {
        bool upper = isupper((unsigned char)s[i]), after = i > begin && s[i - 1] != '_' && s[i] != '_';
        bool hump = upper && after &&
                    (islower((unsigned char)s[i - 1]) || (i + 1 < n && islower((unsigned char)s[i + 1])));
        if (hump) put(part, ' ', i);
        put(part, s[i] == '_' ? ' ' : (char)tolower((unsigned char)s[i]), i);
    }
    size_t next = i;
    while (next < n && s[next] == ' ') next++;
    if (next < n && s[next] == '(') put(part, '(', i - 1), put(part, ')', i - 1);
    put(part, '\n', i);
    return i;
}

/* A name in prose is an identifier when it has an underscore inside, a hump, or is called. */
static bool is_code_name(const char *s, size_t i, size_t n)
{
    size_t end = i;
    bool code = false;
    for (; end < n && in_name(s[end]); end++)
        code |= end > i && (s[end] == '_' || (isupper((unsigned char)s[end]) && islower((unsigned char)s[end - 1])));
    return code || (end < n && s[end] == '(');
}

/* Identifiers named in the prose [i, end). */
static void put_names(Part *part, const char *s, size_t i, size_t end)
{
    while (i < end) {
        if (!in_name(s[i]))
            i++;
        else if (is_code_name(s, i, end))
            i = put_identifier(part, s, i, end);
        else
            while (i < end && in_name(s[i])) i++;
    }
}

/* Prose: line ends and the signs that begin a comment's line are blanks. */
static void put_prose(Part *part, const char *s, size_t i, size_t end, char sign)
{
    bool line_begins = true;
    put(part, 0, i);
    for (; i < end; i++) {
        if (line_begins && sign && s[i] == sign)
            put(part, ' ', i);
        else
            put(part, s[i] == '\n' ? ' ' : s[i], i);
        if (s[i] == '\n')
            line_begins = true;
        else if (s[i] != ' ' && s[i] != sign)
            line_begins = false;
    }
    put(part, 0, i);
}

/* A literal with its quotes; \n and \t are blanks. */
static size_t put_literal(Part *part, const char *s, size_t i, size_t n)
{
    char quote = s[i];
    put(part, 0, i);
    put(part, s[i], i);
    for (i++; i < n && s[i] != quote && s[i] != '\n'; i++) {
        if (s[i] != '\\') {
            put(part, s[i], i);
            continue;
        }
        bool blank = strchr("ntr", s[i + 1]);
        put(part, blank ? ' ' : s[i], i);
        put(part, blank ? ' ' : s[i + 1], i + 1);
        i++;
    }
    put(part, quote, i);
    put(part, 0, i);
    return i + 1;
}

static void split_c(const char *s, size_t n, Part parts[N_PARTS])
{
    bool line_begins = true;
    for (size_t i = 0; i < n;) {
        size_t end = i;
        if (s[i] == '/' && (s[i + 1] == '*' || s[i + 1] == '/')) {
            const char *close = strstr(s + i + 2, s[i + 1] == '*' ? "*/" : "\n");
            end = close ? (size_t)(close - s) : n;
            put_prose(&parts[COMMENTS], s, i + 2, end, '*');
            put_names(&parts[IDENTIFIERS], s, i + 2, end);
            i = s[i + 1] == '*' && close ? end + 2 : end;
        } else if (s[i] == '"' || s[i] == '\'') {
            i = put_literal(&parts[COMMENTS], s, i, n);
        } else if (line_begins && s[i] == '#' && strncmp(s + i, "#include", 8) == 0) {
            while (i < n && s[i] != '\n') i++;
        } else if (isdigit((unsigned char)s[i])) {
            while (i < n && in_name(s[i])) i++;
        } else if (in_name(s[i])) {
            i = put_identifier(&parts[IDENTIFIERS], s, i, n);
        } else {
            line_begins = s[i] == '\n' || (line_begins && s[i] == ' ');
            i++;
            continue;
        }
        line_begins = false;
    }
}

/* Only what stands behind a # (Makefile). */
static void split_comments(const char *s, size_t n, Part parts[N_PARTS])
{
    for (size_t i = 0; i < n;) {
        const char *newline = memchr(s + i, '\n', n - i);
        size_t end = newline ? (size_t)(newline - s) : n;
        const char *sign = memchr(s + i, '#', end - i);
        if (sign) put_prose(&parts[COMMENTS], s, (size_t)(sign - s), end, '#');
        i = end + 1;
    }
}

static bool ends_with(const char *path, const char *end)
{
    size_t n = strlen(path), m = strlen(end);
    return n >= m && strcmp(path + n - m, end) == 0;
}

static void split(const char *path, const char *s, size_t n, Part parts[N_PARTS])
{
    for (size_t p = 0; p < N_PARTS; p++) parts[p].n = 0;
    if (ends_with(path, ".c") || ends_with(path, ".h")) {
        split_c(s, n, parts);
    } else if (ends_with(path, ".md")) {
        put_prose(&parts[DOCUMENTS], s, 0, n, 0);
        put_names(&parts[IDENTIFIERS], s, 0, n);
    } else if (ends_with(path, "Makefile")) {
        split_comments(s, n, parts);
    } else {
        put_prose(&parts[COMMENTS], s, 0, n, '#'); /* scripts: all of it */
    }
}

/* ---- rules ---- */

static pcre2_code *compile(const char *pattern, size_t line)
{
    int code;
    size_t offset;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_CASELESS | PCRE2_MULTILINE,
                                         &code, &offset, NULL);
    if (!compiled) {
        fprintf(stderr, "words: %s:%zu: character %zu of %s\n", words_path, line, offset, pattern);
        exit(2);
    }
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    return compiled;
}

/* A blank of a pattern is any number of blanks of the text, for a line's end may lie between. */
static void append(char *out, const char *pattern)
{
    size_t n = strlen(out);
    for (; *pattern; pattern++) n += (size_t)sprintf(out + n, *pattern == ' ' ? "(?: +)" : "%c", *pattern);
}

static void rule_compile(Rule *rule)
{
    const char **column = rule->column;
    static char pattern[1 << 14];
    pattern[0] = 0;
    if (column[LAWFUL][0]) {
        append(pattern, "(?:");
        append(pattern, column[LAWFUL]);
        append(pattern, ")(*SKIP)(*F)|");
    }
    append(pattern, "(?<!\\w)(?:");
    append(pattern, column[PATTERN]);
    append(pattern, ")(?!\\w)");
    rule->pattern = compile(pattern, rule->line);
    rule->files = column[FILES][0] ? compile(column[FILES], rule->line) : NULL;
    rule->match = pcre2_match_data_create_from_pattern(rule->pattern, NULL);
    if (strspn(column[SCOPE], "icd") != strlen(column[SCOPE]) || !column[SCOPE][0]) stop("no scope", column[PATTERN]);
    if (!column[USE][0] || !column[PLANTED][0]) stop("needs a word to use and a word to plant", column[PATTERN]);
}

static void rules_read(const char *path)
{
    size_t n, number = 0;
    char *text = read_file(path, &n);
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        number++;
        if (line[0] == '#' || !line[0]) continue;
        if (n_rules == MAX_RULES) stop("too many lines", path);
        Rule *rule = &rules[n_rules++];
        rule->line = number;
        for (size_t c = 0; c < N_COLUMNS; c++) {
            while (line && *line == ' ') line++;
            char *end = line ? strchr(line, ';') : NULL;
            rule->column[c] = line ? line : "";
            if (!end && line && c + 1 < N_COLUMNS && c < EXAMPLE - 1)
                stop("a line lacks columns", rule->column[PATTERN]);
            if (end) *end = 0;
            for (size_t m = line ? strlen(line) : 0; m && line[m - 1] == ' '; m--) line[m - 1] = 0;
            line = end ? end + 1 : NULL;
        }
        rule_compile(rule);
    }
}

/* ---- searching ---- */

static bool is_left_out(const Rule *rule, const char *path)
{
    if (!rule->files) return false;
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    bool out = pcre2_match(rule->files, (PCRE2_SPTR)path, PCRE2_ZERO_TERMINATED, 0, 0, match, NULL) >= 0;
    pcre2_match_data_free(match);
    return out;
}

/* The identifier of the file, or the words as they stand there with what is around them. */
static void report(const char *path, const char *s, size_t n, const Rule *rule, size_t p, size_t begin, size_t end)
{
    size_t line = 1;
    for (size_t i = 0; i < begin; i++) line += s[i] == '\n';
    printf("%s:%zu: '", path, line);
    if (p == IDENTIFIERS) {
        while (begin && in_name(s[begin - 1])) begin--;
        while (end < n && in_name(s[end])) end++;
    }
    for (size_t i = begin; i < end; i++) putchar(s[i] == '\n' ? ' ' : s[i]);
    printf("' (use: %s)", rule->column[USE]);
    if (p != IDENTIFIERS) {
        printf("   ");
        for (size_t i = begin > CONTEXT ? begin - CONTEXT : 0; i < end + CONTEXT && i < n; i++)
            putchar(s[i] == '\n' ? ' ' : s[i]);
    }
    putchar('\n');
}

/* How often the rule's word stands in the parts; each place is printed unless path is NULL. */
static size_t search(Rule *rule, const Part parts[N_PARTS], const char *path, const char *s, size_t n)
{
    static const char letters[] = "icd";
    size_t found = 0;
    for (size_t p = 0; p < N_PARTS; p++) {
        const Part *part = &parts[p];
        if (!part->n || !strchr(rule->column[SCOPE], letters[p])) continue;
        for (size_t at = 0;;) {
            if (pcre2_match(rule->pattern, (PCRE2_SPTR)part->text, part->n, at, 0, rule->match, NULL) < 0) break;
            const size_t *span = pcre2_get_ovector_pointer(rule->match);
            if (span[1] <= span[0]) stop("a pattern matches nothing", rule->column[PATTERN]);
            found++;
            at = span[1];
            if (path) report(path, s, n, rule, p, part->from[span[0]], part->from[span[1] - 1] + 1);
        }
    }
    return found;
}

/* ---- the check of the check ---- */

static bool finds(Rule *rule, char scope, const char *word, Part parts[N_PARTS])
{
    char text[512];
    const char *path = scope == 'd' ? "planted.md" : "planted.c";
    snprintf(text, sizeof text,
             scope == 'i'   ? "int x; /* y */ %s = 1;\n"
             : scope == 'c' ? "int x; /* y %s z */\n"
                            : "y %s z\n",
             word);
    if (scope == 'i')
        for (char *c = strstr(text, "*/") + 3; *c != '='; c++)
            if (*c == ' ' && c[1] != '=') *c = '_'; /* way up: way_up */
    split(path, text, strlen(text), parts);
    return search(rule, parts, NULL, text, strlen(text));
}

static size_t rules_check(Part parts[N_PARTS])
{
    size_t failed = 0;
    for (size_t r = 0; r < n_rules; r++) {
        Rule *rule = &rules[r];
        const char **column = rule->column;
        for (const char *scope = column[SCOPE]; *scope; scope++) {
            if (!finds(rule, *scope, column[PLANTED], parts)) {
                printf("%s:%zu: '%s' was planted (scope %c) and not found\n", words_path, rule->line, column[PLANTED],
                       *scope);
                failed++;
            }
            if (column[EXAMPLE][0] && finds(rule, *scope, column[EXAMPLE], parts)) {
                printf("%s:%zu: '%s' is lawful (scope %c) and was found\n", words_path, rule->line, column[EXAMPLE],
                       *scope);
                failed++;
            }
        }
        if (column[LAWFUL][0] && !column[EXAMPLE][0]) {
            printf("%s:%zu: lawful uses without an example\n", words_path, rule->line);
            failed++;
        }
    }
    return failed;
}

int main(int argc, char **argv)
{
    Part parts[N_PARTS] = {0};
    if (argc < 2) stop("usage", "words WORDS FILE...");
    words_path = argv[1];
    rules_read(words_path);
    if (!n_rules) stop("no line in", words_path);
    if (rules_check(parts)) return 2;
    size_t found = 0;
    for (int a = 2; a < argc; a++) {
        size_t n;
        char *text = read_file(argv[a], &n);
        split(argv[a], text, n, parts);
        for (size_t r = 0; r < n_rules; r++)
            if (!is_left_out(&rules[r], argv[a])) found += search(&rules[r], parts, argv[a], text, n);
        free(text);
    }
    if (found)
        printf("words: %zu old words\n", found);
    else
        printf("words: %zu patterns in %d files, no old word; every planted word was found\n", n_rules, argc - 2);
    return found > 0;
}
