/* All questions and samples are generated in one call, then each text is decoded and compared. With greedy sampling one
 * sequence is generated for each question, since all samples would be the same. The expected answer may be a whole
 * solution: the same expression is applied to it. */
#include "infer/exact_match.h"

#include "base/memory.h"
#include "base/rng.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const ExactMatch *exact;
    Regex *pattern;
    RegexMatcher *matcher;
    size_t n; /* sequences: questions times samples */
    Generation *generations;
    Generated *generated;
    Text text, found, expected;
} ExactMatchWork;

static void drop_decoration(Text *text)
{
    size_t n = 0;
    for (size_t i = 0; i < text->n; i++) {
        char c = text->data[i];
        bool thousands = c == ',' && i + 1 < text->n && isdigit((unsigned char)text->data[i + 1]);
        if (!thousands && !isspace((unsigned char)c)) text->data[n++] = c;
    }
    while (n && strchr(".,", text->data[n - 1])) n--;
    text->n = n;
}

Err *exact_match_extract(const Regex *pattern, RegexMatcher *matcher, const char *text, size_t bytes, Text *found)
{
    static const char mark[] = "</think>";
    size_t begin = 0, end, at = 0, last_begin = 0, last_end = 0;
    for (size_t i = 0; i + strlen(mark) <= bytes; i++)
        if (memcmp(text + i, mark, strlen(mark)) == 0) at = i + strlen(mark);
    text_clear(found);
    while (at < bytes) {
        TRY(regex_find(pattern, matcher, text, bytes, at, &begin, &end));
        if (begin == bytes) break;
        last_begin = begin;
        last_end = at = end;
    }
    if (last_end > last_begin) text_add(found, text + last_begin, last_end - last_begin);
    drop_decoration(found);
    return text_error(found);
}

/* Greedy sequences are all the same: one is generated for all samples. */
static size_t samples_of(const ExactMatch *exact) { return exact->sampling.temperature > 0 ? exact->samples : 1; }

static Err *prepare(ExactMatchWork *w, int32_t *stop)
{
    const ExactMatch *exact = w->exact;
    const ModelConfig *c = &exact->model->config;
    size_t samples = samples_of(exact);
    w->n = questions_count(exact->questions) * samples;
    for (int64_t i = 0; i < c->n_eos; i++) stop[i] = (int32_t)c->eos_token_id[i];
    TRY(regex_open(&w->pattern, exact->extract, false));
    TRY(regex_matcher_new(&w->matcher));
    TRY(mem_new(&w->generations, w->n, sizeof *w->generations));
    TRY(mem_new(&w->generated, w->n, sizeof *w->generated));
    for (size_t i = 0; i < w->n; i++) {
        const Question *q = questions_get(exact->questions, i / samples);
        Generation *g = &w->generations[i];
        *g = (Generation){.prompt = q->prompt,
                          .n_prompt = q->n_prompt,
                          .max_new_tokens = exact->max_new_tokens,
                          .stop = stop,
                          .n_stop = (size_t)c->n_eos,
                          .sampling = exact->sampling};
        g->sampling.seed = rng_key(rng_key(rng_name(exact->sampling.seed, "exact"), i / samples), i % samples);
    }
    return NULL;
}

static Err *compare(ExactMatchWork *w, double *hits)
{
    size_t samples = samples_of(w->exact);
    for (size_t i = 0; i < w->n; i++) {
        const Question *q = questions_get(w->exact->questions, i / samples);
        const Generated *made = &w->generated[i];
        text_clear(&w->text);
        text_add(&w->text, "", 0);
        TRY(tokenizer_decode(w->exact->tokenizer, made->tokens, made->n, true, &w->text));
        Err *err = exact_match_extract(w->pattern, w->matcher, w->text.data, w->text.n, &w->found);
        if (!err) err = exact_match_extract(w->pattern, w->matcher, q->written, strlen(q->written), &w->expected);
        if (err) return err_wrap(err, "extract %s", w->exact->extract);
        if (!w->expected.n) { /* it is the answer alone */
            text_put(&w->expected, q->written);
            drop_decoration(&w->expected);
        }
        bool right = w->found.n && w->found.n == w->expected.n &&
                     memcmp(w->found.data, w->expected.data, w->found.n) == 0;
        hits[i / samples] += right ? (double)(w->exact->samples / samples) : 0;
    }
    return NULL;
}

Err *exact_match_run(const ExactMatch *exact, const Adapter *adapter, double *hits)
{
    ExactMatchWork w = {.exact = exact};
    int32_t stop[MAX_EOS];
    memset(hits, 0, questions_count(exact->questions) * sizeof *hits);
    Err *err = prepare(&w, stop);
    if (!err)
        err = generate_all(exact->model, adapter, w.n, w.generations, exact->at_once, exact->group_tokens, w.generated);
    if (!err) err = compare(&w, hits);
    if (w.generated) generated_free(w.n, w.generated);
    free(w.generated);
    free(w.generations);
    regex_close(w.pattern);
    regex_matcher_free(w.matcher);
    text_free(&w.text);
    text_free(&w.found);
    text_free(&w.expected);
    return err;
}
