/* Coefficients of the balance losses from the settings, and the update of the correction biases. Equations and sources
 * are in the header; the losses themselves are in autograd/op_balance.c. A coefficient that could have no effect is
 * refused. */
#include "train/balance.h"

#include "base/memory.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

bool balance_is_on(const Json *coefficient)
{
    if (!coefficient) return false;
    if (json_kind(coefficient) == JSON_NUMBER) return json_number(coefficient) > 0;
    for (const Json *member = json_first(coefficient); member; member = json_next(member))
        if (json_kind(member) == JSON_NUMBER && json_number(member) > 0) return true;
    return false;
}

/* The loss of layer l's router has an effect if something is trained at or below it: lower layers, the attention of
 * this layer, the router itself. */
static bool can_act(const Adapter *adapter, size_t l)
{
    const LayerAdapter *layer = &adapter->layers[l];
    bool attention = false;
    for (size_t i = 0; i <= LORA_O; i++) attention = attention || layer->places[i];
    return adapter_lowest_layer(adapter) < l || attention || layer->router || layer->places[LORA_ROUTER];
}

static Err *check_value(const char *key, const Json *value)
{
    double x = json_kind(value) == JSON_NUMBER ? json_number(value) : -1;
    if (x >= 0 && x <= 1e6) return NULL;
    return err_new(ERR_USAGE, "%s: every coefficient is a number from 0 to 1e6", key);
}

/* Store the coefficients of one loss: one number for all layers, or a table by layer. offset: of its field. */
static Err *set_coefficients(const char *key, const Json *given, const Adapter *adapter, BalanceValues *to,
                             size_t offset)
{
    const Model *model = adapter->model;
    if (!given || json_kind(given) == JSON_NULL) return NULL;
    bool table = json_kind(given) == JSON_OBJECT, acts = false;
    if (!table) TRY(check_value(key, given));
    for (size_t l = 0; l < model->n_layers && !table; l++) {
        if (model->layers[l].dense) continue;
        *(double *)((char *)&to[l] + offset) = json_number(given);
        acts = acts || can_act(adapter, l);
    }
    for (const Json *member = table ? json_first(given) : NULL; member; member = json_next(member)) {
        size_t l;
        int used = 0;
        TRY(check_value(key, member));
        if (sscanf(json_key(member), "%zu%n", &l, &used) != 1 || json_key(member)[used] || l >= model->n_layers ||
            model->layers[l].dense)
            return err_new(ERR_USAGE, "%s: layer %s has no router", key, json_key(member));
        if (json_number(member) > 0 && !can_act(adapter, l))
            return err_new(ERR_USAGE, "%s: nothing is trained at or below the router of layer %zu", key, l);
        *(double *)((char *)&to[l] + offset) = json_number(member);
        acts = true;
    }
    if (acts || !balance_is_on(given)) return NULL;
    return err_new(ERR_USAGE, "%s is on, but nothing is trained at or below any router", key);
}

Err *balance_coefficients(const Settings *s, const Adapter *adapter, BalanceValues **coefficients)
{
    Json *all_layers = json_new_array();
    json_add_number(all_layers, NULL, s->load_balancing_loss_coef);
    const struct {
        const char *key;
        const Json *given;
        size_t offset;
    } losses[] = {
        {"seq_aux_loss_coef", s->seq_aux_loss_coef, offsetof(BalanceValues, seq_aux_loss)},
        {"aux_loss_coef", s->aux_loss_coef, offsetof(BalanceValues, aux_loss)},
        {"load_balancing_loss_coef", json_first(all_layers), offsetof(BalanceValues, load_balancing_loss)},
        {"z_loss_coef", s->z_loss_coef, offsetof(BalanceValues, z_loss)},
    };
    bool on = false;
    Err *err = mem_new(coefficients, adapter->n_layers, sizeof **coefficients);
    for (size_t i = 0; i < sizeof losses / sizeof *losses && !err; i++) {
        err = set_coefficients(losses[i].key, losses[i].given, adapter, *coefficients, losses[i].offset);
        on = on || balance_is_on(losses[i].given);
    }
    json_free(all_layers);
    if (!err && on) return NULL;
    free(*coefficients);
    *coefficients = NULL;
    return err;
}

/* Compares load_e E with the sum of the loads in integers, so that rounding cannot decide. */
void balance_move_biases(Adapter *adapter, const Step *step, double rate)
{
    size_t E = adapter->model->router.E;
    for (size_t l = 0; l < adapter->n_layers; l++) {
        float *bias = adapter->layers[l].router_bias;
        if (!bias) continue;
        const uint64_t *load = step_counts(step, l).load;
        uint64_t total = 0;
        for (size_t e = 0; e < E; e++) total += load[e];
        for (size_t e = 0; e < E; e++) {
            if (load[e] * E < total) bias[e] += (float)rate;
            if (load[e] * E > total) bias[e] -= (float)rate;
        }
    }
}

double balance_max_over_mean(const Step *step, size_t l, size_t E)
{
    const uint64_t *load = step_counts(step, l).load;
    uint64_t max_load = 0, total = 0;
    for (size_t e = 0; e < E; e++) {
        total += load[e];
        if (load[e] > max_load) max_load = load[e];
    }
    return total ? (double)max_load * (double)E / (double)total : 0;
}
