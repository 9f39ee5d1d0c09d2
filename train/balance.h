/* The coefficients of the router's balance losses, and the correction bias that follows the load of the experts. */
#ifndef GRAFT_TRAIN_BALANCE_H
#define GRAFT_TRAIN_BALANCE_H

#include "train/settings.h"
#include "train/step.h"

/* The coefficients of every layer, from the settings: one number, or a table by layer.
 *   coefficients  [n_layers]  out; NULL when all are zero
 * Fails: ERR_USAGE for a coefficient without effect: the layer has no router, or nothing is trained at or below it.
 * Owner: the caller, until free(). */
MUST_USE Err *balance_coefficients(const Settings *settings, const Adapter *adapter, BalanceValues **coefficients);

/* Whether a coefficient of this loss is above zero. */
bool balance_is_on(const Json *coefficient);

/* Move the adapter's correction biases:  b_e += rate sign(mean load - load_e),  by the counts of the whole step. The
 * same on every rank. Source: DeepSeek-V3 report, section 2.1.2 (arXiv:2412.19437); Megatron-LM, moe_utils.py. */
void balance_move_biases(Adapter *adapter, const Step *step, double rate);

/* How uneven the load of one layer is: max load / mean load. 1: even; 0: no router, or no token. */
double balance_max_over_mean(const Step *step, size_t l, size_t E);

#endif
