/* The clock is read when the first text gets its first token and when it gets its last: texts of equal length take their
 * steps together, so between the two lie new - 1 steps of all of them. */
#include "infer/speed.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"

#include <stdlib.h>

typedef struct {
    size_t n;
    double first, last;
} Clock;

static bool on_token(void *context, int32_t token)
{
    Clock *clock = context;
    (void)token;
    clock->last = log_seconds();
    if (clock->n++ == 0) clock->first = clock->last;
    return true;
}

static Err *one_round(Model *model, const Adapter *adapter, const SpeedConfig *config, const Generation *texts,
                      Generated *made, Clock *clock, GenerationSpeed *speed)
{
    *clock = (Clock){0};
    double start = log_seconds();
    TRY(generate_all(model, adapter, config->batch, texts, config->batch, config->group_tokens, made));
    generated_free(config->batch, made);
    double n = (double)config->batch;
    speed->prefill = n * (double)config->prompt / (clock->first - start);
    speed->decode = config->new > 1 ? n *(double)(config->new - 1) / (clock->last - clock->first) : 0;
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static Err *rounds(GenerationSpeed *speed, Model *model, const Adapter *adapter, const SpeedConfig *config,
                   const Generation *texts, Generated *made, Clock *clock)
{
    double *prefill;
    TRY(mem_new(&prefill, 2 * config->rounds, sizeof *prefill));
    double *decode = prefill + config->rounds;
    Err *err = one_round(model, adapter, config, texts, made, clock, speed);
    for (size_t i = 0; i < config->rounds && !err; i++) {
        err = one_round(model, adapter, config, texts, made, clock, speed);
        prefill[i] = speed->prefill;
        decode[i] = speed->decode;
    }
    qsort(prefill, config->rounds, sizeof *prefill, ascending);
    qsort(decode, config->rounds, sizeof *decode, ascending);
    *speed = (GenerationSpeed){prefill[config->rounds / 2], decode[config->rounds / 2]};
    free(prefill);
    return err;
}

Err *generation_speed(GenerationSpeed *speed, Model *model, const Adapter *adapter, const SpeedConfig *config)
{
    size_t n = config->batch * config->prompt;
    uint64_t vocabulary = (uint64_t)model->config.vocab_size;
    int32_t *ids = NULL;
    Generation *texts = NULL;
    Generated *made = NULL;
    Clock clock;
    Err *err = mem_new(&ids, n, sizeof *ids);
    if (!err) err = mem_new(&texts, config->batch, sizeof *texts);
    if (!err) err = mem_new(&made, config->batch, sizeof *made);
    for (size_t i = 0; i < n && !err; i++) ids[i] = (int32_t)rng_below(rng_name(0, "speed"), i, vocabulary);
    for (size_t i = 0; i < config->batch && !err; i++)
        texts[i] =
            (Generation){.prompt = ids + i * config->prompt, .n_prompt = config->prompt, .max_new_tokens = config->new};
    if (!err) {
        texts[0].on_token = on_token;
        texts[0].context = &clock;
        err = rounds(speed, model, adapter, config, texts, made, &clock);
    }
    free(ids);
    free(texts);
    free(made);
    return err;
}

/* ---- what a token reads --------------------------------------------------------------------------------------- */

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
