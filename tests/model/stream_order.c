/* The order of parts against a list written out by hand of loops. */
#include "tests/support/check.h"

#include "model/stream_order.h"

enum { L = 4, MAX_VISITS = 4000 };
static const size_t first[L + 1] = {0, 1, 5, 6, 9}; /* runs: none, 3, none, 2 */

static size_t add(size_t n, size_t *list, const OrderPass *w, size_t l, bool falling)
{
    size_t chunks = first[l + 1] - first[l] - 1;
    list[n++] = first[l];
    for (size_t group_pass = 0; group_pass < w->group_passes; group_pass++)
        for (size_t i = 0; i < chunks; i++) list[n++] = first[l] + 1 + (falling ? chunks - 1 - i : i);
    return n;
}

static size_t add_pass(size_t n, size_t *list, const OrderPass *w)
{
    for (size_t l = 0; l < L; l++) n = add(n, list, w, l, false);
    for (size_t l = L; l-- > w->lowest;) n = add(n, list, w, l, true);
    return n;
}

static size_t add_ups(size_t n, size_t *list, size_t visits)
{
    for (size_t i = 0; i < visits; i++) list[n++] = i % first[L];
    return n;
}

static void check(const Order *order, const size_t *list, size_t from, size_t end)
{
    for (size_t v = from; v < end; v++) {
        assert_int_equal(order_part(order, L, first, v), list[v]);
        for (size_t part = 0; part < first[L]; part++) {
            size_t next = v;
            while (next < MAX_VISITS && list[next] != part) next++;
            assert_int_equal(order_next(order, L, first, v, part), next);
        }
    }
}

static void visits_are_those_of_the_loops(void **state)
{
    static size_t list[MAX_VISITS + 200];
    (void)state;
    for (size_t lowest = 0; lowest <= L; lowest++)
        for (size_t group_passes = 1; group_passes < 4; group_passes++) {
            Order order = {0};
            size_t n = add_ups(0, list, 13); /* before any was announced */
            order.passes[order.n++] = (OrderPass){n, lowest, group_passes};
            n = add_pass(n, list, &order.passes[0]);
            assert_int_equal(n - 13, order_visits(&order.passes[0], L, first));
            order.passes[order.n++] = (OrderPass){n, 0, 1};
            n = add_pass(n, list, &order.passes[1]);
            n = add_ups(n, list, 7);
            order.passes[order.n++] = (OrderPass){n, L, group_passes};
            n = add_pass(n, list, &order.passes[2]);
            add_ups(n, list, MAX_VISITS - n);
            check(&order, list, 0, n + 20);
        }
}

static void parts_know_their_layer(void **state)
{
    (void)state;
    for (size_t l = 0; l < L; l++)
        for (size_t part = first[l]; part < first[l + 1]; part++) assert_int_equal(order_layer(L, first, part), l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(visits_are_those_of_the_loops),
                                       cmocka_unit_test(parts_know_their_layer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
