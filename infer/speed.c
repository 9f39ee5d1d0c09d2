/* The clock is read when the first sequence gets its first token and when it gets its last one. Sequences of equal
 * length take their steps together, so new - 1 steps of all of them lie between the two readings. */
#include "infer/speed.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"

#include <stdlib.h>

typedef struct {
    size_t n;
    double first, last;
} TokenTimes;

static bool on_token(void *context, int32_t token)
{
    TokenTimes *times = context;
    (void)token;
    times->last = log_seconds();
    if (times->n++ == 0) times->first = times->last;
    return true;
}

/* What every round repeats. */
typedef struct {
    Model *model;
    const Adapter *adapter;
    const SpeedConfig *config;
    Generation *sequences; /* [batch] the first one notes its times */
    Generated *generated;  /* [batch] */
    TokenTimes times;
} SpeedRound;

static Err *one_round(SpeedRound *round, GenerationSpeed *speed)
{
    const SpeedConfig *config = round->config;
    TokenTimes *times = &round->times;
    *times = (TokenTimes){0};
    double start = log_seconds();
    TRY(generate_all(round->model, round->adapter, config->batch, round->sequences, config->batch, config->group_tokens,
                     round->generated));
    generated_free(config->batch, round->generated);
    double n = (double)config->batch;
    speed->prefill = n * (double)config->prompt / (times->first - start);
    speed->decode = config->new > 1 ? n *(double)(config->new - 1) / (times->last - times->first) : 0;
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static Err *all_rounds(SpeedRound *round, GenerationSpeed *speed)
{
    size_t n = round->config->rounds;
    double *prefill;
    TRY(mem_new(&prefill, 2 * n, sizeof *prefill));
    double *decode = prefill + n;
    Err *err = one_round(round, speed);
    for (size_t i = 0; i < n && !err; i++) {
        err = one_round(round, speed);
        prefill[i] = speed->prefill;
        decode[i] = speed->decode;
    }
    qsort(prefill, n, sizeof *prefill, ascending);
    qsort(decode, n, sizeof *decode, ascending);
    *speed = (GenerationSpeed){prefill[n / 2], decode[n / 2]};
    free(prefill);
    return err;
}

Err *generation_speed(GenerationSpeed *speed, Model *model, const Adapter *adapter, const SpeedConfig *config)
{
    size_t n = config->batch * config->prompt;
    uint64_t vocabulary = (uint64_t)model->config.vocab_size;
    int32_t *ids = NULL;
    SpeedRound round = {.model = model, .adapter = adapter, .config = config};
    Err *err = mem_new(&ids, n, sizeof *ids);
    if (!err) err = mem_new(&round.sequences, config->batch, sizeof *round.sequences);
    if (!err) err = mem_new(&round.generated, config->batch, sizeof *round.generated);
    for (size_t i = 0; i < n && !err; i++) ids[i] = (int32_t)rng_below(rng_name(0, "speed"), i, vocabulary);
    for (size_t i = 0; i < config->batch && !err; i++)
        round.sequences[i] =
            (Generation){.prompt = ids + i * config->prompt, .n_prompt = config->prompt, .max_new_tokens = config->new};
    if (!err) {
        round.sequences[0].on_token = on_token;
        round.sequences[0].context = &round.times;
        err = all_rounds(&round, speed);
    }
    free(ids);
    free(round.sequences);
    free(round.generated);
    return err;
}

/* ---- bytes of a token -------------------------------------------------------------------------------------------- */

static double bytes_of(size_t n, const Weight *const weights[])
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)weights[i]->rows * (double)weights[i]->cols * (double)dtype_bytes(weights[i]->dtype);
    return sum;
}

double generation_bytes(const Model *model)
{
    double sum = bytes_of(1, (const Weight *[]){&model->lm_head});
    for (size_t l = 0; l < model->n_layers; l++) {
        const Layer *a = &model->layers[l];
        sum += bytes_of(6, (const Weight *[]){&a->q_proj, &a->q_down, &a->q_up, &a->kv_down, &a->kv_up, &a->o_proj});
        sum += bytes_of(6, (const Weight *[]){&a->index_q, &a->index_k, &a->index_heads, &a->gate, &a->up, &a->down});
        if (a->dense) continue;
        const Weight *e = a->expert_weights;
        sum += bytes_of(1, (const Weight *[]){&a->router}) +
               (double)model->router.K * bytes_of(3, (const Weight *[]){&e[0], &e[1], &e[2]});
    }
    return sum;
}
