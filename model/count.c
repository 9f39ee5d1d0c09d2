/* The counts of each operation are written out once, here. A product of [T][K] and [N][K] has 2 T K N operations.
 * Checked by hand on small shapes in tests/model/count.c. */
#include "model/count.h"

static const double word = sizeof(float);

static double elements(const Weight *W) { return (double)W->rows * (double)W->cols; }

static double weight_bytes(const Weight *W) { return elements(W) * (double)dtype_bytes(W->dtype); }

Cost count_linear(size_t T, const Weight *W, TimingPass pass)
{
    double rows = (double)T, in = (double)W->cols, out = (double)W->rows;
    double numbers = pass == TIMING_FORWARD ? in + out : out + 2 * in; /* backward: dx is read and written */
    return (Cost){2 * rows * in * out, weight_bytes(W) + word * rows * numbers};
}

Cost count_lora(size_t T, size_t in, size_t out, size_t r, TimingPass pass)
{
    double rows = (double)T, D = (double)in, O = (double)out, R = (double)r, size = R * (D + O);
    if (pass == TIMING_FORWARD) return (Cost){2 * rows * size, word * (size + rows * D)};
    return (Cost){4 * rows * size, word * (2 * size + rows * (O + D))}; /* dy and x once more; A, B, dA, dB */
}

double count_scores(size_t n, size_t top_k)
{
    double full = top_k && top_k < n ? (double)top_k : (double)n, past = (double)n - full;
    return full * (full + 1) / 2 + past * full;
}

Cost count_attention(size_t T, double scores, const AttentionShape *shape, TimingPass pass)
{
    double H = (double)shape->n_heads, qk = (double)(shape->nope + shape->rope), v = (double)shape->v;
    double q = H * qk, kv = H * ((double)shape->nope + v) + (double)shape->rope, out = H * v, rows = (double)T;
    if (pass == TIMING_FORWARD) return (Cost){2 * H * scores * (qk + v), word * rows * (q + kv + out)};
    return (Cost){2 * H * scores * (3 * qk + 2 * v), word * rows * (3 * q + 3 * kv + 2 * out)};
}

Cost count_attention_latent(size_t T, double scores, const AttentionShape *shape, size_t R, TimingPass pass)
{
    double H = (double)shape->n_heads, nope = (double)shape->nope, rope = (double)shape->rope, v = (double)shape->v,
           latent = (double)R, rows = (double)T;
    double io = H * (nope + rope + v) + latent + rope;
    if (pass == TIMING_FORWARD)
        return (Cost){2 * H * (scores * (2 * latent + rope) + rows * latent * (nope + v)), word * rows * io};
    return (Cost){2 * H * (scores * (5 * latent + 3 * rope) + rows * latent * (2 * nope + v)),
                  word * rows * (3 * io - H * v)};
}

Cost count_index(size_t T, double scores, const IndexShape *shape)
{
    double H = (double)shape->n_heads, dim = (double)shape->dim;
    return (Cost){2 * H * scores * dim, word * (double)T * (H * dim + dim + H) + (double)T * (double)T / 8};
}

Cost count_experts(size_t T, size_t K, size_t E, const Expert *expert, size_t r, TimingPass pass)
{
    double D = (double)expert->gate->cols, F = (double)expert->gate->rows, R = (double)r, N = (double)T * (double)K;
    double weights = weight_bytes(expert->gate) + weight_bytes(expert->up) + weight_bytes(expert->down);
    double lora = R * (D + 2 * F) + R * (F + D), times = pass == TIMING_FORWARD ? 1 : 2;
    double rows = (pass == TIMING_FORWARD ? 2 : 4) * (double)T * D; /* x and y; dy, x, and dx twice */
    return (Cost){2 * N * 3 * D * F + 2 * times * N * lora, (double)E * (weights + word * times * lora) + word * rows};
}

Cost count_loss(size_t T, const Weight *W)
{
    return (Cost){4 * (double)T * elements(W), weight_bytes(W) + word * 2 * (double)T * (double)W->cols};
}

Cost count_elements(size_t n, double flop, double arrays)
{
    return (Cost){flop * (double)n, word * arrays * (double)n};
}

/* ---- a step --------------------------------------------------------------------------------------------------- */

/* Elements that one token multiplies with: of weights with forward and backward, of those without a gradient; bytes of
 * all. */
typedef struct {
    double both, once, bytes;
} Sum;

static double sum_up(size_t n, const Weight *const weights[], double *bytes)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += elements(weights[i]);
        *bytes += weight_bytes(weights[i]);
    }
    return sum;
}

static void add_layer(Sum *sum, const Model *model, const Layer *layer)
{
    double unused = 0;
    sum->both += sum_up(6,
                        (const Weight *[]){&layer->q_proj, &layer->q_down, &layer->q_up, &layer->kv_down, &layer->kv_up,
                                           &layer->o_proj},
                        &sum->bytes);
    sum->both += sum_up(3, (const Weight *[]){&layer->gate, &layer->up, &layer->down}, &sum->bytes);
    sum->once += sum_up(3, (const Weight *[]){&layer->index_q, &layer->index_k, &layer->index_heads}, &sum->bytes);
    if (layer->dense) return;
    const Weight *e = layer->expert_weights;
    sum->both += sum_up(1, (const Weight *[]){&layer->router}, &sum->bytes);
    sum->both += (double)model->router.K * sum_up(3, (const Weight *[]){&e[0], &e[1], &e[2]}, &unused);
    sum->bytes += (double)model->router.E * unused;
}

static Sum sum_of(const Model *model)
{
    Sum sum = {0};
    sum.both = sum_up(1, (const Weight *[]){&model->lm_head}, &sum.bytes);
    for (size_t l = 0; l < model->n_layers; l++) add_layer(&sum, model, &model->layers[l]);
    return sum;
}

double count_frozen(const Model *model)
{
    Sum sum = sum_of(model);
    return 4 * sum.both + 2 * sum.once;
}

double count_forward(const Model *model)
{
    Sum sum = sum_of(model);
    return 2 * (sum.both + sum.once);
}

double count_with_attention(const Model *model, size_t n)
{
    double scores = count_scores(n, 0), sum = 0;
    for (size_t l = 0; l < model->n_layers; l++) {
        sum += count_attention(n, scores, &model->attention, TIMING_FORWARD).flop +
               count_attention(n, scores, &model->attention, TIMING_BACKWARD).flop;
        if (model->layers[l].indexer) sum += count_index(n, scores, &model->index).flop;
    }
    return count_frozen(model) + sum / (double)n;
}

Cost count_step(const Model *model, size_t T)
{
    return (Cost){count_frozen(model) * (double)T, 2 * sum_of(model).bytes};
}
