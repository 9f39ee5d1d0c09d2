/* Steps whose time can be computed by hand. The disk reads one byte per second. */
#include "tests/support/check.h"
#include "plan/stream_time.h"

#include <math.h>

enum { L = 4, CHUNKS = 2, N = L * (1 + CHUNKS) };
static size_t first[L + 1] = {0, 3, 6, 9, 12};

typedef struct {
    StreamedPart of[N + 1];
    StreamedParts parts;
    StreamBudget budget;
    bool resident[N];
    LayerSeconds layers[L];
} StreamedStep;

/* Cores are resident, and so are the first n_resident expert chunks, of 10 bytes. The others stream through so many
 * buffers. Every pass of a layer takes `core` and `experts` seconds of arithmetic. */
static void make_step(StreamedStep *c, size_t n_resident, size_t buffers, double core, double experts)
{
    *c = (StreamedStep){.parts = {.n_layers = L, .n = N, .first = first, .parts = c->of},
                        .budget = {.chunks = {.n_buffers = buffers}}};
    for (size_t p = 0, chunks = 0; p < N; p++) {
        bool chunk = p % (1 + CHUNKS) != 0;
        c->of[p] = (StreamedPart){.chunk = chunk, .bytes = chunk ? 10 : 5};
        c->resident[p] = !chunk || chunks < n_resident;
        chunks += chunk;
    }
    for (size_t l = 0; l < L; l++) c->layers[l] = (LayerSeconds){core, core, core, experts, experts};
}

static double seconds(const StreamedStep *c, double head, size_t lowest, size_t group_passes)
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

static void resident_weights_take_arithmetic_alone(void **state)
{
    (void)state;
    StreamedStep c;
    make_step(&c, N, 1, 1, 3);
    expect(seconds(&c, 7, 0, 1), 7 + L * (1 + 3) + L * (2 + 3));
    expect(seconds(&c, 7, L, 1), 7 + L * (1 + 3));
    expect(seconds(&c, 7, 2, 1), 7 + L * (1 + 3) + 2 * (2 + 3));
}

/* Without arithmetic a step takes as long as its reads: all chunks in both passes, less the chunks that buffers
 * still hold where one pass ends and the other begins. */
static void the_disk_takes_what_is_read(void **state)
{
    (void)state;
    StreamedStep c;
    for (size_t buffers = 1; buffers <= 3; buffers++) {
        make_step(&c, 0, buffers, 0, 0);
        expect(seconds(&c, 0, 0, 1), 10.0 * (2 * (L * CHUNKS - (double)buffers)));
    }
    make_step(&c, 0, 1, 0, 0);
    expect(seconds(&c, 0, L, 1), 10.0 * L * CHUNKS); /* only forward passes, which find nothing in the buffer */
}

/* One buffer: a chunk is read, then multiplied, then the next is read. Two: reading or arithmetic, whichever takes
 * longer, never stops. */
static void two_buffers_let_reading_and_arithmetic_overlap(void **state)
{
    (void)state;
    StreamedStep c;
    make_step(&c, 0, 1, 0, 2 * CHUNKS);
    expect(seconds(&c, 0, L, 1), L * CHUNKS * (10 + 2.0));
    make_step(&c, 0, 2, 0, 2 * CHUNKS);
    expect(seconds(&c, 0, L, 1), L * CHUNKS * 10.0);
    make_step(&c, 0, 2, 0, 25 * CHUNKS);
    expect(seconds(&c, 0, L, 1), L * CHUNKS * 25.0);
}

/* While a core computes, readers fill two buffers and then wait: its 100 seconds hide 20 seconds of reading in each
 * layer. */
static void readers_wait_when_buffers_are_full(void **state)
{
    (void)state;
    StreamedStep c;
    make_step(&c, 0, 2, 100, 0);
    expect(seconds(&c, 0, L, 1), L * 100);
    make_step(&c, 0, 1, 100, 0);
    expect(seconds(&c, 0, L, 1), L * (100 + 10.0));
}

static void every_group_pass_reads_the_chunks_again(void **state)
{
    (void)state;
    StreamedStep c;
    make_step(&c, 0, 1, 0, 0);
    expect(seconds(&c, 0, L, 3), 3 * L * CHUNKS * 10.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resident_weights_take_arithmetic_alone),
        cmocka_unit_test(the_disk_takes_what_is_read),
        cmocka_unit_test(two_buffers_let_reading_and_arithmetic_overlap),
        cmocka_unit_test(readers_wait_when_buffers_are_full),
        cmocka_unit_test(every_group_pass_reads_the_chunks_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
