/* Steps whose time can be told by hand. Bytes per second is 1. */
#include "tests/support/check.h"
#include "plan/stream_time.h"

#include <math.h>

enum { L = 4, RUNS = 2, N = L * (1 + RUNS) };
static const size_t first[L + 1] = {0, 3, 6, 9, 12};

typedef struct {
    StreamedPart of[N + 1];
    StreamedParts parts;
    StreamBudget budget;
    bool resident[N];
    LayerSeconds layers[L];
} Case;

/* Cores stay; runs of 10 bytes pass through so many slots, but for the first `stay` of them. */
static void make(Case *c, size_t stay, size_t buffers, double core, double experts)
{
    *c = (Case){.parts = {.n_layers = L, .n = N, .first = (size_t *)(size_t)first, .parts = c->of},
                .budget = {.chunks = {.n_buffers = buffers}}};
    for (size_t p = 0, chunks = 0; p < N; p++) {
        bool chunk = p % (1 + RUNS) != 0;
        c->of[p] = (StreamedPart){.chunk = chunk, .bytes = chunk ? 10 : 5};
        c->resident[p] = !chunk || chunks < stay;
        chunks += chunk;
    }
    for (size_t l = 0; l < L; l++) c->layers[l] = (LayerSeconds){core, core, core, experts, experts};
}

static double seconds(const Case *c, double head, size_t lowest, size_t group_passes)
{
    double step;
    assert_ok(stream_time(&step, &(StreamTimeInput){&c->parts, c->resident, &c->budget, c->layers, head, lowest,
                                                    group_passes, 1}));
    return step;
}

static void expect(double got, double want)
{
    if (fabs(got - want) > 1e-9) fail_msg("%g seconds, not %g", got, want);
}

static void what_stays_takes_arithmetic_alone(void **state)
{
    (void)state;
    Case c;
    make(&c, N, 1, 1, 3);
    expect(seconds(&c, 7, 0, 1), 7 + L * (1 + 3) + L * (2 + 3));
    expect(seconds(&c, 7, L, 1), 7 + L * (1 + 3));
    expect(seconds(&c, 7, 2, 1), 7 + L * (1 + 3) + 2 * (2 + 3));
}

/* Without arithmetic: what is read, less what slots still hold where the walk turns round. */
static void the_disk_takes_what_is_read(void **state)
{
    (void)state;
    Case c;
    for (size_t buffers = 1; buffers <= 3; buffers++) {
        make(&c, 0, buffers, 0, 0);
        expect(seconds(&c, 0, 0, 1), 10.0 * (2 * (L * RUNS - (double)buffers)));
    }
    make(&c, 0, 1, 0, 0);
    expect(seconds(&c, 0, L, 1), 10.0 * L * RUNS); /* upward again and again */
}

/* One slot: a run is read, then multiplied, then the next is read. Two: the longer of both goes on without a rest. */
static void two_slots_overlap(void **state)
{
    (void)state;
    Case c;
    make(&c, 0, 1, 0, 2 * RUNS);
    expect(seconds(&c, 0, L, 1), L * RUNS * (10 + 2.0));
    make(&c, 0, 2, 0, 2 * RUNS);
    expect(seconds(&c, 0, L, 1), L * RUNS * 10.0);
    make(&c, 0, 2, 0, 25 * RUNS);
    expect(seconds(&c, 0, L, 1), L * RUNS * 25.0);
}

/* A core's arithmetic fills two slots, and then readers rest: its 100 seconds hide 20 of reading in each layer. */
static void readers_rest_when_slots_are_full(void **state)
{
    (void)state;
    Case c;
    make(&c, 0, 2, 100, 0);
    expect(seconds(&c, 0, L, 1), L * 100);
    make(&c, 0, 1, 100, 0);
    expect(seconds(&c, 0, L, 1), L * (100 + 10.0));
}

static void groups_read_runs_again(void **state)
{
    (void)state;
    Case c;
    make(&c, 0, 1, 0, 0);
    expect(seconds(&c, 0, L, 3), 3 * L * RUNS * 10.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_stays_takes_arithmetic_alone),
        cmocka_unit_test(the_disk_takes_what_is_read),
        cmocka_unit_test(two_slots_overlap),
        cmocka_unit_test(readers_rest_when_slots_are_full),
        cmocka_unit_test(groups_read_runs_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
