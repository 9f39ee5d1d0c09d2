/* graft eval --model DIR --data FILE,... [--adapter PATH,...]: the base and adapters side by side. This file has the
 * options and the fail conditions; cli/eval_score.c computes the figures, cli/eval_report.c prints them. */
#include "base/log.h"
#include "cli/eval_report.h"
#include "cli/output.h"
#include "cli/verbs.h"

#include <stdio.h>
#include <string.h>

enum { GATE_FAILED = 10 }; /* exit code: apart from those of errors */

#define AT(field) offsetof(EvalSettings, field)

static const Option eval_table[] = {
    CANDIDATE_OPTIONS(AT(candidate),
                      "PEFT directories, checkpoints or runs, separated by commas; none: the base alone"),
    {"data", OPT_LIST, AT(data),
     .help = "JSON Lines: messages, or question with answer (and choices); several files are separated by commas"},
    {.help = "Data"},
    DATA_OPTIONS(AT(data_settings)),
    {.help = "Work"},
    {"group_tokens", OPT_INT, AT(group_tokens), .preset = "8192", .min = 0, .max = 1e9,
     .help = "tokens that go through a layer together; never changes a bit"},
    {"hidden_mib", OPT_INT, AT(hidden_mib), .preset = "4096", .min = 0, .max = 1e9,
     .help = "MiB for the hidden states of all documents and adapters; beyond it the weights are read once more; 0: no "
             "limit"},
    CANDIDATE_WORK_OPTIONS(AT(candidate)),
    {.help = "Figures"},
    {"bootstrap", OPT_INT, AT(bootstrap), .preset = "2000", .min = 0, .max = 1e7,
     .help = "bootstrap draws of records for the intervals of differences"},
    {"level", OPT_NUMBER, AT(level), .preset = "0.95", .min = 0.01, .max = 0.9999, .help = "level of those intervals"},
    {"routing", OPT_FLAG, AT(routing), .help = "print the routing of every layer; --json always has it"},
    {"records", OPT_TEXT, AT(records), .help = "write one line of JSON per record and adapter to this file"},
    {"json", OPT_FLAG, AT(json), .help = "print one JSON object instead of a table"},
    {"fail-if", OPT_LIST, AT(fail_if),
     .help =
         "'loss > base', 'kl > 0.5', 'accuracy < base - 0.01': exit with 10 when it holds for an adapter on a file"},
    {.help = "Generated answers (for records with an answer and no choices)"},
    {"extract", OPT_TEXT, AT(extract), .preset = "(?<=#### )-?[0-9][0-9.,]*",
     .help = "regular expression that finds the answer; the last match counts"},
    {"samples", OPT_INT, AT(samples), .preset = "1", .min = 1, .max = 1e6, .help = "generated answers per question"},
    {"at_once", OPT_INT, AT(at_once), .preset = "32", .min = 1, .max = 1e6,
     .help = "sequences that are generated together; never changes one"},
    SAMPLING_OPTIONS(EvalSettings, sampling),
    {"help", OPT_FLAG, AT(help), .help = "print this list"},
    {0}};

/* ---- fail conditions --------------------------------------------------------------------------------------------- */

/* Check every fail condition for every adapter on every whole file; for the base when there is no adapter. */
static void check_fail_conditions(Eval *e)
{
    for (size_t g = 0; g < e->n_fail_conditions; g++)
        for (size_t p = 0; p < e->n_subsets; p++)
            for (size_t v = e->n_variants > 1; v < e->n_variants && !e->subsets[p].domain; v++) {
                const EvalSubset *subset = &e->subsets[p];
                if (!fail_condition_holds(&e->fail_conditions[g], &subset->summaries[v], &subset->summaries[0]))
                    continue;
                const char *condition = e->settings.fail_if.items[g];
                log_line("graft eval: %s holds for %s on %s", condition + strspn(condition, " "),
                         candidate_name(&e->candidate, v), e->files[subset->file].path);
                e->n_failed++;
            }
}

static Err *check_records(const EvalSettings *s)
{
    const TextList *lists[] = {&s->data, &s->candidate.adapter};
    for (size_t i = 0; i < 2; i++)
        TRY(output_check("--records", s->records, lists[i]->count, (const char *const *)lists[i]->items));
    return output_check("--records", s->records, 2,
                        (const char *[]){s->candidate.model, s->data_settings.chat_template});
}

static Err *eval(Eval *e, int argc, char **argv)
{
    TRY(sampling_arguments(&e->settings, eval_table, argc, argv, AT(candidate.model)));
    if (e->settings.help) {
        printf("graft eval --model DIR --data FILE,... [--adapter PATH,...]\n");
        options_help(stdout, eval_table);
        return NULL;
    }
    TRY(check_records(&e->settings));
    TRY(eval_score_open(e));
    TRY(eval_score_run(e));
    TRY(eval_score_sum_up(e));
    TRY(eval_report_write_records(e));
    if (e->settings.json)
        TRY(eval_report_print_json(e));
    else
        eval_report_print(e);
    check_fail_conditions(e);
    return NULL;
}

int verb_eval(int argc, char **argv)
{
    Eval e = {0};
    int code = err_report("eval", eval(&e, argc, argv));
    if (!code && e.n_failed) code = GATE_FAILED;
    eval_score_close(&e);
    options_free(&e.settings, eval_table);
    return code;
}
