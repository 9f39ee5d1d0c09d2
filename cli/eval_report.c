/* The table, the JSON object and the record lines of an evaluation. Shares are printed in percent. The keys of the JSON
 * are a file format ("scored": tokens in the loss). */
#include "cli/eval_report.h"

#include "base/file.h"
#include "base/safe_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- text ----------------------------------------------------------------------------------------------------- */

static bool is_share(const char *metric) { return strstr(metric, "accuracy") || strstr(metric, "match"); }

static void print_metric(const Metric *m)
{
    double by = is_share(m->name) ? 100 : 1;
    const char *unit = is_share(m->name) ? "%" : "";
    char text[96];
    if (m->compared && strncmp(m->name, "kl", 2) != 0)
        snprintf(text, sizeof text, "%.*f%s (%+.*f: %+.*f to %+.*f)", by == 100 ? 1 : 4, by * m->value, unit,
                 by == 100 ? 1 : 4, by * m->difference.value, by == 100 ? 1 : 4, by * m->difference.low,
                 by == 100 ? 1 : 4, by * m->difference.high);
    else
        snprintf(text, sizeof text, "%.*f%s", by == 100 ? 1 : 4, by * m->value, unit);
    printf("    %-15s %s\n", m->name, text);
}

static void print_name(const Eval *e, const char *before, size_t v)
{
    fputs(before, stdout);
    safe_print(stdout, candidate_name(&e->candidate, v), false);
    putchar('\n');
}

static void print_subset(const Eval *e, const EvalSubset *subset)
{
    const EvalFile *file = &e->files[subset->file];
    double denominator = 0;
    for (size_t i = 0; i < e->n_records; i++)
        denominator += eval_score_is_in(subset, &e->records[i]) ? e->records[i].denominator : 0;
    safe_print(stdout, file->path, false);
    if (subset->domain) printf(", ");
    if (subset->domain) safe_print(stdout, subset->domain, false);
    printf(": %zu records", subset->n);
    if (file->kind == RECORD_LOSS) printf(", %.0f tokens in the loss", denominator);
    printf("\n");
    for (size_t v = 0; v < e->n_variants; v++) {
        print_name(e, "  ", v);
        for (size_t m = 0; m < subset->summaries[v].n; m++) print_metric(&subset->summaries[v].metrics[m]);
    }
}

static void print_routing(const Eval *e)
{
    printf("routing: share of tokens whose experts changed; entropy of the load (1: even); max/mean load\n");
    for (size_t v = 0; v < e->n_variants; v++)
        for (size_t l = 0; l < e->evaluated.n_layers; l++) {
            if (e->candidate.model->layers[l].dense) continue;
            RoutingShift shift = scores_routing(&e->evaluated, v, l);
            if (e->settings.routing)
                printf("  layer %-3zu %6.1f%%  %6.3f  %6.2f", l, 100 * shift.changed, shift.entropy,
                       shift.max_over_mean);
            if (e->settings.routing) print_name(e, "  ", v);
        }
    for (size_t v = 1; v < e->n_variants && !e->settings.routing; v++) {
        double sum = 0, highest = 0, n = 0;
        for (size_t l = 0; l < e->evaluated.n_layers; l++) {
            if (e->candidate.model->layers[l].dense) continue;
            double changed = scores_routing(&e->evaluated, v, l).changed;
            sum += changed;
            highest = fmax(highest, changed);
            n++;
        }
        printf("  %5.1f%% on average, %.1f%% in the layer that changed most", 100 * sum / n, 100 * highest);
        print_name(e, "  ", v);
    }
}

void eval_report_print(const Eval *e)
{
    for (size_t p = 0; p < e->n_subsets; p++) print_subset(e, &e->subsets[p]);
    if (e->n_documents && e->candidate.model->router.E && (e->n_variants > 1 || e->settings.routing)) print_routing(e);
    if (e->n_variants > 1)
        printf("in brackets: difference to the base and its %.0f %% interval (%zu bootstrap draws of records)\n",
               100 * e->settings.level, (size_t)e->settings.bootstrap);
    if (e->evaluated.readings > 1)
        printf("the weights were read %zu times; with a larger --hidden_mib they are read once\n",
               e->evaluated.readings);
}

/* ---- JSON ----------------------------------------------------------------------------------------------------- */

static Json *json_of_summary(const char *name, const Summary *summary)
{
    Json *row = json_new_object();
    json_add_string(row, "name", name);
    for (size_t i = 0; i < summary->n; i++) {
        const Metric *m = &summary->metrics[i];
        char key[48];
        json_add_number(row, m->name, m->value);
        if (!m->compared || strncmp(m->name, "kl", 2) == 0) continue;
        Json *difference = json_new_object();
        json_add_number(difference, "value", m->difference.value);
        json_add_number(difference, "low", m->difference.low);
        json_add_number(difference, "high", m->difference.high);
        snprintf(key, sizeof key, "%s_difference", m->name);
        json_add(row, key, difference);
    }
    return row;
}

static Json *json_of_subset(const Eval *e, const EvalSubset *subset)
{
    Json *object = json_new_object(), *results = json_new_array();
    double denominator = 0;
    for (size_t i = 0; i < e->n_records; i++)
        denominator += eval_score_is_in(subset, &e->records[i]) ? e->records[i].n_loss_tokens : 0;
    json_add_string(object, "file", e->files[subset->file].path);
    if (subset->domain) json_add_string(object, "domain", subset->domain);
    json_add_string(object, "kind", record_kind_name(e->files[subset->file].kind));
    json_add_number(object, "records", (double)subset->n);
    if (denominator > 0) json_add_number(object, "scored", denominator);
    for (size_t v = 0; v < e->n_variants; v++)
        json_add(results, NULL, json_of_summary(candidate_name(&e->candidate, v), &subset->summaries[v]));
    json_add(object, "results", results);
    return object;
}

static Json *json_of_routing(const Eval *e, size_t v)
{
    Json *object = json_new_object(), *layers = json_new_array();
    json_add_string(object, "name", candidate_name(&e->candidate, v));
    for (size_t l = 0; l < e->evaluated.n_layers; l++) {
        if (e->candidate.model->layers[l].dense) continue;
        RoutingShift shift = scores_routing(&e->evaluated, v, l);
        Json *layer = json_new_object();
        json_add_number(layer, "layer", (double)l);
        json_add_number(layer, "changed", shift.changed);
        json_add_number(layer, "entropy", shift.entropy);
        json_add_number(layer, "max_over_mean", shift.max_over_mean);
        json_add(layers, NULL, layer);
    }
    json_add(object, "layers", layers);
    return object;
}

Err *eval_report_print_json(const Eval *e)
{
    Json *object = json_new_object(), *parts = json_new_array(), *routing = json_new_array();
    char *text;
    json_add_string(object, "model", e->settings.candidate.model);
    json_add_number(object, "readings", (double)e->evaluated.readings);
    for (size_t p = 0; p < e->n_subsets; p++) json_add(parts, NULL, json_of_subset(e, &e->subsets[p]));
    json_add(object, "parts", parts);
    for (size_t v = 0; v < e->n_variants && e->n_documents; v++) json_add(routing, NULL, json_of_routing(e, v));
    json_add(object, "routing", routing);
    Err *err = json_print(object, true, &text);
    json_free(object);
    if (err) return err;
    puts(text);
    free(text);
    return NULL;
}

/* One line: {"file", "line", "name", and every metric of this record}. */
static Err *write_record(const Eval *e, FILE *stream, size_t i, size_t v)
{
    const EvalRecord *r = &e->records[i];
    RecordKind kind = e->files[r->file].kind;
    Json *line = json_new_object();
    char *text;
    json_add_string(line, "file", e->files[r->file].path);
    json_add_number(line, "line", (double)r->line);
    if (r->domain) json_add_string(line, "domain", r->domain);
    json_add_string(line, "name", candidate_name(&e->candidate, v));
    if (r->n_loss_tokens > 0) json_add_number(line, "scored", r->n_loss_tokens);
    for (size_t m = 0; record_metric(kind, m); m++)
        if (v || strncmp(record_metric(kind, m), "kl", 2) != 0)
            json_add_number(line, record_metric(kind, m), e->scores[v][i].top[m] / r->denominator);
    if (kind == RECORD_CHOICE)
        json_add_number(line, "choice", (double)eval_score_choice(r, e->evaluated.variants[v].documents, true));
    Err *err = json_print(line, false, &text);
    json_free(line);
    if (err) return err;
    fprintf(stream, "%s\n", text);
    free(text);
    return NULL;
}

Err *eval_report_write_records(const Eval *e)
{
    const char *path = e->settings.records;
    if (!path) return NULL;
    FileWriter out;
    TRY(file_writer_open(&out, path));
    Err *err = NULL;
    for (size_t i = 0; i < e->n_records && !err; i++)
        for (size_t v = 0; v < e->n_variants && !err; v++) err = write_record(e, out.stream, i, v);
    if (!err) return file_writer_close(&out);
    file_writer_discard(&out);
    return err;
}
