/* The router:   s = sigmoid(z);   the K experts with the largest s + bias are chosen, inside the topk_group groups with
 * the largest sum of their two best;   w = f s / (sum over the chosen s + 1e-20).
 *     ds_k = f (dw_k - sum_m dw_m wn_m) / sum,   dz = ds s (1 - s) for the chosen, else 0   (wn: w / f)
 * Without norm_topk_prob:  w = f s,  ds = f dw.   z [T][E], bias [E], w [T][K].
 * The chosen experts are kept in id order: sums over them do not depend on their scores.
 * Source: docs/glm5.md, section 8; DeepSeek-V3 report, section 2.1.2 (arXiv:2412.19437); transformers 5.23.0,
 * GlmMoeDsaTopkRouter. */
#include "autograd/op.h"
#include "tensor/rows.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_GROUPS = 64 };

typedef struct {
    RouterShape shape;
    const int32_t *ids;
    float *s;   /* [T][K] sigmoids of the chosen */
    float *sum; /* [T] their sum + 1e-20; 1 without norm_topk_prob */
} RouteState;

/* Set the scores c [E] of all but the best topk_group groups to -infinity. */
static void exclude_groups(const RouterShape *shape, float *c)
{
    size_t width = shape->E / shape->n_group;
    float score[MAX_GROUPS];
    int32_t best[MAX_GROUPS];
    bool keep[MAX_GROUPS] = {false};
    for (size_t g = 0; g < shape->n_group; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (size_t e = g * width; e < (g + 1) * width; e++) {
            if (c[e] > first) {
                second = first;
                first = c[e];
            } else if (c[e] > second) {
                second = c[e];
            }
        }
        score[g] = width > 1 ? first + second : first;
    }
    row_top_k(shape->n_group, shape->topk_group, best, score);
    for (size_t g = 0; g < shape->topk_group; g++) keep[best[g]] = true;
    for (size_t e = 0; e < shape->E; e++)
        if (!keep[e / width]) c[e] = -INFINITY;
}

static int by_id(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The ids of one token, ascending; c [E]: scratch for s + bias. */
static void choose(const RouterShape *shape, const float *bias, const float *s, float *c, int32_t *ids)
{
    for (size_t e = 0; e < shape->E; e++) c[e] = s[e] + bias[e];
    if (shape->n_group > 1) exclude_groups(shape, c);
    row_top_k(shape->E, shape->K, ids, c);
    qsort(ids, shape->K, sizeof *ids, by_id);
}

static void route_backward(Node *node)
{
    Tensor *z = node->in[0], *w = node->out;
    const RouteState *state = node->state;
    size_t T = tape_rows(node->tape, z->shape[0]), E = z->shape[1], K = w->shape[1];
    float f = state->shape.routed_scaling_factor;
    bool norm = state->shape.norm_topk_prob;
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < T; t++) {
        const float *dw = w->grad + t * K, *s = state->s + t * K;
        float mean = 0;
        for (size_t k = 0; k < K && norm; k++) mean += dw[k] * (s[k] / state->sum[t]);
        for (size_t k = 0; k < K; k++) {
            float ds = f * (dw[k] - mean) / state->sum[t];
            z->grad[t * E + (size_t)state->ids[t * K + k]] += ds * s[k] * (1 - s[k]);
        }
    }
}

static const Op route_op = {.name = "route", .backward = route_backward};

Route op_route(Tape *tape, Tensor *logits, const float *bias, const RouterShape *shape, int32_t *ids, bool ids_given)
{
    size_t T = logits->shape[0], E = shape->E, K = shape->K;
    Tensor *w = tape_tensor(tape, T, K);
    RouteState *state = tape_alloc(tape, sizeof *state);
    float *s = tape_floats(tape, T * K), *sum = tape_floats(tape, T);
    float *scratch = tape_scratch(tape, tape_threads(tape) * 2 * E);
    size_t G = shape->n_group, kept_groups = shape->topk_group;
    bool fits = G >= 1 && G <= MAX_GROUPS && E % G == 0 && kept_groups >= 1 && kept_groups <= G && K >= 1 &&
                K <= E / G * kept_groups;
    if (!tape_expect(tape, fits && logits->shape[1] == E,
                     "route: %zu logits, %zu experts, %zu chosen from %zu of %zu groups", logits->shape[1], E, K,
                     kept_groups, G) ||
        !tape_expect(tape, T == tape->group->T, "route: %zu rows of logits, %zu tokens", T, tape->group->T))
        return (Route){ids, &tape->dummy};
    *state = (RouteState){*shape, ids, s, sum};
    T = tape_rows(tape, T);
#pragma omp parallel for schedule(static) if (T * E >= MIN_ELEMENTS_FOR_THREADS)
    for (size_t t = 0; t < T; t++) {
        float *all = scratch + (size_t)omp_get_thread_num() * 2 * E, total = 0;
        int32_t *chosen = ids + t * K;
        row_sigmoid(E, all, logits->data + t * E);
        if (!ids_given) choose(shape, bias, all, all + E, chosen);
        for (size_t k = 0; k < K; k++) total += s[t * K + k] = all[chosen[k]];
        sum[t] = shape->norm_topk_prob ? total + 1e-20f : 1;
        for (size_t k = 0; k < K; k++) w->data[t * K + k] = s[t * K + k] / sum[t] * shape->routed_scaling_factor;
    }
    return (Route){ids, tape_record(tape, &route_op, w, state, false, 1, (Tensor *[]){logits})};
}
