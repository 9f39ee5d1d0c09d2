/* The audit in three parts: which parameters are checked, what a step shows of them, and the comparison of an exported
 * file with memory. A part is one LoRA module or one router that is trained in full. */
#include "train/audit.h"

#include "base/log.h"
#include "base/memory.h"
#include "ckpt/adapter_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the parts ------------------------------------------------------------------------------------------------ */

static bool find_expert(const LayerAdapter *layer, size_t E, const Lora *lora, size_t *expert)
{
    for (*expert = 0; layer->experts && *expert < E; ++*expert)
        if (layer->experts[*expert].lora_gate_up == lora || layer->experts[*expert].lora_down == lora) return true;
    return false;
}

static Err *add_part(Audit *a, size_t l, const Param *first, const Param *second)
{
    AuditPart *part = &a->parts[a->n_parts++];
    const char *dot = strrchr(first->name, '.');
    *part = (AuditPart){.l = l, .params = {first, second}};
    return mem_copy_bytes(&part->name, first->name, dot ? (size_t)(dot - first->name) : strlen(first->name));
}

static Err *fill(Audit *a, const Adapter *adapter)
{
    size_t n = 0, E = adapter->model->router.E, L = adapter->n_layers;
    for (size_t l = 0; l < L; l++) n += adapter->layers[l].n_lora + (adapter->layers[l].router != NULL);
    TRY(mem_new(&a->parts, n, sizeof *a->parts));
    TRY(mem_new(&a->ever, n, sizeof *a->ever));
    TRY(mem_new(&a->tokens, L * E, sizeof *a->tokens));
    TRY(mem_new(&a->live, L * E, sizeof *a->live));
    for (size_t l = 0; l < L; l++) {
        const LayerAdapter *layer = &adapter->layers[l];
        for (size_t i = 0; i < layer->n_lora; i++) {
            const Lora *lora = &layer->loras[i];
            TRY(add_part(a, l, lora->A, lora->B));
            AuditPart *part = &a->parts[a->n_parts - 1];
            part->routed = find_expert(layer, E, lora, &part->expert);
        }
        if (layer->router) TRY(add_part(a, l, layer->router, NULL));
    }
    return NULL;
}

Err *audit_new(Audit **audit, const Adapter *adapter)
{
    TRY(mem_new(audit, 1, sizeof **audit));
    (*audit)->adapter = adapter;
    Err *err = fill(*audit, adapter);
    if (!err) return NULL;
    audit_free(*audit);
    *audit = NULL;
    return err;
}

void audit_free(Audit *a)
{
    if (!a) return;
    for (size_t i = 0; i < a->n_parts; i++) free(a->parts[i].name);
    free(a->parts);
    free(a->ever);
    free(a->tokens);
    free(a->live);
    free(a);
}

/* ---- what a step shows ---------------------------------------------------------------------------------------- */

/* Whether a parameter has a gradient in this rank's slice [begin, end) of its layer. */
static bool has_gradient(const Param *p, size_t begin, size_t end, const float *slice)
{
    if (!p) return false;
    size_t from = p->offset > begin ? p->offset : begin, to = p->offset + param_count(p);
    if (to > end) to = end;
    while (from < to && slice[from - begin] == 0) from++;
    return from < to;
}

void audit_observe(Audit *a, const Dp *dp, Step *step)
{
    size_t E = a->adapter->model->router.E;
    for (AuditPart *part = a->parts; part < a->parts + a->n_parts; part++) {
        size_t begin, end;
        dp_slice(dp, dp->rank, a->adapter->layers[part->l].n, &begin, &end);
        const float *slice = step_gradient(step, part->l);
        part->now = has_gradient(part->params[1], begin, end, slice) ||
                    has_gradient(part->params[0], begin, end, slice);
        part->ever = part->ever || part->now;
    }
    for (size_t l = 0; l < a->adapter->n_layers; l++)
        for (size_t e = 0; e < E; e++) {
            a->tokens[l * E + e] += step_counts(step, l).load[e];
            a->live[l * E + e] += step_counts(step, l).live[e];
        }
}

void audit_resume(Audit *a)
{
    for (size_t i = 0; i < a->n_parts; i++) a->parts[i].ever = a->ever[i] != 0;
}

/* ---- the check ------------------------------------------------------------------------------------------------ */

typedef enum { FINE, NO_TOKEN, NO_LOSS_TOKEN, FAULT } Verdict;

/* tokens: out, how many tokens should have given a gradient, if this is a fault; when: in which time. */
static Verdict check_part(const Audit *a, const AuditPart *part, const Step *step, const char **when, uint64_t *tokens)
{
    size_t at = part->l * a->adapter->model->router.E + part->expert;
    *when = "in this step";
    *tokens = *step_counts(step, part->l).live_tokens;
    if (part->now) return FINE;
    if (!part->routed || *tokens == 0) return FAULT; /* every step has tokens in the loss: a gradient must arrive */
    *tokens = step_counts(step, part->l).live[part->expert];
    if (*tokens) return FAULT;
    if (part->ever) return FINE;
    *when = "since the start";
    *tokens = a->live[at];
    return a->live[at] ? FAULT : a->tokens[at] ? NO_LOSS_TOKEN : NO_TOKEN;
}

/* {"layer": [experts]}. Parts come layer by layer, so only the list of the last layer grows. */
typedef struct {
    Json *table, *last; /* last: borrowed from table */
    size_t l;           /* layer of `last` */
} ExpertTable;

/* Add an expert once; its LoRA modules (gate and up; down) are not neighbours among the parts. */
static void add_expert(ExpertTable *experts, size_t l, size_t expert)
{
    char key[24];
    if (!experts->last || experts->l != l) {
        snprintf(key, sizeof key, "%zu", l);
        experts->last = json_new_array();
        experts->l = l;
        json_add(experts->table, key, experts->last);
    }
    for (const Json *item = json_first(experts->last); item; item = json_next(item))
        if (json_number(item) == (double)expert) return;
    json_add_number(experts->last, NULL, (double)expert);
}

/* "layer 3: experts 1 5 7 (3) ...": for every layer its first few experts. */
static void report_experts(const Json *table, const char *why)
{
    enum { MAX_SHOWN = 12 };
    for (const Json *list = json_first(table); list; list = json_next(list)) {
        char line[256] = "";
        size_t i = 0, n = json_count(list);
        for (const Json *item = json_first(list); item && i < MAX_SHOWN; item = json_next(item), i++)
            snprintf(line + strlen(line), sizeof line - strlen(line), " %.0f", json_number(item));
        log_line("            layer %s: experts%s%s (%zu) %s", json_key(list), line, n > MAX_SHOWN ? " ..." : "", n,
                 why);
    }
}

/* A part has a gradient when it has one on any rank. flags: [n_parts] now, then [n_parts] ever. */
static void merge_flags(Audit *a, const Dp *dp, uint64_t *flags)
{
    for (size_t i = 0; i < a->n_parts; i++) {
        flags[i] = a->parts[i].now;
        flags[a->n_parts + i] = a->parts[i].ever;
    }
    dp_add_counts(dp, 2 * a->n_parts, flags);
    for (size_t i = 0; i < a->n_parts; i++) {
        a->parts[i].now = flags[i] != 0;
        a->ever[i] = flags[a->n_parts + i] != 0;
        a->parts[i].ever = a->ever[i] != 0;
    }
}

static Json *check_parts(Audit *a, const Step *step, bool report)
{
    enum { MAX_SHOWN = 12 };
    Json *result = json_new_object(), *errors = json_new_array();
    ExpertTable no_token = {.table = json_new_object()}, no_loss_token = {.table = json_new_object()};
    a->n_without = a->n_errors = 0;
    for (const AuditPart *part = a->parts; part < a->parts + a->n_parts; part++) {
        const char *when;
        uint64_t tokens;
        Verdict verdict = check_part(a, part, step, &when, &tokens);
        a->n_without += verdict != FINE;
        if (verdict == NO_TOKEN) add_expert(&no_token, part->l, part->expert);
        if (verdict == NO_LOSS_TOKEN) add_expert(&no_loss_token, part->l, part->expert);
        if (verdict != FAULT) continue;
        if (++a->n_errors <= MAX_SHOWN)
            log_line("  AUDIT     ERROR: %s got no gradient, although %llu tokens %s should have given it one",
                     part->name, (unsigned long long)tokens, when);
        json_add_string(errors, NULL, part->name);
    }
    if (a->n_errors > MAX_SHOWN)
        log_line("  AUDIT     ERROR: and %zu more, named in metrics.jsonl", a->n_errors - MAX_SHOWN);
    if (report) {
        log_line("  audit     %zu of %zu LoRA modules and routers got a gradient", a->n_parts - a->n_without,
                 a->n_parts);
        report_experts(no_token.table, "had no token since the start");
        report_experts(no_loss_token.table, "had no token that a token in the loss depends on");
    }
    json_add_number(result, "parts", (double)a->n_parts);
    json_add_number(result, "without_gradient", (double)a->n_without);
    json_add(result, "no_token", no_token.table);
    json_add(result, "no_scored_token", no_loss_token.table);
    json_add(result, "errors", errors);
    return result;
}

Err *audit_check(Audit *a, const Dp *dp, const Step *step, bool report, Json **result)
{
    uint64_t *flags;
    TRY(mem_new(&flags, 2 * a->n_parts, sizeof *flags));
    merge_flags(a, dp, flags);
    free(flags);
    *result = check_parts(a, step, report);
    return NULL;
}

/* ---- the exported file ---------------------------------------------------------------------------------------- */

/* A value as the file's dtype holds it. */
static float as_stored(DType dtype, double x)
{
    return dtype == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32((float)x)) : (float)x;
}

static Err *differs(const char *name, const char *what)
{
    return err_new(ERR_FORMAT, "%s: %s in the file is not the one in memory", name, what);
}

/* A and B of one LoRA module against those in the file. The file may pad them with zeros to a larger r and scale B to
 * match. */
static Err *compare_values(const LoraModule *given, const AdapterLora *found, const float *A, const float *B)
{
    double fold = given->scale / found->scale;
    bool folded = fabs(fold - 1) > 1e-12;
    double near = found->B.tensor->dtype == DTYPE_BF16 ? 1e-2 : 1e-6; /* a folded B was rounded once more */
    for (size_t i = 0; i < found->r; i++)
        for (size_t j = 0; j < given->in; j++)
            if (A[i * given->in + j] !=
                (i < given->r ? as_stored(found->A.tensor->dtype, (double)given->A[i * given->in + j]) : 0))
                return differs(given->module, "A");
    for (size_t o = 0; o < given->out; o++)
        for (size_t j = 0; j < found->r; j++) {
            double want = j < given->r ? (double)given->B[o * given->r + j] : 0, stored = (double)B[o * found->r + j];
            float expected = as_stored(found->B.tensor->dtype, folded ? want * fold : want);
            if (folded ? fabs(stored - (double)expected) > near * fabs((double)expected) : stored != (double)expected)
                return differs(given->module, "B");
        }
    return NULL;
}

static Err *compare_lora(const AdapterFile *file, const LoraModule *given)
{
    const AdapterLora *found = adapter_file_find(file, given->module);
    float *A, *B;
    if (!found) return err_new(ERR_FORMAT, "%s is trained, but not in the file", given->module);
    if (found->r < given->r || found->in != given->in || found->out != given->out)
        return differs(given->module, "the shape");
    TRY(mem_new(&A, found->r * found->in, sizeof *A));
    Err *err = mem_new(&B, found->out * found->r, sizeof *B);
    if (!err) {
        adapter_file_read_lora(found, A, B);
        err = compare_values(given, found, A, B);
        free(B);
    }
    free(A);
    return err;
}

static Err *compare_router(const AdapterFile *file, const LoraModule *router)
{
    char name[256];
    snprintf(name, sizeof name, "%s.weight", router->module);
    for (size_t i = 0; i < file->n_extras; i++) {
        const AdapterExtra *found = &file->extras[i];
        float *data;
        if (strcmp(found->name, name) != 0) continue;
        if (found->rows != router->out || found->cols != router->in) return differs(name, "the shape");
        TRY(mem_new(&data, found->rows * found->cols, sizeof *data));
        adapter_file_read_extra(found, data);
        bool same = true;
        for (size_t k = 0; k < found->rows * found->cols; k++)
            same = same && data[k] == as_stored(found->tensor->dtype, (double)router->B[k]);
        free(data);
        return same ? NULL : differs(name, "the weight");
    }
    return err_new(ERR_FORMAT, "%s is trained, but not in the file", name);
}

static int by_module(const void *a, const void *b)
{
    return strcmp(((const LoraModule *)a)->module, ((const LoraModule *)b)->module);
}

/* The file holds zeros for experts that have no LoRA. A module that is not in memory must have B zero. */
static Err *check_zero(const AdapterLora *found, size_t n, const LoraModule *sorted)
{
    float *A, *B;
    LoraModule key = {.module = found->module};
    if (bsearch(&key, sorted, n, sizeof key, by_module)) return NULL;
    TRY(mem_new(&A, found->r * found->in, sizeof *A));
    Err *err = mem_new(&B, found->out * found->r, sizeof *B);
    if (!err) {
        adapter_file_read_lora(found, A, B);
        for (size_t i = 0; i < found->out * found->r && !err; i++)
            if (B[i] != 0) err = err_new(ERR_FORMAT, "%s is not trained, but not zero in the file", found->module);
        free(B);
    }
    free(A);
    return err;
}

Err *audit_export(const Adapter *adapter, const char *directory)
{
    AdapterFile *file;
    LoraModule *loras;
    size_t n;
    TRY(adapter_file_open(&file, directory));
    Err *err = adapter_modules(adapter, &loras, &n);
    if (!err) {
        qsort(loras, n, sizeof *loras, by_module);
        for (size_t i = 0; i < n && !err; i++)
            err = loras[i].A ? compare_lora(file, &loras[i]) : compare_router(file, &loras[i]);
        for (size_t i = 0; i < file->n_loras && !err; i++) err = check_zero(&file->loras[i], n, loras);
        lora_modules_free(loras);
    }
    adapter_file_close(file);
    return err_wrap(err, "read %s back", directory);
}
