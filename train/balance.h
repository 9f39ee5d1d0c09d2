/* The router's balance losses as the settings give them, and its correction bias that follows the load. */
#ifndef GRAFT_TRAIN_BALANCE_H
#define GRAFT_TRAIN_BALANCE_H

#include "train/settings.h"
#include "train/step.h"

/* Coefficients by layer from a number, or a table by layer: coefficients [n_layers], NULL when all are zero.
 * Fails: ERR_USAGE for what could not work: no router in a layer named, nothing trained at or below it.
 * Owner: the caller, until free(). */
MUST_USE Err *balance_coefficients(const Settings *settings, const Adapter *adapter, BalanceValues **coefficients);

/* Is any coefficient of this loss above zero? For metrics and the header. */
bool balance_is_on(const Json *coefficient);

/* Move the adapter's correction biases:  b_e += rate sign(mean load - load_e),  by the whole step's counts. The same on
 * every rank. Source: DeepSeek-V3 report, section 2.1.2 (arXiv:2412.19437); Megatron-LM, moe_utils.py. */
void balance_move_biases(Adapter *adapter, const Step *step, double rate);

/* How uneven one layer's load is: the fullest expert's over the mean. 1: even; 0: no router, or no token. */
double balance_max_over_mean(const Step *step, size_t l, size_t E);

#endif
