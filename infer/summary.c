/* Metrics are a table: a kind of record has up to RECORD_METRICS, and RecordScore.top has one numerator for each.
 * Perplexity is exp(loss) and has no interval. A fail condition is parsed from text: METRIC, comparison, right-hand
 * side. */
#include "infer/summary.h"

#include "base/memory.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[RECORD_KINDS] = {"loss", "choice", "written"};
static const char *const metrics[RECORD_KINDS][RECORD_METRICS + 1] = {{"loss", "token_accuracy", "kl", "kl_base", NULL},
                                                                      {"accuracy", "accuracy_sum", NULL},
                                                                      {"exact_match", NULL}};

const char *record_kind_name(RecordKind kind) { return kinds[kind]; }
const char *record_metric(RecordKind kind, size_t i) { return metrics[kind][i]; }

/* ---- metrics ----------------------------------------------------------------------------------------------------- */

static double ratio(size_t m, size_t n, const double *bottom, const RecordScore *of)
{
    double above = 0, below = 0;
    for (size_t i = 0; i < n; i++) {
        above += of[i].top[m];
        below += bottom[i];
    }
    return above / below;
}

Err *summarise(Summary *summary, RecordKind kind, size_t n, const double *bottom, const RecordScore *own,
               const RecordScore *base, const Draws *draws)
{
    double *differences;
    Err *err = NULL;
    *summary = (Summary){0};
    TRY(mem_new(&differences, n, sizeof *differences));
    for (size_t m = 0; metrics[kind][m] && !err; m++) {
        if (strncmp(metrics[kind][m], "kl", 2) == 0 && !base) continue; /* KL of the base with itself is zero */
        Metric *metric = &summary->metrics[summary->n++];
        *metric = (Metric){.name = metrics[kind][m], .value = ratio(m, n, bottom, own), .compared = base != NULL};
        for (size_t i = 0; i < n && base; i++) differences[i] = own[i].top[m] - base[i].top[m];
        if (base)
            err = bootstrap(&metric->difference, n, differences, bottom, draws->n_draws, draws->level, draws->seed);
        if (strcmp(metric->name, "loss") == 0)
            summary->metrics[summary->n++] = (Metric){.name = "perplexity", .value = exp(metric->value)};
    }
    free(differences);
    return err;
}

const Metric *summary_find(const Summary *summary, const char *name)
{
    for (size_t i = 0; i < summary->n; i++)
        if (strcmp(summary->metrics[i].name, name) == 0) return &summary->metrics[i];
    return NULL;
}

/* ---- fail conditions --------------------------------------------------------------------------------------------- */

static const char *skip_blanks(const char *at)
{
    while (isspace((unsigned char)*at)) at++;
    return at;
}

static bool read_number(const char **at, double *number)
{
    char *end;
    *number = strtod(*at, &end);
    if (end == *at || !isfinite(*number)) return false;
    *at = skip_blanks(end);
    return true;
}

static bool read_right_side(FailCondition *condition, const char *at)
{
    condition->with_base = strncmp(at, "base", 4) == 0;
    if (condition->with_base) {
        at = skip_blanks(at + 4);
        if (!*at) return true;
        if (!strchr("+-*", *at)) return false;
        condition->sign = *at;
        at = skip_blanks(at + 1);
    }
    return read_number(&at, &condition->number) && !*at;
}

static bool parse_condition(FailCondition *condition, const char *text)
{
    const char *at = skip_blanks(text);
    size_t n = 0;
    while ((isalpha((unsigned char)*at) || *at == '_') && n + 1 < sizeof condition->metric)
        condition->metric[n++] = *at++;
    at = skip_blanks(at);
    if (n == 0 || (*at != '<' && *at != '>')) return false;
    condition->less = *at++ == '<';
    condition->equal = *at == '=';
    return read_right_side(condition, skip_blanks(at + condition->equal));
}

bool fail_condition_applies(const FailCondition *condition, RecordKind kind)
{
    for (size_t m = 0; metrics[kind][m]; m++)
        if (strcmp(condition->metric, metrics[kind][m]) == 0) return true;
    return kind == RECORD_LOSS && strcmp(condition->metric, "perplexity") == 0;
}

static bool is_known(const FailCondition *condition)
{
    bool known = false;
    for (RecordKind kind = 0; kind < RECORD_KINDS; kind++) known |= fail_condition_applies(condition, kind);
    return known;
}

Err *fail_condition_read(FailCondition *condition, const char *text)
{
    *condition = (FailCondition){0};
    if (!parse_condition(condition, text))
        return err_new(ERR_USAGE,
                       "fail-if: %s; expected METRIC < NUMBER, METRIC > base, METRIC > base + NUMBER or the like",
                       text);
    if (is_known(condition)) return NULL;
    return err_new(ERR_USAGE,
                   "fail-if: there is no metric %s; there are loss, perplexity, token_accuracy, kl, kl_base, accuracy, "
                   "accuracy_sum and exact_match",
                   condition->metric);
}

bool fail_condition_holds(const FailCondition *condition, const Summary *summary, const Summary *base)
{
    const Metric *metric = summary_find(summary, condition->metric), *other = summary_find(base, condition->metric);
    double bound = condition->number;
    if (!metric || (condition->with_base && !other)) return false;
    if (condition->with_base) {
        bound = other->value;
        if (condition->sign == '*')
            bound *= condition->number;
        else if (condition->sign)
            bound += condition->sign == '-' ? -condition->number : condition->number;
    }
    if (isnan(metric->value)) return true; /* a metric that is not a number always fails */
    if (condition->equal && metric->value == bound) return true;
    return condition->less ? metric->value < bound : metric->value > bound;
}
