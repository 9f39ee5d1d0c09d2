/* The arguments are read twice: first to find the model, then, after its generation_config.json, because they override
 * it. */
#include "cli/sampling.h"

#include "base/file.h"

/* Apply the keys of the model card that are options here; do_sample false means temperature 0. */
static Err *apply_model_card(void *settings, const Option *table, const char *directory)
{
    static const char *const keys[] = {"temperature",        "top_p",         "top_k", "min_p",
                                       "repetition_penalty", "max_new_tokens"};
    char path[PATH_BYTES];
    Json *card;
    bool samples = true;
    TRY(file_join(path, directory, "generation_config.json"));
    if (!file_exists(path)) return NULL;
    TRY(json_read_file(&card, path));
    Json *ours = json_new_object();
    Err *err = json_may_bool(card, "do_sample", &samples);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const Json *value = json_find(card, keys[i]);
        bool greedy = i == 0 && !samples;
        if (greedy)
            json_add_number(ours, keys[i], 0);
        else if (value && json_kind(value) != JSON_NULL)
            json_add(ours, keys[i], json_duplicate(value));
    }
    if (!err) err = options_json(settings, table, ours, path);
    json_free(ours);
    json_free(card);
    return err;
}

Err *sampling_arguments(void *settings, const Option *table, int argc, char **argv, size_t model_offset)
{
    size_t n;
    TRY(options_defaults(settings, table));
    TRY(options_arguments(settings, table, argc, argv, NULL, 0, &n));
    const char *directory = *(char *const *)((const char *)settings + model_offset);
    if (!directory) return NULL;
    TRY(apply_model_card(settings, table, directory));
    return options_arguments(settings, table, argc, argv, NULL, 0, &n); /* again, because they override the card */
}

Sampling sampling_of(const SamplingSettings *s)
{
    return (Sampling){.temperature = s->temperature,
                      .top_p = s->top_p,
                      .top_k = s->top_k,
                      .seed = (uint64_t)s->seed,
                      .min_p = s->min_p,
                      .repetition_penalty = s->repetition_penalty};
}
