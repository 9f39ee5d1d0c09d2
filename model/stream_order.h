/* The order in which passes visit the parts of a model's layers.
 *
 *     layer        its core, then its expert chunks `group_passes` times: once for every group of documents
 *     forward      layers 0, 1, ... L - 1, chunks rising
 *     backward     layers L - 1, ... lowest, chunks falling
 *     afterwards   forward, again and again, until a pass is announced
 *
 * So what is visited last in the forward pass is visited first in the backward pass, but for group passes. Visits are
 * counted from 0. */
#ifndef GRAFT_MODEL_STREAM_ORDER_H
#define GRAFT_MODEL_STREAM_ORDER_H

#include <stddef.h>

enum { ORDER_PASSES = 8 }; /* that are remembered */

typedef struct {
    size_t start;  /* visit it begins with */
    size_t lowest; /* n_layers: forward only */
    size_t group_passes;
} OrderPass;

/* Passes (forward, and backward where one follows) announced so far, each beginning where the last one ends or
 * later. */
typedef struct {
    size_t n;
    OrderPass passes[ORDER_PASSES];
} Order;

/* first [L + 1]: the number of each layer's core; its chunks follow. */
size_t order_visits(const OrderPass *pass, size_t L, const size_t *first);
size_t order_part(const Order *order, size_t L, const size_t *first, size_t visit);

/* The next visit of a part, from `from` on. */
size_t order_next(const Order *order, size_t L, const size_t *first, size_t from, size_t part);

/* Where the visits of a layer end whose core is visited at `core`: also for a rank with fewer group passes than were
 * announced. */
size_t order_end(const Order *order, size_t L, const size_t *first, size_t core, size_t l);

/* The layer of a part. */
size_t order_layer(size_t L, const size_t *first, size_t part);

#endif
