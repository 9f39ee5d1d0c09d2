/* Trained parameters, and the fixed tree along which their gradients are added.
 *
 * The gradient of a parameter is summed for each micro-batch, then along one binary tree over micro-batch numbers:
 *
 *     level 2   [ 0 1 2 3 ]            node (level, i) = node (level - 1, 2 i) + node (level - 1, 2 i + 1)
 *     level 1   [ 0 1 ][ 2 3 ][ 4 5 ]
 *     level 0   [0][1][2][3][4][5][6]
 *
 * A rank that holds micro-batches [first, end) keeps the fewest subtrees that cover them, oldest first: its forest.
 * Leaves arrive in order and siblings merge at once, so memory is a few nodes, whatever the number of micro-batches.
 * The sum is the same wherever ranks and groups begin. forest_total says how the last roots are added.
 * Source: docs/design.md, "The same bits". */
#ifndef GRAFT_AUTOGRAD_PARAM_H
#define GRAFT_AUTOGRAD_PARAM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sums of one layer's gradients: node i is the sum of the i-th subtree of the leaves that have arrived, n floats. */
typedef struct {
    size_t n;          /* floats of a node */
    size_t first, end; /* micro-batches of this rank */
    size_t n_subtrees;
    float *subtrees; /* [n_subtrees][n] */
    size_t capacity; /* floats behind `subtrees` */
} Forest;

/* A subtree: `size` leaves (a power of two) from `begin` (a multiple of size). */
typedef struct {
    size_t begin, size;
} Subtree;

enum { FOREST_MAX_SUBTREES = 128 }; /* no forest of 2^63 leaves has more subtrees */

/* Allocate for a layer of n floats and micro-batches [first, end); contents are undefined. Memory is reused. */
MUST_USE Err *forest_begin(Forest *forest, size_t n, size_t first, size_t end);
void forest_free(Forest *forest);

/* The fewest subtrees that cover [first, end), oldest first; returns their number. */
size_t forest_cover(size_t first, size_t end, Subtree cover[FOREST_MAX_SUBTREES]);
size_t forest_depth(size_t first, size_t end); /* that number alone */

/* Merge adjacent subtrees, oldest first, until no two are siblings: nodes [n_trees][n] of `trees`. Returns the number
 * of those that remain, at the beginning. */
size_t forest_merge(size_t n_trees, Subtree *trees, size_t n, float *nodes);

/* Add the roots of a step's whole forest [0, end), the youngest first: roots [n_roots][n]; roots[0] is the total. */
void forest_total(size_t n_roots, size_t n, float *roots);

typedef struct Param {
    char *name; /* "model.layers.3.self_attn.q_a_proj.lora_A" */
    size_t rows, cols;
    size_t offset;  /* of its values in its layer's parameters */
    float *data;    /* [rows][cols] */
    Forest *forest; /* receives its gradient; NULL while it is not trained */
} Param;

static inline size_t param_count(const Param *p) { return p->rows * p->cols; }

static inline bool param_trains(const Param *p) { return p && p->forest; }

/* Where to write the whole gradient of micro-batch `number`; then call param_merge. In order of numbers. */
float *param_leaf(const Param *p, size_t number);
void param_merge(const Param *p, size_t number);

/* A LoRA module:  y[:, col : col + O] += scale (x A') B'.  A [r][D], B [O][r].
 * Source: Hu et al. 2021, section 4.1 (arXiv:2106.09685). */
typedef struct Lora {
    Param *A, *B;
    size_t col; /* first output column; a LoRA on up alone has col = F of [gate | up] */
    float scale;
    bool dropout; /* none on routed experts, as in PEFT */
    uint64_t key; /* of its dropout mask */
} Lora;

/* The inner size r; 0 without LoRA. */
static inline size_t lora_r(const Lora *lora) { return lora ? lora->A->rows : 0; }

static inline bool lora_trains(const Lora *lora) { return lora && param_trains(lora->A); }

#endif
