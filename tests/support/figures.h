/* How far computed values are from a folder of reference values (tests/fixtures/model/README.md), and whether every
 * reference value was compared.
 *
 * A quantity is what reference.json's `float32_error` has one row for: "hidden.*" is hidden.0, hidden.1, ... Its
 * figures are the worst of its tensors: the RMS of the error over the RMS of the reference, and the largest error over
 * that RMS. What always holds after figures_report says yes: every tensor of reference.safetensors but the inputs, and
 * every key of `float32_error`, was compared, element by element; nothing was compared that the reference lacks. */
#ifndef GRAFT_TESTS_SUPPORT_FIGURES_H
#define GRAFT_TESTS_SUPPORT_FIGURES_H

#include "base/json.h"
#include "tensor/safetensors.h"

enum { MAX_QUANTITIES = 256, QUANTITY_NAME = 96 };

typedef struct {
    Json *facts; /* reference.json */
    Safetensors reference;
    size_t *compared; /* [reference.n_tensors] elements */
    struct {
        char name[QUANTITY_NAME];
        double rms, max;
    } quantities[MAX_QUANTITIES];
    size_t n_quantities;
    size_t n_choices, n_differing; /* experts, keys and tokens */
    size_t n_absent;               /* tensors that were to be compared and are not in the reference */
} Figures;

/* Open reference.json and reference.safetensors of a folder. Owner: the caller, figures_close, also after an error. */
MUST_USE Err *figures_open(Figures *figures, const char *folder);
void figures_close(Figures *figures);

/* An input; Fails: ERR_FORMAT when the reference lacks it. */
MUST_USE Err *figures_input(const Figures *figures, const char *name, const TensorView **view);

/* Element i of a tensor of 64-bit integers. */
int64_t figures_integer(const TensorView *view, size_t i);

/* Compare rows [row, row + n) of a tensor with data [n][cols]; the error is relative to the RMS of the whole tensor. */
void figures_compare_rows(Figures *figures, const char *tensor, size_t row, size_t n, size_t cols, const float *data);

/* Compare elements [at, at + n) of a tensor of choices: equal or not. */
void figures_compare_choices(Figures *figures, const char *tensor, size_t at, size_t n, const int64_t *data);

/* Compare a number of reference.json. */
void figures_compare_scalar(Figures *figures, const char *name, double value, double reference);

/* Print every quantity beside PyTorch float32's own error. True when all is compared, no choice differs, no RMS is
 * above four times PyTorch's and no maximum above eight times (figures below 1e-6 count as 1e-6). */
bool figures_report(const Figures *figures);

/* The same on a path that computes in bf16, without curve and greedy tokens: logits are no further off than
 * transformers in bf16; gradients of an adapter within 2 % when n_flipped is 0, the choices that differ with the
 * adapter. Other figures are only printed. */
bool figures_report_bf16(const Figures *figures, size_t n_flipped);

#endif
