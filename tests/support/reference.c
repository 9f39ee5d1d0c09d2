/* The references. Sources of the equations are named in autograd/op.h; nothing here is optimised, and all sums are in
 * double and in the order of the index. */
#include "tests/support/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *doubles(size_t n) { return calloc(n, sizeof(double)); }

double reference_at(const Weight *W, size_t row, size_t col)
{
    float x;
    weight_read(W, row, col, 1, &x);
    return (double)x;
}

void reference_project(size_t T, size_t D, size_t O, double y[T][O], const double x[T][D], const Weight *W)
{
    float *w = malloc(D * sizeof *w);
    for (size_t o = 0; o < O; o++) {
        weight_read(W, o, 0, D, w);
        for (size_t t = 0; t < T; t++) {
            y[t][o] = 0;
            for (size_t d = 0; d < D; d++) y[t][o] += x[t][d] * (double)w[d];
        }
    }
    free(w);
}

void reference_linear(size_t T, size_t D, size_t O, double y[T][O], const double x[T][D], const double W[O][D])
{
    for (size_t t = 0; t < T; t++)
        for (size_t o = 0; o < O; o++) {
            y[t][o] = 0;
            for (size_t d = 0; d < D; d++) y[t][o] += x[t][d] * W[o][d];
        }
}

void reference_lora(size_t T, size_t D, size_t O, size_t N, size_t R, double y[T][O], size_t col, double s,
                    const double x[T][D], const double *keep, const double A[R][D], const double B[N][R])
{
    for (size_t t = 0; t < T; t++)
        for (size_t r = 0; r < R; r++) {
            double u = 0;
            for (size_t d = 0; d < D; d++) u += x[t][d] * (keep ? keep[t * D + d] : 1) * A[r][d];
            for (size_t n = 0; n < N; n++) y[t][col + n] += s * u * B[n][r];
        }
}

void reference_rmsnorm(size_t T, size_t D, size_t n, double y[T][n], const double x[T][D], size_t col,
                       const float *weight, double eps)
{
    for (size_t t = 0; t < T; t++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += x[t][col + i] * x[t][col + i];
        for (size_t i = 0; i < n; i++) y[t][i] = (double)weight[i] * x[t][col + i] / sqrt(sum / (double)n + eps);
    }
}

void reference_layernorm(size_t T, size_t D, double y[T][D], const double x[T][D], const float *weight,
                         const float *bias, double eps)
{
    for (size_t t = 0; t < T; t++) {
        double mean = 0, variance = 0;
        for (size_t i = 0; i < D; i++) mean += x[t][i] / (double)D;
        for (size_t i = 0; i < D; i++) variance += (x[t][i] - mean) * (x[t][i] - mean) / (double)D;
        for (size_t i = 0; i < D; i++)
            y[t][i] = (double)weight[i] * (x[t][i] - mean) / sqrt(variance + eps) + (double)bias[i];
    }
}

static size_t past_of(const Group *group, size_t d) { return group->doc_past ? group->doc_past[d] : 0; }

void reference_rope(const Group *group, size_t D, double x[group->T][D], const RopeTable *table, size_t col,
                    size_t heads, size_t stride, bool interleaved)
{
    size_t half = table->dim / 2;
    for (size_t d = 0; d < group->n_docs; d++)
        for (size_t t = group->doc_start[d]; t < group->doc_start[d + 1]; t++)
            for (size_t h = 0; h < heads; h++)
                for (size_t j = 0; j < half; j++) {
                    size_t at = col + h * stride, position = past_of(group, d) + t - group->doc_start[d];
                    double *a = &x[t][at + (interleaved ? 2 * j : j)],
                           *b = &x[t][at + (interleaved ? 2 * j + 1 : j + half)];
                    double c = (double)table->cos[position * half + j], s = (double)table->sin[position * half + j];
                    double turned = *a * c - *b * s;
                    *b = *b * c + *a * s;
                    *a = turned;
                }
}

double reference_index(const IndexShape *shape, const float *q, const float *k, const float *w)
{
    double score = 0;
    for (size_t h = 0; h < shape->n_heads; h++) {
        double dot = 0;
        for (size_t i = 0; i < shape->dim; i++) dot += (double)q[h * shape->dim + i] * (double)k[i];
        score += (double)w[h] * (double)shape->head_scale * fmax(dot * (double)shape->scale, 0);
    }
    return score;
}

bool reference_sees(const Keys *keys, const Group *group, size_t d, size_t row, size_t key)
{
    if (key > past_of(group, d) + row) return false;
    if (!keys || !keys->of[d]) return true;
    return keys->of[d][row * keys_words(group, d) + key / 64] >> (key % 64) & 1;
}

void reference_attention(const Group *group, const AttentionShape *s, size_t krw, double o[group->T][s->n_heads * s->v],
                         const double q[group->T][s->n_heads * (s->nope + s->rope)],
                         const double kv[group->T][s->n_heads * (s->nope + s->v)], const double kr[group->T][krw],
                         size_t kr_col, const Keys *keys)
{
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t begin = group->doc_start[d], n = group->doc_start[d + 1] - begin;
        double *p = doubles(n);
        for (size_t h = 0; h < s->n_heads; h++)
            for (size_t i = 0; i < n; i++) {
                const double *qi = &q[begin + i][h * (s->nope + s->rope)];
                double max = -INFINITY, sum = 0, *out = &o[begin + i][h * s->v];
                for (size_t t = 0; t <= i; t++) {
                    p[t] = 0;
                    for (size_t c = 0; c < s->nope; c++)
                        p[t] += (double)s->scale * qi[c] * kv[begin + t][h * (s->nope + s->v) + c];
                    for (size_t c = 0; c < s->rope; c++)
                        p[t] += (double)s->scale * qi[s->nope + c] * kr[begin + t][kr_col + c];
                    if (!reference_sees(keys, group, d, i, t)) p[t] = -INFINITY;
                    max = fmax(max, p[t]);
                }
                for (size_t t = 0; t <= i; t++) sum += p[t] = exp(p[t] - max);
                for (size_t c = 0; c < s->v; c++) {
                    out[c] = 0;
                    for (size_t t = 0; t <= i; t++)
                        out[c] += p[t] / sum * kv[begin + t][h * (s->nope + s->v) + s->nope + c];
                }
            }
        free(p);
    }
}

double reference_sigmoid(double x) { return 1 / (1 + exp(-x)); }

void reference_swiglu(size_t T, size_t F, double a[T][F], const double x[T][2 * F])
{
    for (size_t t = 0; t < T; t++)
        for (size_t f = 0; f < F; f++) a[t][f] = x[t][f] * reference_sigmoid(x[t][f]) * x[t][F + f];
}

/* Set the flags of the k best. */
static void best_of(size_t n, size_t k, const double *score, bool *chosen)
{
    memset(chosen, 0, n * sizeof *chosen);
    for (; k > 0; k--) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (!chosen[i] && (best == n || score[i] > score[best])) best = i;
        chosen[best] = true;
    }
}

void reference_choose(const RouterShape *shape, const double *logits, const float *bias, int32_t *ids)
{
    size_t E = shape->E, G = shape->n_group, width = E / G;
    double *c = doubles(E), *groups = doubles(G);
    bool *chosen = calloc(E, sizeof *chosen), *kept = calloc(G, sizeof *kept);
    for (size_t e = 0; e < E; e++) c[e] = reference_sigmoid(logits[e]) + (double)bias[e];
    for (size_t g = 0; g < G; g++) {
        best_of(width, width < 2 ? width : 2, c + g * width, chosen);
        for (size_t e = 0; e < width; e++) groups[g] += chosen[e] ? c[g * width + e] : 0;
    }
    best_of(G, shape->topk_group, groups, kept);
    for (size_t e = 0; e < E; e++)
        if (!kept[e / width]) c[e] = -INFINITY;
    best_of(E, shape->K, c, chosen);
    for (size_t e = 0, k = 0; e < E; e++)
        if (chosen[e]) ids[k++] = (int32_t)e;
    free(c), free(groups), free(chosen), free(kept);
}

void reference_route(size_t T, const RouterShape *shape, double w[T][shape->K], const double z[T][shape->E],
                     const int32_t *ids)
{
    for (size_t t = 0; t < T; t++) {
        double sum = 1e-20;
        for (size_t k = 0; k < shape->K; k++) sum += w[t][k] = reference_sigmoid(z[t][ids[t * shape->K + k]]);
        for (size_t k = 0; k < shape->K; k++)
            w[t][k] *= (double)shape->routed_scaling_factor / (shape->norm_topk_prob ? sum : 1);
    }
}

static void run_expert(const ReferenceExpert *e, size_t D, double *y, const double *x)
{
    size_t F = e->gate->rows;
    double *gu = doubles(2 * F), *a = doubles(F);
    reference_project(1, D, F, (void *)gu, (const void *)x, e->gate);
    reference_project(1, D, F, (void *)(gu + F), (const void *)x, e->up);
    if (e->in_r)
        reference_lora(1, D, 2 * F, e->in_rows, e->in_r, (void *)gu, e->in_col, e->in_scale, (const void *)x, NULL,
                       (const void *)e->in_A, (const void *)e->in_B);
    reference_swiglu(1, F, (void *)a, (const void *)gu);
    reference_project(1, F, D, (void *)y, (const void *)a, e->down);
    if (e->out_r)
        reference_lora(1, F, D, D, e->out_r, (void *)y, 0, e->out_scale, (const void *)a, NULL, (const void *)e->out_A,
                       (const void *)e->out_B);
    free(gu), free(a);
}

void reference_experts(size_t T, size_t D, size_t K, double y[T][D], const double x[T][D], const double w[T][K],
                       const int32_t *ids, const ReferenceExpert *experts)
{
    double *one = doubles(D);
    for (size_t t = 0; t < T; t++) {
        for (size_t d = 0; d < D; d++) y[t][d] = 0;
        for (size_t k = 0; k < K; k++) {
            run_expert(&experts[ids[t * K + k]], D, one, x[t]);
            for (size_t d = 0; d < D; d++) y[t][d] += w[t][k] * one[d];
        }
    }
    free(one);
}

static double logsumexp(size_t n, const double *x)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) max = fmax(max, x[i]);
    for (size_t i = 0; i < n; i++) sum += exp(x[i] - max);
    return max + log(sum);
}

/* Sums over rows [begin, end): p = s / sum(s), softmax, and how often each expert is among the K largest; each [E]. */
static double count_rows(const RouterShape *shape, size_t begin, size_t end, const double *logits, double *p,
                         double *softmax, double *load)
{
    size_t E = shape->E;
    double *s = doubles(E), z = 0;
    bool *chosen = calloc(E, sizeof *chosen);
    for (size_t t = begin; t < end; t++) {
        const double *row = logits + t * E;
        double sum = 1e-20, lse = logsumexp(E, row);
        for (size_t e = 0; e < E; e++) sum += s[e] = reference_sigmoid(row[e]);
        best_of(E, shape->K, s, chosen);
        for (size_t e = 0; e < E; e++) {
            p[e] += s[e] / sum;
            softmax[e] += exp(row[e] - lse);
            load[e] += chosen[e];
        }
        z += lse * lse;
    }
    free(s), free(chosen);
    return z;
}

static double product(size_t n, const double *a, const double *b)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

BalanceValues reference_balance(const Group *step, size_t L, const RouterShape *shape, const double *const *logits)
{
    size_t E = shape->E;
    double K = (double)shape->K, N = (double)step->T, M = N * (double)L, *sums = doubles(5 * E);
    double *p = sums, *softmax = p + E, *load = softmax + E, *all_softmax = load + E, *all_load = all_softmax + E;
    BalanceValues values = {0};
    for (size_t l = 0; l < L; l++) {
        for (size_t d = 0; d < step->n_docs; d++) {
            double n = (double)(step->doc_start[d + 1] - step->doc_start[d]);
            memset(sums, 0, 3 * E * sizeof *sums);
            count_rows(shape, step->doc_start[d], step->doc_start[d + 1], logits[l], p, softmax, load);
            values.seq_aux_loss += (double)E / (K * n * n) * product(E, p, load) / (double)step->n_docs;
        }
        memset(sums, 0, 3 * E * sizeof *sums);
        values.z_loss += count_rows(shape, 0, step->T, logits[l], p, softmax, load) / N;
        values.aux_loss += (double)E / (K * N * N) * product(E, p, load);
        for (size_t e = 0; e < E; e++) {
            all_softmax[e] += softmax[e];
            all_load[e] += load[e];
        }
    }
    values.load_balancing_loss = (double)E / (M * M) * product(E, all_softmax, all_load);
    free(sums);
    return values;
}

void reference_loss(size_t T, size_t D, double nll[T], const double x[T][D], const Weight *W, const int32_t *targets)
{
    double *z = doubles(T * W->rows);
    reference_project(T, D, W->rows, (void *)z, x, W);
    for (size_t t = 0; t < T; t++) nll[t] = logsumexp(W->rows, z + t * W->rows) - z[t * W->rows + (size_t)targets[t]];
    free(z);
}
