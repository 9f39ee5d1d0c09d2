/* The tree of gradients. With first = 3 the forest grows as [3], [3][4], [3][4 5], [3][4 5][6]: a new leaf is the last
 * node, and param_merge adds it to its older sibling, and that sum to the next one, as long as both are complete.
 *
 * What always holds: nodes lie oldest first; a node is the sum of a subtree whose size is a power of two and whose
 * begin is a multiple of its size; a sum is always older += newer, so the total has the same bits for any number of
 * ranks. */
#include "autograd/param.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* The largest subtree that starts at `begin` and stays below `end`. */
static size_t subtree_size(size_t begin, size_t end)
{
    size_t size = 1;
    while (begin % (size * 2) == 0 && begin + size * 2 <= end) size *= 2;
    return size;
}

size_t forest_cover(size_t first, size_t end, Subtree cover[FOREST_MAX_SUBTREES])
{
    size_t n = 0;
    for (size_t at = first; at < end; at += cover[n++].size) cover[n] = (Subtree){at, subtree_size(at, end)};
    return n;
}

size_t forest_depth(size_t first, size_t end)
{
    size_t n = 0;
    for (size_t at = first; at < end; n++) at += subtree_size(at, end);
    return n;
}

Err *forest_begin(Forest *forest, size_t n, size_t first, size_t end)
{
    size_t deepest = 1; /* before its merges a leaf stands on its own */
    for (size_t at = first; at < end; at++) {
        size_t depth = forest_depth(first, at) + 1;
        if (depth > deepest) deepest = depth;
    }
    if (deepest * n > forest->capacity) {
        free(forest->subtrees);
        forest->subtrees = NULL;
        forest->capacity = 0;
        TRY(mem_new(&forest->subtrees, deepest * n, sizeof *forest->subtrees));
        forest->capacity = deepest * n;
    }
    forest->n = n;
    forest->first = first;
    forest->end = end;
    forest->n_subtrees = deepest;
    return NULL;
}

void forest_free(Forest *forest)
{
    free(forest->subtrees);
    *forest = (Forest){0};
}

size_t forest_merge(size_t n_trees, Subtree *trees, size_t n, float *nodes)
{
    size_t top = 0;
    for (size_t i = 0; i < n_trees; i++) {
        if (top != i) memcpy(nodes + top * n, nodes + i * n, n * sizeof *nodes);
        trees[top++] = trees[i];
        while (top >= 2 && trees[top - 1].size == trees[top - 2].size &&
               trees[top - 2].begin % (2 * trees[top - 2].size) == 0) {
            float *older = nodes + (top - 2) * n;
            const float *newer = nodes + (top - 1) * n;
            for (size_t k = 0; k < n; k++) older[k] += newer[k];
            trees[top - 2].size *= 2;
            top--;
        }
    }
    return top;
}

void forest_total(size_t n_roots, size_t n, float *roots)
{
    for (size_t i = n_roots; i-- > 1;)
        for (size_t j = 0; j < n; j++) roots[(i - 1) * n + j] += roots[i * n + j];
}

float *param_leaf(const Param *p, size_t number)
{
    const Forest *f = p->forest;
    ASSERT(number >= f->first && number < f->end, "%s: micro-batch %zu of [%zu, %zu)", p->name, number, f->first,
           f->end);
    return f->subtrees + forest_depth(f->first, number) * f->n + p->offset;
}

void param_merge(const Param *p, size_t number)
{
    const Forest *f = p->forest;
    size_t n = param_count(p), depth = forest_depth(f->first, number) + 1, after = forest_depth(f->first, number + 1);
    for (; depth > after; depth--) {
        float *older = f->subtrees + (depth - 2) * f->n + p->offset;
        const float *newer = f->subtrees + (depth - 1) * f->n + p->offset;
        for (size_t i = 0; i < n; i++) older[i] += newer[i];
    }
}
