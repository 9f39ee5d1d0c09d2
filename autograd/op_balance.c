/* Auxiliary losses of one layer's router, exact over the whole step. With s = sigmoid(z), p = s / (sum s + 1e-20),
 * n_e the number of tokens with e among their K largest s, N tokens in the step, B documents, T_d tokens of document d:
 *     seq_aux_loss          mean over documents of  E / (K T_d^2) sum_e n_e(d) sum_t p[t,e]   (DeepSeek-V3, Megatron)
 *     aux_loss              E / (K N^2) sum_e n_e sum_t p[t,e]                                (Megatron)
 *     z_loss                mean over tokens of (logsumexp z)^2                               (Megatron)
 *     load_balancing_loss   E sum_e (n_e / M) (sum softmax(z)_e / M)                          (transformers)
 * load_balancing_loss sums over the rows of all layers together, M = layers N.
 * The first three are summed over layers. Counts n_e are constants. The gradients are
 *     dz = c (f_e - sum_j f_j p_j) / sum(s) * s (1 - s)     f, c of the loss
 *     dz = p (F_e - sum_j F_j p_j) / M                      p = softmax(z), F_e = E n_e / M
 *     dz = 2 lse softmax(z) / N
 * z [T][E]. Sums are in double, in the order of rows, for each micro-batch.
 * Source: docs/glm5.md, section 10; DeepSeek-V3 report, section 2.1.2; Megatron-LM, moe_utils.py; transformers
 * 5.23.0, modeling_mixtral.py, load_balancing_loss_func. */
#include "autograd/op.h"
#include "tensor/rows.h"

#include <omp.h>
#include <string.h>

typedef struct {
    RouterShape shape;
    const BalanceValues *coefficient;
    const BalanceStep *step;
} BalanceState;

/* The sigmoids of a row; returns their sum. Counts the K largest in load. */
static float affinities(const RouterShape *shape, const float *z, float *s, int32_t *ids, double *load)
{
    row_sigmoid(shape->E, s, z);
    row_top_k(shape->E, shape->K, ids, s);
    for (size_t k = 0; k < shape->K; k++) load[ids[k]] += 1;
    return row_sum(shape->E, s) + 1e-20f;
}

static bool fits(Tape *tape, const RouterShape *shape, const Tensor *logits)
{
    return tape_expect(tape, logits->shape[0] == tape->group->T && logits->shape[1] == shape->E && shape->K <= shape->E,
                       "balance: logits are [%zu][%zu], %zu experts, %zu chosen, %zu tokens", logits->shape[0],
                       logits->shape[1], shape->E, shape->K, tape->group->T);
}

void balance_gather(Tape *tape, const RouterShape *shape, Tensor *logits, double *rows)
{
    const Group *group = tape->group;
    size_t E = shape->E, width = balance_width(E), d = 0;
    float *row = tape_scratch(tape, 2 * E);
    int32_t *ids = (int32_t *)(void *)tape_scratch(tape, shape->K);
    double *document = (double *)(void *)tape_scratch(tape, 4 * E); /* affinity [E], load [E] */
    if (!fits(tape, shape, logits)) return;
    memset(rows, 0, group->n_micro_batches * width * sizeof *rows);
    for (size_t m = 0; m < group->n_micro_batches; m++) {
        BalanceStats sums = balance_stats(rows + m * width, E);
        for (; d < group->n_docs && group->doc_start[d] < group->micro_batch_start[m + 1]; d++) {
            size_t n = group->doc_start[d + 1] - group->doc_start[d];
            memset(document, 0, 2 * E * sizeof *document);
            for (size_t t = group->doc_start[d]; t < group->doc_start[d + 1]; t++) {
                const float *z = logits->data + t * E;
                float sum = affinities(shape, z, row, ids, document + E);
                for (size_t e = 0; e < E; e++) document[e] += (double)(row[e] / sum);
                memcpy(row, z, E * sizeof *row);
                double lse = (double)row_softmax(E, row);
                for (size_t e = 0; e < E; e++) sums.softmax[e] += (double)row[e];
                *sums.z += lse * lse;
            }
            double product = 0;
            for (size_t e = 0; e < E; e++) {
                sums.affinity[e] += document[e];
                sums.load[e] += document[E + e];
                product += document[e] * document[E + e];
            }
            *sums.seq += (double)E / ((double)shape->K * (double)n * (double)n) * product;
        }
    }
    tape_scratch_reset(tape);
    timing_note(tape->timing, "balance_gather", TIMING_FORWARD);
}

BalanceValues balance_values(size_t L, size_t E, size_t K, size_t tokens, size_t documents, double *rows)
{
    BalanceValues values = {0};
    size_t width = balance_width(E);
    double N = (double)tokens, M = N * (double)L;
    for (size_t l = 0; l < L; l++) {
        BalanceStats layer = balance_stats(rows + l * width, E);
        double product = 0;
        for (size_t e = 0; e < E; e++) product += layer.affinity[e] * layer.load[e];
        values.aux_loss += (double)E / ((double)K * N * N) * product;
        values.z_loss += *layer.z / N;
        values.seq_aux_loss += *layer.seq / (double)documents;
    }
    for (size_t e = 0; e < E; e++) {
        double load = 0, softmax = 0;
        for (size_t l = 0; l < L; l++) {
            BalanceStats layer = balance_stats(rows + l * width, E);
            load += layer.load[e];
            softmax += layer.softmax[e];
        }
        values.load_balancing_loss += (double)E * (load / M) * (softmax / M);
    }
    return values;
}

/* dz += c (f_e - sum_j f_j p_j) / sum(s) * s (1 - s), with f = load. */
static void add_load_gradient(size_t E, float *dz, const float *s, float sum, double c, const double *load)
{
    double mean = 0;
    for (size_t e = 0; e < E; e++) mean += load[e] * (double)(s[e] / sum);
    for (size_t e = 0; e < E; e++) dz[e] += (float)(c * (load[e] - mean) / (double)sum * (double)(s[e] * (1 - s[e])));
}

static void document_backward(const BalanceState *state, size_t begin, size_t end, const Tensor *z, float *s,
                              int32_t *ids, double *load)
{
    const BalanceValues *c = state->coefficient;
    const BalanceStep *step = state->step;
    size_t E = state->shape.E;
    double K = (double)state->shape.K, N = (double)step->tokens, M = N * (double)step->sparse_layers,
           n = (double)(end - begin);
    double seq = c->seq_aux_loss * (double)E / (K * n * n * (double)step->documents),
           aux = c->aux_loss * (double)E / (K * N * N);
    memset(load, 0, E * sizeof *load);
    for (size_t t = begin; t < end; t++) affinities(&state->shape, z->data + t * E, s, ids, load);
    for (size_t t = begin; t < end; t++) {
        float *dz = z->grad + t * E;
        row_sigmoid(E, s, z->data + t * E);
        float sum = row_sum(E, s) + 1e-20f;
        if (c->seq_aux_loss != 0) add_load_gradient(E, dz, s, sum, seq, load);
        if (c->aux_loss != 0) add_load_gradient(E, dz, s, sum, aux, step->load);
        if (c->z_loss == 0 && c->load_balancing_loss == 0) continue;
        memcpy(s, z->data + t * E, E * sizeof *s);
        double lse = (double)row_softmax(E, s), mean = 0, F = c->load_balancing_loss * (double)E / (M * M);
        for (size_t e = 0; e < E; e++) mean += step->load_all_layers[e] * (double)s[e];
        for (size_t e = 0; e < E; e++)
            dz[e] += (float)((double)s[e] * (F * (step->load_all_layers[e] - mean) + c->z_loss * 2 * lse / N));
    }
}

static void balance_backward(Node *node)
{
    const BalanceState *state = node->state;
    const Group *group = node->tape->group;
    size_t E = state->shape.E, each = E + state->shape.K + 2 * E, n_threads = tape_threads(node->tape);
    each += each % 2; /* doubles follow floats */
    float *scratch = tape_scratch(node->tape, n_threads * each);
    if (!tape_computes(node->tape)) return;
#pragma omp parallel for schedule(dynamic)
    for (size_t d = 0; d < group->n_docs; d++) {
        double *load = (double *)(void *)(scratch + (size_t)omp_get_thread_num() * each);
        float *s = (float *)(load + E);
        document_backward(state, group->doc_start[d], group->doc_start[d + 1], node->in[0], s,
                          (int32_t *)(void *)(s + E), load);
    }
}

static const Op balance = {.name = "balance", .backward = balance_backward};

void op_balance(Tape *tape, Tensor *logits, const RouterShape *shape, const BalanceValues *coefficient,
                const BalanceStep *step)
{
    BalanceState *state = tape_alloc(tape, sizeof *state);
    if (!fits(tape, shape, logits)) return;
    *state = (BalanceState){*shape, coefficient, step};
    tape_record(tape, &balance, logits, state, false, 1, (Tensor *[]){logits});
}
