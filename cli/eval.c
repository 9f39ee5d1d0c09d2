/* graft eval --model DIR --data FILE,... [--adapter PATH,...]: base and adapters side by side. */
#include "base/log.h"
#include "cli/eval_report.h"
#include "cli/verbs.h"

#include <stdio.h>
#include <string.h>

enum { GATE_FAILED = 10 }; /* exit code: apart from those of errors */

#define AT(field) offsetof(EvalSettings, field)

static const Option eval_table[] = {
    CANDIDATE_OPTIONS(AT(candidate), "PEFT directories, checkpoints or runs, with commas; none: the base alone"),
    {"data", OPT_LIST, AT(data),
     .help = "JSON Lines: messages, or question with answer (and choices); several files with commas"},
    {.help = "Data"},
    DATA_OPTIONS(AT(how)),
    {.help = "Reading"},
    {"group_tokens", OPT_INT, AT(group_tokens), .preset = "8192", .min = 0, .max = 1e9,
     .help = "tokens run through a layer together; never changes a bit"},
    {"hidden_mib", OPT_INT, AT(hidden_mib), .preset = "4096", .min = 0, .max = 1e9,
     .help = "for hidden states of all documents and adapters; beyond it the weights are read again; 0: no limit"},
    CANDIDATE_WORK_OPTIONS(AT(candidate)),
    {.help = "Figures"},
    {"bootstrap", OPT_INT, AT(bootstrap), .preset = "2000", .min = 0, .max = 1e7,
     .help = "draws of records for the intervals of differences"},
    {"level", OPT_NUMBER, AT(level), .preset = "0.95", .min = 0.01, .max = 0.9999, .help = "of those intervals"},
    {"routing", OPT_FLAG, AT(routing), .help = "routing of every layer in the table; --json always has it"},
    {"records", OPT_TEXT, AT(records), .help = "a file for one line of JSON per record and adapter"},
    {"json", OPT_FLAG, AT(json), .help = "one JSON object instead of a table"},
    {"fail-if", OPT_LIST, AT(fail_if),
     .help =
         "'loss > base', 'kl > 0.5', 'accuracy < base - 0.01': exit with 10 when it holds for an adapter on a file"},
    {.help = "Answers that are written (records with answer and no choices)"},
    {"extract", OPT_TEXT, AT(extract), .preset = "(?<=#### )-?[0-9][0-9.,]*",
     .help = "regular expression of the answer in a text; its last match counts"},
    {"samples", OPT_INT, AT(samples), .preset = "1", .min = 1, .max = 1e6, .help = "texts per question"},
    {"at_once", OPT_INT, AT(at_once), .preset = "32", .min = 1, .max = 1e6,
     .help = "texts that are written together; never changes one"},
    SAMPLING_OPTIONS(EvalSettings, sampling),
    {"help", OPT_FLAG, AT(help), .help = "this list"},
    {0}};

/* ---- gates ---------------------------------------------------------------------------------------------------- */

/* Every gate against every adapter on every whole file (against the base, when it stands alone). */
static void check_gates(Eval *e)
{
    for (size_t g = 0; g < e->n_gates; g++)
        for (size_t p = 0; p < e->n_parts; p++)
            for (size_t v = e->n_variants > 1; v < e->n_variants && !e->parts[p].domain; v++) {
                const EvalPart *part = &e->parts[p];
                if (!gate_strikes(&e->gates[g], &part->summaries[v], &part->summaries[0])) continue;
                const char *condition = e->settings.fail_if.items[g];
                log_line("graft eval: %s holds for %s on %s", condition + strspn(condition, " "),
                         candidate_name(&e->candidate, v), e->files[part->file].path);
                e->n_struck++;
            }
}

static Err *eval(Eval *e, int argc, char **argv)
{
    TRY(sampling_arguments(&e->settings, eval_table, argc, argv, AT(candidate.model)));
    if (e->settings.help) {
        printf("graft eval --model DIR --data FILE,... [--adapter PATH,...]\n");
        options_help(stdout, eval_table);
        return NULL;
    }
    TRY(eval_open(e));
    TRY(eval_score(e));
    TRY(eval_sum_up(e));
    TRY(eval_write_records(e));
    if (e->settings.json)
        TRY(eval_print_json(e));
    else
        eval_print(e);
    check_gates(e);
    return NULL;
}

int verb_eval(int argc, char **argv)
{
    Eval e = {0};
    int code = err_report("eval", eval(&e, argc, argv));
    if (!code && e.n_struck) code = GATE_FAILED;
    eval_close(&e);
    options_free(&e.settings, eval_table);
    return code;
}
