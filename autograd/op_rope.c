/* Rotary position embedding, in place. A rotary pair (a, b) is rotated by the angle of its position, c = cos, s = sin:
 *     a' = a c - b s,   b' = b c + a s;      backward rotates the gradient by the opposite angle.
 * transformers de-interleaves interleaved pairs. Here they keep their columns: queries and keys are permuted alike, so
 * every dot product is the same.
 * Source: docs/glm5.md, section 4; Su et al. 2021, section 3.4.2 (arXiv:2104.09864). */
#include "autograd/op.h"

typedef struct {
    const RopeTable *table;
    size_t col, heads, stride;
    bool interleaved;
} RopeState;

static void rotate_row(const RopeState *rope, size_t position, float direction, float *row)
{
    size_t half = rope->table->dim / 2;
    const float *c = rope->table->cos + position * half, *s = rope->table->sin + position * half;
    size_t step = rope->interleaved ? 2 : 1, apart = rope->interleaved ? 1 : half;
    for (size_t h = 0; h < rope->heads; h++) {
        float *x = row + rope->col + h * rope->stride;
        for (size_t j = 0; j < half; j++) {
            float a = x[j * step], b = x[j * step + apart], sin = s[j] * direction;
            x[j * step] = a * c[j] - b * sin;
            x[j * step + apart] = b * c[j] + a * sin;
        }
    }
}

static void rotate(const Group *group, const RopeState *rope, float direction, size_t width, float *x)
{
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t begin = group->doc_start[d], end = group->doc_start[d + 1],
               past = group->doc_past ? group->doc_past[d] : 0;
#pragma omp parallel for schedule(static) if ((end - begin) * width >= MIN_ELEMENTS_FOR_THREADS)
        for (size_t t = begin; t < end; t++) rotate_row(rope, past + t - begin, direction, x + t * width);
    }
}

static void rope_backward(Node *node)
{
    if (node->out->requires_grad && tape_computes(node->tape))
        rotate(node->tape->group, node->state, -1, node->out->shape[1], node->out->grad);
}

static const Op rope_op = {.name = "rope", .backward = rope_backward};

Tensor *op_rope(Tape *tape, Tensor *x, const RopeTable *table, size_t col, size_t heads, size_t stride,
                bool interleaved)
{
    RopeState *state = tape_alloc(tape, sizeof *state);
    if (tape->err) return &tape->dummy;
    const Group *group = tape->group;
    for (size_t d = 0; d < group->n_docs && tape_computes(tape); d++) {
        size_t n = group->doc_start[d + 1] - group->doc_start[d] + (group->doc_past ? group->doc_past[d] : 0);
        if (!tape_expect(tape, n <= table->n, "a document has %zu tokens; the rotary table has %zu positions", n,
                         table->n))
            return &tape->dummy;
    }
    size_t width = x->shape[1], end = col + (heads - 1) * stride + table->dim;
    if (!tape_expect(tape, x->shape[0] == group->T, "rope: %zu rows, %zu tokens", x->shape[0], group->T) ||
        !tape_expect(tape, heads >= 1 && end <= width, "rope: columns %zu to %zu of %zu", col, end, width))
        return &tape->dummy;
    *state = (RopeState){table, col, heads, stride, interleaved};
    if (tape_computes(tape)) rotate(group, state, 1, x->shape[1], x->data);
    return tape_record(tape, &rope_op, x, state, false, 1, (Tensor *[]){x});
}
