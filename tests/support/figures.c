/* Comparing with reference values. Errors are sums in double over float32 values; what was compared is counted for each
 * tensor, so that a probe that never came shows at the end. */
#include "tests/support/figures.h"

#include "base/file.h"
#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double max_rms_ratio = 4, max_largest_ratio = 8, smallest_figure = 1e-6, bf16_gradient_max = 0.02;

Err *figures_open(Figures *figures, const char *folder)
{
    char path[PATH_BYTES];
    TRY(file_join(path, folder, "reference.json"));
    TRY(json_read_file(&figures->facts, path));
    TRY(file_join(path, folder, "reference.safetensors"));
    TRY(safetensors_open(&figures->reference, path));
    return mem_new(&figures->compared, figures->reference.n_tensors, sizeof *figures->compared);
}

void figures_close(Figures *figures)
{
    free(figures->compared);
    safetensors_close(&figures->reference);
    json_free(figures->facts);
}

Err *figures_input(const Figures *figures, const char *name, const TensorView **view)
{
    *view = safetensors_find(&figures->reference, name);
    return *view ? NULL : err_new(ERR_FORMAT, "reference.safetensors has no %s", name);
}

int64_t figures_integer(const TensorView *view, size_t i)
{
    int64_t value;
    memcpy(&value, (const char *)view->data + sizeof value * i, sizeof value);
    return value;
}

/* ---- comparing ------------------------------------------------------------------------------------------------ */

/* "adapter.grad.model.layers.1.mlp.gate.weight" -> "adapter.grad.gate", "hidden.3" -> "hidden.*": names of
 * reference.json. */
static void quantity_of(const char *tensor, char name[QUANTITY_NAME])
{
    const char *model = strstr(tensor, "model.");
    if (model && (strstr(tensor, "grad.") || strstr(tensor, "final."))) {
        const char *leaf = strstr(tensor, "lora_A") ? "lora_A" : strstr(tensor, "lora_B") ? "lora_B" : "gate";
        snprintf(name, QUANTITY_NAME, "%.*s%s", (int)(model - tensor), tensor, leaf);
        return;
    }
    size_t n = 0;
    for (const char *c = tensor; *c && n + 2 < QUANTITY_NAME; c++) {
        if (*c >= '0' && *c <= '9' && c > tensor && c[-1] == '.') {
            name[n++] = '*';
            while (c[1] >= '0' && c[1] <= '9') c++;
        } else {
            name[n++] = *c;
        }
    }
    name[n] = 0;
}

static void note(Figures *f, const char *name, double rms, double max)
{
    size_t i = 0;
    while (i < f->n_quantities && strcmp(f->quantities[i].name, name) != 0) i++;
    if (i == MAX_QUANTITIES) {
        printf("  %s: more than %d quantities\n", name, MAX_QUANTITIES);
        f->n_absent++;
        return;
    }
    if (i == f->n_quantities) {
        snprintf(f->quantities[i].name, sizeof f->quantities[i].name, "%s", name);
        f->n_quantities++;
    }
    f->quantities[i].rms = fmax(f->quantities[i].rms, rms);
    f->quantities[i].max = fmax(f->quantities[i].max, max);
    if (!isfinite(rms)) f->quantities[i].rms = INFINITY;
}

/* Count the elements [at, at + n) of a tensor as compared; NULL, and said so, when the reference lacks them. */
static const TensorView *take(Figures *f, const char *tensor, DType dtype, size_t at, size_t n)
{
    const TensorView *view = safetensors_find(&f->reference, tensor);
    if (!view || view->dtype != dtype || (at + n) * dtype_bytes(dtype) > view->bytes) {
        printf("  %s: not in reference.safetensors, or of another type or size  FAIL\n", tensor);
        f->n_absent++;
        return NULL;
    }
    f->compared[view - f->reference.tensors] += n;
    return view;
}

void figures_compare_scalar(Figures *figures, const char *name, double value, double reference)
{
    double relative = fabs(value - reference) / fabs(reference);
    note(figures, name, relative, relative);
}

void figures_compare_rows(Figures *figures, const char *tensor, size_t row, size_t n, size_t cols, const float *data)
{
    char name[QUANTITY_NAME];
    const TensorView *view = take(figures, tensor, DTYPE_F32, row * cols, n * cols);
    if (!view) return;
    size_t total = view->bytes / sizeof(float);
    double square = 0, error = 0, max = 0;
    for (size_t i = 0; i < total; i++) {
        float r;
        memcpy(&r, (const char *)view->data + 4 * i, 4);
        square += (double)r * (double)r;
    }
    for (size_t i = 0; i < n * cols; i++) {
        float r;
        memcpy(&r, (const char *)view->data + 4 * (row * cols + i), 4);
        double d = (double)data[i] - (double)r;
        error += d * d;
        if (!(fabs(d) <= max)) max = fabs(d);
    }
    double rms = sqrt(square / (double)total);
    quantity_of(tensor, name);
    if (rms == 0) {
        if (error > 0) note(figures, name, INFINITY, INFINITY);
        return;
    }
    note(figures, name, sqrt(error / (double)(n * cols)) / rms, max / rms);
}

void figures_compare_choices(Figures *figures, const char *tensor, size_t at, size_t n, const int64_t *data)
{
    const TensorView *view = take(figures, tensor, DTYPE_I64, at, n);
    if (!view) return;
    figures->n_choices += n;
    for (size_t i = 0; i < n; i++) {
        int64_t r = figures_integer(view, at + i);
        if (r == data[i]) continue;
        if (figures->n_differing++ < 5)
            printf("  %s: element %zu is %lld, the reference has %lld\n", tensor, at + i, (long long)data[i],
                   (long long)r);
    }
}

/* ---- was everything compared? --------------------------------------------------------------------------------- */

static bool starts_with(const char *text, const char *begin) { return strncmp(text, begin, strlen(begin)) == 0; }

static bool is_input(const char *tensor)
{
    return !strcmp(tensor, "input_ids") || !strcmp(tensor, "labels") || starts_with(tensor, "curve.doc.");
}

/* Left to the fp32 paths. */
static bool is_fp32_only(const char *name) { return starts_with(name, "curve.") || !strcmp(name, "greedy"); }

/* Greedy tokens are compared twice, with the cache and without. */
static size_t times_compared(const char *tensor) { return strcmp(tensor, "greedy") ? 1 : 2; }

/* How many tensors and rows of `float32_error` lack a comparison; each is printed. */
static size_t print_missing(const Figures *f, bool bf16)
{
    size_t missing = f->n_absent;
    for (size_t i = 0; i < f->reference.n_tensors; i++) {
        const TensorView *view = &f->reference.tensors[i];
        size_t n = view->bytes / dtype_bytes(view->dtype) * times_compared(view->name);
        if (is_input(view->name) || (bf16 && is_fp32_only(view->name)) || f->compared[i] == n) continue;
        printf("  %s: %zu of %zu elements compared  FAIL\n", view->name, f->compared[i], n);
        missing++;
    }
    const Json *torch = json_find(f->facts, "float32_error");
    if (!torch) printf("  reference.json has no float32_error  FAIL\n");
    missing += !torch;
    for (const Json *row = torch ? json_first(torch) : NULL; row; row = json_next(row)) {
        size_t i = 0;
        while (i < f->n_quantities && strcmp(f->quantities[i].name, json_key(row)) != 0) i++;
        if (i < f->n_quantities || (bf16 && is_fp32_only(json_key(row)))) continue;
        printf("  %s: in reference.json and never compared  FAIL\n", json_key(row));
        missing++;
    }
    return missing;
}

/* ---- reports -------------------------------------------------------------------------------------------------- */

bool figures_report_bf16(const Figures *figures, size_t n_flipped)
{
    double logits_max = 0;
    size_t bad = 0;
    err_free(json_get_number(json_find(figures->facts, "transformers_bf16"), "logits_relative_rms", &logits_max));
    for (size_t i = 0; i < figures->n_quantities; i++) {
        const char *name = figures->quantities[i].name;
        double rms = figures->quantities[i].rms;
        double bound = !strcmp(name, "logits")                            ? logits_max
                       : !starts_with(name, "adapter.grad.") || n_flipped ? INFINITY
                                                                          : bf16_gradient_max;
        bool is_bad = !(rms <= bound) || !isfinite(rms);
        bad += is_bad;
        printf("  %-36s rms %8.1e  max %8.1e", name, rms, figures->quantities[i].max);
        if (isfinite(bound)) printf("  at most %8.1e", bound);
        printf("%s\n", is_bad ? "  FAIL" : "");
    }
    size_t missing = print_missing(figures, true);
    printf("  %zu choices compared", figures->n_choices);
    if (figures->n_differing) printf(", %zu differ, %zu of them with the adapter", figures->n_differing, n_flipped);
    printf("\n");
    return !bad && !missing && figures->n_quantities && figures->n_choices;
}

bool figures_report(const Figures *figures)
{
    const Json *torch = json_find(figures->facts, "float32_error");
    size_t bad = 0;
    for (size_t i = 0; i < figures->n_quantities; i++) {
        const Json *row = torch ? json_find(torch, figures->quantities[i].name) : NULL;
        double rms = figures->quantities[i].rms, max = figures->quantities[i].max, torch_rms = 0, torch_max = 0;
        if (row) {
            err_free(json_get_number(row, "relative_rms", &torch_rms));
            err_free(json_get_number(row, "max_over_rms", &torch_max));
        }
        double ratio = fmax(rms, smallest_figure) / fmax(torch_rms, smallest_figure),
               max_ratio = fmax(max, smallest_figure) / fmax(torch_max, smallest_figure);
        bool is_bad = !(ratio <= max_rms_ratio) || !(max_ratio <= max_largest_ratio) || !row;
        bad += is_bad;
        printf("  %-36s rms %8.1e  torch %8.1e  ratio %5.2f   max %8.1e  torch %8.1e  ratio %5.2f%s\n",
               figures->quantities[i].name, rms, torch_rms, ratio, max, torch_max, max_ratio,
               is_bad ? row ? "  FAIL" : "  FAIL: not in reference.json" : "");
    }
    size_t missing = print_missing(figures, false);
    printf("  %zu choices compared", figures->n_choices);
    if (figures->n_differing) printf(", %zu differ  FAIL", figures->n_differing);
    printf("\n");
    return !bad && !missing && !figures->n_differing && figures->n_quantities && figures->n_choices;
}
