/* The tape's memory, records and backward pass.
 *
 * Three pools: results of a resident tape lie in own_pool, all other floats in the workspace that tapes share (own_pool
 * if there is none), nodes and small blocks in node_pool. A pool places a block in the lowest gap that holds it, so the
 * highest address that a step reaches depends on the order of calls alone and can be counted before (count_only). */
#include "autograd/tape.h"

#include "base/minmax.h"

#include <math.h>
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static Pool *workspace_of(Tape *tape) { return tape->workspace ? tape->workspace : &tape->own_pool; }
static Pool *results_pool(Tape *tape) { return tape->resident ? &tape->own_pool : workspace_of(tape); }

void tape_begin(Tape *tape, const Group *group, TapeMode mode)
{
    tape_reset(tape);
    tape->group = group;
    tape->mode = mode;
    timing_mark(tape->timing);
}

void tape_reset(Tape *tape)
{
    pool_reset(&tape->own_pool);
    pool_reset(workspace_of(tape));
    pool_reset(&tape->node_pool);
    tape->n_scratch = 0;
    tape->last = NULL;
    tape->n_nodes = 0;
    tape->dummy = (Tensor){.shape = {1, 1}};
}

void tape_free(Tape *tape)
{
    pool_free(&tape->own_pool);
    pool_free(&tape->node_pool);
    err_free(tape->err);
    *tape = (Tape){0};
}

Err *tape_error(Tape *tape)
{
    Err *err = tape->err;
    tape->err = NULL;
    return err;
}

size_t tape_threads(const Tape *tape) { return tape->threads ? tape->threads : (size_t)omp_get_max_threads(); }

static void *alloc_from(Tape *tape, Pool *pool, size_t bytes)
{
    if (tape->err) return NULL;
    void *block = pool_alloc(pool, bytes);
    if (!block)
        tape->err = err_new(ERR_MEMORY, "out of memory: the tape holds %zu bytes and needs %zu more",
                            results_pool(tape)->used_bytes, bytes);
    return block;
}

void *tape_alloc(Tape *tape, size_t bytes)
{
    return alloc_from(tape, tape->resident && !tape->count_only ? &tape->own_pool : &tape->node_pool, bytes);
}

/* The product, or SIZE_MAX if it overflows: no pool holds that much. */
static size_t product_or_max(size_t a, size_t b) { return b && a > SIZE_MAX / b ? SIZE_MAX : a * b; }

float *tape_floats(Tape *tape, size_t n)
{
    return alloc_from(tape, results_pool(tape), product_or_max(n, sizeof(float)));
}

float *tape_scratch(Tape *tape, size_t n)
{
    ASSERT(tape->n_scratch < TAPE_SCRATCH, "an operation has more than %d blocks of scratch", TAPE_SCRATCH);
    float *block = alloc_from(tape, workspace_of(tape), product_or_max(n, sizeof(float)));
    if (block) tape->scratch[tape->n_scratch++] = block;
    return block;
}

void tape_scratch_reset(Tape *tape)
{
    while (tape->n_scratch) pool_release(workspace_of(tape), tape->scratch[--tape->n_scratch]);
}

static Tensor *new_tensor(Tape *tape, size_t rows, size_t cols, float *data, bool requires_grad)
{
    Tensor *tensor = tape_alloc(tape, sizeof *tensor);
    if (!tensor) return &tape->dummy;
    *tensor = (Tensor){.shape = {rows, cols}, .data = data, .requires_grad = requires_grad};
    return tensor;
}

Tensor *tape_leaf(Tape *tape, size_t rows, size_t cols, float *data, bool requires_grad)
{
    return new_tensor(tape, rows, cols, data, requires_grad);
}

Tensor *tape_tensor(Tape *tape, size_t rows, size_t cols)
{
    float *data = tape_floats(tape, product_or_max(rows, cols));
    Tensor *tensor = new_tensor(tape, rows, cols, data, false);
    tensor->owned = !tape->err;
    return tensor;
}

bool tape_expect(Tape *tape, bool condition, const char *format, ...)
{
    if (!tape->err && !condition) {
        char message[512];
        va_list args;
        va_start(args, format);
        vsnprintf(message, sizeof message, format, args);
        va_end(args);
        tape->err = err_new(ERR_FORMAT, "%s", message);
    }
    return !tape->err;
}

bool tape_requires_grad(const Tape *tape, bool trains, size_t n_in, Tensor *const *in)
{
    if (tape->mode == TAPE_OFF || tape->err) return false;
    for (size_t i = 0; i < n_in && !trains; i++) trains = in[i] && in[i]->requires_grad;
    return trains;
}

static void check_finite(Tape *tape, const Tensor *tensor, const float *x, const char *what, const char *where)
{
    size_t n = tensor->shape[0] * tensor->shape[1];
    float bad = 0; /* NaN as soon as one number is NaN or infinite */
    if (!tape_computes(tape) || !x) return;
#pragma omp simd reduction(+ : bad)
    for (size_t i = 0; i < n; i++) bad += x[i] * 0;
    for (size_t i = 0; i < n && bad != 0; i++) {
        if (isfinite(x[i])) continue;
        tape->err = err_new(ERR_NUMERIC, "%s%s: row %zu, column %zu is %g", what, where, i / tensor->shape[1],
                            i % tensor->shape[1], (double)x[i]);
        return;
    }
}

void tape_expect_finite(Tape *tape, const Tensor *tensor, const char *what)
{
    check_finite(tape, tensor, tensor->data, what, "");
}

/* After a node's backward: the gradients of its inputs. */
static void check_gradients(Tape *tape, const Node *node)
{
    for (size_t i = 0; i < node->n_in; i++)
        if (node->in[i]) check_finite(tape, node->in[i], node->in[i]->grad, node->op->name, ", in the backward pass");
}

Tensor *tape_record(Tape *tape, const Op *op, Tensor *out, const void *state, bool trains, size_t n_in,
                    Tensor *const *in)
{
    tape_scratch_reset(tape);
    timing_note(tape->timing, op->name, TIMING_FORWARD);
    if (tape->err) return &tape->dummy;
    if (tape->guard) tape_expect_finite(tape, out, op->name);
    if (!tape_requires_grad(tape, trains, n_in, in)) return out;
    Node *node = tape_alloc(tape, sizeof *node + n_in * sizeof *node->in);
    if (!node) return &tape->dummy;
    *node = (Node){.previous = tape->last, .op = op, .tape = tape, .out = out, .state = state, .n_in = n_in};
    memcpy(node->in, in, n_in * sizeof *in);
    out->requires_grad = true;
    tape->last = node;
    tape->n_nodes++;
    return out;
}

static void zero(size_t n, float *x)
{
    enum { CHUNK = 1 << 14 };
#pragma omp parallel for schedule(static) if (n > 4 * CHUNK)
    for (size_t i = 0; i < n; i += CHUNK) memset(x + i, 0, size_min(CHUNK, n - i) * sizeof *x);
}

static float *allocate_grad(Tape *tape, Tensor *tensor, bool grad_unwritten)
{
    if (tensor->grad || tape->err) return tensor->grad;
    size_t n = tensor->shape[0] * tensor->shape[1];
    tensor->grad = alloc_from(tape, workspace_of(tape), product_or_max(n, sizeof(float)));
    tensor->grad_unwritten = grad_unwritten;
    if (tape_computes(tape) && !grad_unwritten) zero(n, tensor->grad);
    return tensor->grad;
}

float *tape_seed(Tape *tape, Tensor *tensor) { return allocate_grad(tape, tensor, false); }

/* False for an input that occurs twice: its gradient must be added to. */
static bool overwrites_grad(const Node *node, size_t i)
{
    if (!(node->op->overwrites_grad >> i & 1)) return false;
    for (size_t j = 0; j < node->n_in; j++)
        if (j != i && node->in[j] == node->in[i]) return false;
    return true;
}

/* Free the output of a node, and its gradient. */
static void free_output(Tape *tape, const Node *node)
{
    Tensor *out = node->out;
    for (size_t i = 0; i < node->n_in; i++)
        if (node->in[i] == out) return; /* in place: an earlier node made it */
    pool_release(workspace_of(tape), out->grad);
    if (out->owned) pool_release(results_pool(tape), out->data);
    out->data = out->grad = NULL;
    out->owned = false;
}

static void node_backward(Tape *tape, Node *node)
{
    tape_seed(tape, node->out);
    for (size_t i = 0; i < node->n_in; i++)
        if (node->in[i] && node->in[i]->requires_grad) allocate_grad(tape, node->in[i], overwrites_grad(node, i));
    timing_note(tape->timing, "gradients = 0", TIMING_BACKWARD);
    if (!tape->err) node->op->backward(node);
    for (size_t i = 0; i < node->n_in && tape_computes(tape); i++)
        ASSERT(!node->in[i] || !node->in[i]->grad_unwritten, "%s has left the gradient of input %zu unwritten",
               node->op->name, i);
    if (tape->guard && !tape->err) check_gradients(tape, node);
    tape_scratch_reset(tape);
    timing_note(tape->timing, node->op->name, TIMING_BACKWARD);
}

Err *tape_backward(Tape *tape)
{
    timing_mark(tape->timing);
    for (Node *node = tape->last; node && !tape->err; node = node->previous) {
        node_backward(tape, node);
        if (!tape->err) free_output(tape, node);
    }
    return tape_error(tape);
}
