/* Schedules by their names in Hugging Face transformers, with the formulas of its optimization.py; the header lists
 * them. A rate is computed from the number of finished steps alone, in double, so a resumed run has the rates of one
 * that was not stopped. PyTorch's LambdaLR, which those schedules use, sets the rate of the update that follows k
 * calls of step(): k is `step` here. */
#include "optim/schedule.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

/* ---- names and options ---------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    ScheduleKind kind;
    const char *keys[3]; /* of lr_scheduler_kwargs */
} schedules[] = {
    {"constant", SCHEDULE_CONSTANT, {NULL}},
    {"constant_with_warmup",
     SCHEDULE_CONSTANT,
     {NULL}}, /* here "constant" has a warm-up, too, when warmup_steps asks for one */
    {"linear", SCHEDULE_LINEAR, {NULL}},
    {"cosine", SCHEDULE_COSINE, {NULL}},
    {"cosine_with_min_lr", SCHEDULE_COSINE_MIN, {"min_lr", "min_lr_rate"}},
    {"warmup_stable_decay", SCHEDULE_WSD, {"num_decay_steps", "decay_type", "min_lr_ratio"}},
};
enum { N_SCHEDULES = sizeof schedules / sizeof *schedules, MAX_KEYS = 3 };

static Err *check_keys(size_t which, const Json *kwargs)
{
    if (kwargs && json_kind(kwargs) != JSON_OBJECT)
        return err_new(ERR_USAGE, "is %s; expected an object", json_kind_name(kwargs));
    for (const Json *member = kwargs ? json_first(kwargs) : NULL; member; member = json_next(member)) {
        bool known = false;
        for (size_t i = 0; i < MAX_KEYS && schedules[which].keys[i]; i++)
            known = known || strcmp(schedules[which].keys[i], json_key(member)) == 0;
        if (!known) return err_new(ERR_USAGE, "%s is not an argument of %s", json_key(member), schedules[which].name);
    }
    return NULL;
}

static bool has_key(const Json *kwargs, const char *key) { return kwargs && json_find(kwargs, key); }

static Err *read_cosine_min(Schedule *s, const Json *kwargs, double learning_rate)
{
    bool rate = has_key(kwargs, "min_lr_rate");
    double min = 0;
    if (rate == has_key(kwargs, "min_lr"))
        return err_new(ERR_USAGE, "cosine_with_min_lr needs either min_lr or min_lr_rate");
    TRY(json_get_number(kwargs, rate ? "min_lr_rate" : "min_lr", &min));
    s->min_share = rate ? min : min / learning_rate;
    if (s->min_share >= 0 && s->min_share <= 1) return NULL;
    return err_new(ERR_USAGE, "%s is %g; expected 0 to %g", rate ? "min_lr_rate" : "min_lr", min,
                   rate ? 1 : learning_rate);
}

static Err *read_wsd(Schedule *s, const Json *kwargs)
{
    static const struct {
        const char *name;
        DecayKind kind;
    } decays[] = {{"cosine", DECAY_COSINE}, {"linear", DECAY_LINEAR}, {"1-sqrt", DECAY_SQRT}};
    const char *decay = "cosine";
    int64_t steps = 0, max_steps = (int64_t)(s->total_steps > s->warmup_steps ? s->total_steps - s->warmup_steps : 0);
    if (!has_key(kwargs, "num_decay_steps")) return err_new(ERR_USAGE, "warmup_stable_decay needs num_decay_steps");
    TRY(json_get_int(kwargs, "num_decay_steps", 0, max_steps, &steps));
    TRY(json_may_string(kwargs, "decay_type", &decay));
    TRY(json_may_number(kwargs, "min_lr_ratio", &s->min_share));
    s->decay_steps = (uint64_t)steps;
    if (!(s->min_share >= 0 && s->min_share <= 1))
        return err_new(ERR_USAGE, "min_lr_ratio is %g; expected 0 to 1", s->min_share);
    for (size_t i = 0; i < sizeof decays / sizeof *decays; i++) {
        if (strcmp(decays[i].name, decay) != 0) continue;
        s->decay = decays[i].kind;
        return NULL;
    }
    return err_new(ERR_USAGE, "decay_type is \"%s\"; expected cosine, linear or 1-sqrt", decay);
}

Err *schedule_init(Schedule *s, const char *name, const Json *kwargs, double learning_rate, uint64_t warmup_steps,
                   uint64_t total_steps)
{
    size_t which = 0;
    while (which < N_SCHEDULES && strcmp(schedules[which].name, name) != 0) which++;
    if (which == N_SCHEDULES) return err_new(ERR_USAGE, "lr_scheduler_type %s is unknown", name);
    *s = (Schedule){.kind = schedules[which].kind, .warmup_steps = warmup_steps, .total_steps = total_steps};
    Err *err = check_keys(which, kwargs);
    if (!err && s->kind == SCHEDULE_COSINE_MIN) err = read_cosine_min(s, kwargs, learning_rate);
    if (!err && s->kind == SCHEDULE_WSD) err = read_wsd(s, kwargs);
    if (err) {
        Err *usage = err_new(ERR_USAGE, "lr_scheduler_kwargs: %s", err_message(err));
        err_free(err);
        return usage;
    }
    return NULL;
}

/* ---- rates ---------------------------------------------------------------------------------------------------- */

static double half_cosine(double part) { return 0.5 * (1 + cos(PI * part)); }

static double decayed(DecayKind decay, double part)
{
    return decay == DECAY_LINEAR ? 1 - part : decay == DECAY_SQRT ? 1 - sqrt(part) : half_cosine(part);
}

/* A factor 0 .. 1, moved to min_share .. 1. */
static double above_min(double min_share, double factor) { return factor * (1 - min_share) + min_share; }

/* The factor of warmup_stable_decay after the warm-up. */
static double stable_or_decaying(const Schedule *s, double k)
{
    double D = (double)s->decay_steps, begin = (double)s->total_steps - D;
    if (k < begin) return 1;
    return k < (double)s->total_steps ? above_min(s->min_share, decayed(s->decay, (k - begin) / fmax(1, D)))
                                      : s->min_share;
}

double schedule_rate(const Schedule *s, double learning_rate, uint64_t step)
{
    double k = (double)step, W = (double)s->warmup_steps, T = (double)s->total_steps, span = fmax(1, T - W);
    if (step < s->warmup_steps)
        return learning_rate * above_min(s->kind == SCHEDULE_WSD ? s->min_share : 0, k / fmax(1, W));
    switch (s->kind) {
    case SCHEDULE_LINEAR: return learning_rate * fmax(0, (T - k) / span);
    case SCHEDULE_COSINE:
    case SCHEDULE_COSINE_MIN: return learning_rate * fmax(0, above_min(s->min_share, half_cosine((k - W) / span)));
    case SCHEDULE_WSD: return learning_rate * fmax(0, stable_or_decaying(s, k));
    default: return learning_rate;
    }
}

uint64_t schedule_warmup_steps(uint64_t total_steps, double ratio)
{
    return (uint64_t)ceil((double)total_steps * ratio);
}
