/* What the kernel reports of memory. */
#include "base/proc_memory.h"

#include "tests/support/check.h"

static void a_running_process_has_memory_and_some_is_available(void **state)
{
    (void)state;
    assert_true(proc_memory_available() > 0);
    assert_true(proc_memory_peak() > 0);
    assert_true(proc_memory_bytes("/proc/self/status", "VmHWM:") > 0);
}

static void a_missing_line_or_file_counts_as_zero(void **state)
{
    (void)state;
    assert_int_equal(proc_memory_bytes("/proc/self/status", "Nonsense:"), 0);
    assert_int_equal(proc_memory_bytes("/proc/self/nothing", "VmHWM:"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_running_process_has_memory_and_some_is_available),
                                       cmocka_unit_test(a_missing_line_or_file_counts_as_zero)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
