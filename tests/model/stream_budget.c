/* Plans keep their limits and use them; layers are cut into runs where they are large beside the limit. */
#include "tests/support/check.h"

#include "model/stream_budget.h"

enum { L = 40, E = 64 };
static const StreamLayer dense = {.core = 100}, sparse = {.core = 50, .expert = 10, .n_experts = E};

static void what_stays_and_what_passes_are_all(const StreamBudget *plan, size_t n, const StreamPart *parts,
                                               const bool *resident)
{
    size_t stay[2] = {0}, pass[2] = {0};
    for (size_t i = 0; i < n; i++) *(resident[i] ? &stay[parts[i].chunk] : &pass[parts[i].chunk]) += parts[i].bytes;
    assert_int_equal(plan->cores.resident_bytes, stay[0]);
    assert_int_equal(plan->chunks.resident_bytes, stay[1]);
    assert_int_equal(plan->cores.streamed_bytes, pass[0]);
    assert_int_equal(plan->chunks.streamed_bytes, pass[1]);
    for (size_t chunk = 0; chunk < 2; chunk++) {
        const StreamRing *ring = chunk ? &plan->chunks : &plan->cores;
        for (size_t i = 0; i < n; i++)
            if (parts[i].chunk == chunk && !resident[i])
                assert_true(parts[i].bytes <= ring->buffer_bytes && ring->n_buffers > 0);
    }
}

static void plans_of_whole_layers_keep_their_limit_and_use_it(void **state)
{
    StreamPart parts[L];
    bool resident[L];
    StreamBudget plan;
    (void)state;
    for (size_t l = 0; l < L; l++) parts[l] = (StreamPart){l < 3 ? 100 : 1000, false};
    assert_fails(stream_budget(&plan, 1499, 500, L, parts, NULL), ERR_MEMORY, "at least");
    assert_int_equal(plan.min_bytes, 1500);
    for (size_t limit = 1500; limit < 45000; limit += 377) {
        assert_ok(stream_budget(&plan, limit, 500, L, parts, resident));
        what_stays_and_what_passes_are_all(&plan, L, parts, resident);
        assert_true(stream_budget_bytes(&plan) <= limit);
        if (plan.cores.streamed_bytes) assert_true(limit - stream_budget_bytes(&plan) < 2000);
    }
    assert_int_equal(plan.cores.n_resident, L);
}

/* The parts of 3 dense and 37 sparse layers. */
static size_t cut_layers(size_t left, StreamPart *parts)
{
    StreamLayer layers[L];
    size_t n = 0;
    for (size_t l = 0; l < L; l++) layers[l] = l < 3 ? dense : sparse;
    size_t max_bytes = stream_budget_part_max(left, L, layers);
    for (size_t l = 0; l < L; l++) {
        size_t chunks = stream_budget_chunks(&layers[l], max_bytes);
        parts[n++] = (StreamPart){layers[l].core + (chunks ? 0 : layers[l].n_experts * layers[l].expert), false};
        for (size_t i = 0; i < chunks; i++)
            parts[n++] = (StreamPart){(E * (i + 1) / chunks - E * i / chunks) * layers[l].expert, true};
    }
    return n;
}

static void large_layers_are_cut_into_runs_that_fit(void **state)
{
    StreamPart parts[L * (1 + E)];
    bool resident[L * (1 + E)];
    StreamBudget plan;
    size_t min_limit = 500 + 100 + STREAM_MIN_CHUNK * 10, last_runs = SIZE_MAX;
    (void)state;
    size_t n = cut_layers(0, parts);
    assert_fails(stream_budget(&plan, min_limit - 1, 500, n, parts, NULL), ERR_MEMORY, "at least");
    assert_int_equal(plan.min_bytes, min_limit);
    for (size_t limit = min_limit; limit < 30000; limit += 61) {
        n = cut_layers(limit - 500, parts);
        assert_ok(stream_budget(&plan, limit, 500, n, parts, resident));
        what_stays_and_what_passes_are_all(&plan, n, parts, resident);
        assert_true(stream_budget_bytes(&plan) <= limit);
        assert_true(plan.chunks.n <= last_runs); /* more memory, larger parts */
        last_runs = plan.chunks.n;
    }
    assert_int_equal(plan.chunks.n, 0);
    assert_int_equal(plan.cores.n_resident, L);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(plans_of_whole_layers_keep_their_limit_and_use_it),
                                       cmocka_unit_test(large_layers_are_cut_into_runs_that_fit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
