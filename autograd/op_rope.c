/* Rotary positions, in place. A pair (a, b) turns by the angle of its position:
 *     a' = a c - b s,   b' = b c + a s;      backward turns the gradient the other way.
 * transformers writes interleaved pairs out de-interleaved; queries and keys being permuted alike, every dot product is
 * the same when pairs stay where they are.   Source: Su et al. 2021, section 3.4.2 (arXiv:2104.09864). */
#include "autograd/op.h"

typedef struct {
    const RopeTable *table;
    size_t col, heads, stride;
    bool interleaved;
} RopeState;

static void turn_row(const RopeState *k, size_t position, float direction, float *row)
{
    size_t half = k->table->dim / 2;
    const float *c = k->table->cos + position * half, *s = k->table->sin + position * half;
    size_t step = k->interleaved ? 2 : 1, apart = k->interleaved ? 1 : half;
    for (size_t h = 0; h < k->heads; h++) {
        float *x = row + k->col + h * k->stride;
        for (size_t j = 0; j < half; j++) {
            float a = x[j * step], b = x[j * step + apart], sin = s[j] * direction;
            x[j * step] = a * c[j] - b * sin;
            x[j * step + apart] = b * c[j] + a * sin;
        }
    }
}

static void turn(const Group *group, const RopeState *k, float direction, size_t width, float *x)
{
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t begin = group->doc_start[d], end = group->doc_start[d + 1],
               past = group->doc_past ? group->doc_past[d] : 0;
#pragma omp parallel for schedule(static) if ((end - begin) * width >= WORTH_A_TEAM)
        for (size_t t = begin; t < end; t++) turn_row(k, past + t - begin, direction, x + t * width);
    }
}

static void rope_backward(Node *node)
{
    if (node->out->requires_grad && tape_computes(node->tape))
        turn(node->tape->group, node->state, -1, node->out->shape[1], node->out->grad);
}

static const Op rope = {.name = "rope", .backward = rope_backward};

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
    if (tape_computes(tape)) turn(group, state, 1, x->shape[1], x->data);
    return tape_record(tape, &rope, x, state, false, 1, (Tensor *[]){x});
}
