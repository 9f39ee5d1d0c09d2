/* Oniguruma (6.9, Ruby syntax, UTF-8) against PCRE2 (UTF, UCP), for what pre-tokenizers write:
 *
 *   \s  White_Space                      PCRE2's also takes U+180E       -> \p{wspace}
 *   \w  letters, marks, Nd, Pc           PCRE2's: letters, numbers, _    -> [\p{L}\p{M}\p{Nd}\p{Pc}]
 *   ^ $ at every line                    the same with PCRE2_MULTILINE
 *   \h  a hexadecimal digit; (?m) dot matches newline; {n,m}+ repeats greedily; && and [ inside [ ]   refused
 *
 * Source: Oniguruma, doc/RE; pcre2pattern(3). */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tokenizer/regex.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "data/text/text.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct Regex {
    pcre2_code *code;
    bool jit;
};

struct RegexMatcher {
    pcre2_match_data *data; /* one pair of offsets: groups are not used */
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* ---- from Oniguruma's syntax to PCRE2's ---- */

typedef struct {
    const char *pattern, *at;
    Text out;
    bool in_set;
} Rewrite;

static Err *refuse(const Rewrite *r, const char *what)
{
    return err_new(ERR_FORMAT, "pattern %s: at character %zu: %s is not supported", r->pattern,
                   (size_t)(r->at - r->pattern), what);
}

static Err *rewrite_escape(Rewrite *r) /* at the backslash */
{
    static const char word[] = "\\p{L}\\p{M}\\p{Nd}\\p{Pc}";
    char c = r->at[1], named[3] = {'\\', c, 0};
    size_t n = 2;
    switch (c) {
    case 0: return refuse(r, "a backslash at the end");
    case 's': text_put(&r->out, "\\p{wspace}"); break;
    case 'S': text_put(&r->out, "\\P{wspace}"); break;
    case 'w':
        text_put(&r->out, r->in_set ? "" : "[");
        text_put(&r->out, word);
        text_put(&r->out, r->in_set ? "" : "]");
        break;
    case 'W':
        if (r->in_set) return refuse(r, "\\W in a set");
        text_put(&r->out, "[^");
        text_put(&r->out, word);
        text_put(&r->out, "]");
        break;
    case 'p':
    case 'P': {
        const char *close = r->at[2] == '{' ? strchr(r->at, '}') : NULL;
        if (!close) return refuse(r, "\\p without a name in braces");
        n = (size_t)(close - r->at) + 1;
        text_add(&r->out, r->at, n);
        break;
    }
    case 'u': /* \uHHHH */
        if (strspn(r->at + 2, "0123456789abcdefABCDEF") < 4) return refuse(r, "\\u without four digits");
        n = 6;
        text_put(&r->out, "\\x{");
        text_add(&r->out, r->at + 2, 4);
        text_put(&r->out, "}");
        break;
    default:
        if (strchr("dDrntfaex", c) == NULL &&
            ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')))
            return refuse(r, named);
        text_add(&r->out, r->at, 2);
    }
    r->at += n;
    return NULL;
}

/* A set from its [ to its ]. Escapes are rewritten; POSIX names pass; a set within a set or && is refused. */
static Err *rewrite_set(Rewrite *r)
{
    r->in_set = true;
    text_put(&r->out, "[");
    r->at++;
    if (*r->at == '^') text_add(&r->out, r->at++, 1);
    if (*r->at == ']') return refuse(r, "] as the first of a set");
    while (*r->at != ']') {
        if (*r->at == 0) return refuse(r, "a set without an end");
        if (r->at[0] == '&' && r->at[1] == '&') return refuse(r, "&& in a set");
        if (r->at[0] == '[' && r->at[1] != ':') return refuse(r, "a set in a set");
        if (r->at[0] == '[') {
            const char *close = strstr(r->at, ":]");
            if (!close) return refuse(r, "[: without :]");
            text_add(&r->out, r->at, (size_t)(close + 2 - r->at));
            r->at = close + 2;
        } else if (*r->at == '\\') {
            TRY(rewrite_escape(r));
        } else {
            text_add(&r->out, r->at++, 1);
        }
    }
    text_add(&r->out, r->at++, 1);
    r->in_set = false;
    return NULL;
}

static Err *rewrite_group(Rewrite *r) /* at ( */
{
    static const char *const known[] = {"(?:", "(?i:", "(?i)", "(?=", "(?!", "(?<=", "(?<!", "(?>", NULL};
    if (r->at[1] != '?') {
        if (r->at[1] == '*') return refuse(r, "(*");
        text_put(&r->out, "(?:"); /* nothing refers to groups */
        r->at++;
        return NULL;
    }
    for (const char *const *k = known; *k; k++) {
        size_t n = strlen(*k);
        if (strncmp(r->at, *k, n)) continue;
        text_add(&r->out, *k, n);
        r->at += n;
        return NULL;
    }
    return refuse(r, "this kind of group");
}

static Err *rewrite(Rewrite *r)
{
    while (*r->at) {
        switch (*r->at) {
        case '\\': TRY(rewrite_escape(r)); break;
        case '[': TRY(rewrite_set(r)); break;
        case '(': TRY(rewrite_group(r)); break;
        case '}':
            if (r->at[1] == '+') return refuse(r, "}+");
            /* fall through */
        default: text_add(&r->out, r->at++, 1);
        }
    }
    return text_error(&r->out);
}

/* ---- compiling and matching ---- */

static Err *compile(Regex *regex, const char *pattern, const char *rewritten, bool literal)
{
    int code;
    PCRE2_SIZE offset;
    PCRE2_UCHAR why[256];
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return err_new(ERR_MEMORY, "pattern %s: out of memory", pattern);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    regex->code = pcre2_compile((PCRE2_SPTR)rewritten, PCRE2_ZERO_TERMINATED, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!regex->code) {
        pcre2_get_error_message(code, why, sizeof why);
        return err_new(ERR_FORMAT, "pattern %s: %s (as %s, character %zu)", pattern, (char *)why, rewritten,
                       (size_t)offset);
    }
    /* Without the just-in-time compiler, PCRE2's interpreter finds the same matches, more slowly. */
    regex->jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    return NULL;
}

Err *regex_open(Regex **out, const char *pattern, bool literal)
{
    Rewrite r = {.pattern = pattern, .at = pattern};
    Regex *regex;
    *out = NULL;
    TRY(mem_new(&regex, 1, sizeof *regex));
    text_add(&r.out, "", 0);
    Err *err = literal ? NULL : rewrite(&r);
    if (!err) err = compile(regex, pattern, literal ? pattern : r.out.data, literal);
    text_free(&r.out);
    if (err)
        regex_close(regex);
    else
        *out = regex;
    return err;
}

void regex_close(Regex *regex)
{
    if (!regex) return;
    pcre2_code_free(regex->code);
    free(regex);
}

Err *regex_matcher_new(RegexMatcher **out)
{
    RegexMatcher *matcher;
    *out = NULL;
    TRY(mem_new(&matcher, 1, sizeof *matcher));
    matcher->data = pcre2_match_data_create(1, NULL);
    matcher->context = pcre2_match_context_create(NULL);
    matcher->stack = pcre2_jit_stack_create(32 << 10, 16 << 20, NULL); /* reserved, touched only when needed */
    if (!matcher->data || !matcher->context || !matcher->stack) {
        regex_matcher_free(matcher);
        return err_new(ERR_MEMORY, "out of memory for a matcher");
    }
    pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
    pcre2_set_depth_limit(matcher->context, UINT32_MAX); /* max_steps and the heap limit, in KiB, bound a match */
    pcre2_set_heap_limit(matcher->context, 1 << 20);
    *out = matcher;
    return NULL;
}

void regex_matcher_free(RegexMatcher *matcher)
{
    if (!matcher) return;
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
    free(matcher);
}

/* The interpreter counts a step for each character that a repetition gives back, so a megabyte of blanks takes millions
 * of steps: as many as the text is long, a few times over. A pattern such as (a+)+b takes 2^n steps for n
 * characters. */
static uint32_t max_steps(size_t bytes)
{
    enum { ALWAYS = 20000000, PER_BYTE = 100 };
    return bytes > UINT32_MAX / PER_BYTE ? UINT32_MAX : (uint32_t)size_max(ALWAYS, PER_BYTE * bytes);
}

static Err *refuse_match(int code, size_t from, size_t bytes)
{
    PCRE2_UCHAR why[256];
    if (code == PCRE2_ERROR_MATCHLIMIT)
        return err_new(ERR_DATA,
                       "the pattern took more than %u steps at byte %zu of %zu and was given up: it can match the same "
                       "text in too many ways, as (a+)+ does",
                       max_steps(bytes), from, bytes);
    pcre2_get_error_message(code, why, sizeof why);
    return err_new(ERR_DATA, "pattern at byte %zu of %zu: %s", from, bytes, (char *)why);
}

Err *regex_find(const Regex *regex, RegexMatcher *matcher, const char *text, size_t bytes, size_t from, size_t *begin,
                size_t *end)
{
    PCRE2_SPTR units = (PCRE2_SPTR)text;
    *begin = *end = bytes;
    if (from >= bytes) return NULL;
    int n = PCRE2_ERROR_JIT_STACKLIMIT;
    pcre2_set_match_limit(matcher->context, max_steps(bytes));
    if (regex->jit)
        n = pcre2_jit_match(regex->code, units, bytes, from, PCRE2_NOTEMPTY, matcher->data, matcher->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) /* the compiled code ran out of stack, or there is none */
        n = pcre2_match(regex->code, units, bytes, from, PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        matcher->data, matcher->context);
    if (n == PCRE2_ERROR_NOMATCH) return NULL;
    if (n < 0) return refuse_match(n, from, bytes);
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(matcher->data);
    *begin = pair[0];
    *end = pair[1];
    return NULL;
}
