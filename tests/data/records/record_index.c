/* Indexes of data files: those of one file that are made at the same time. */
#include "data/records/record_index.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

enum { RECORDS = 100 * 1000, INDEXES = 4 };

static const char *write_records(void **state, char path[PATH_BYTES])
{
    FILE *stream = fopen(scratch_path(state, "records.jsonl", path), "w");
    assert_non_null(stream);
    for (int i = 0; i < RECORDS; i++) fprintf(stream, "{\"text\": \"record %d\"}\n", i);
    assert_ok(file_close(&stream, path));
    return path;
}

/* As with a file that is named twice, or with several runs on one directory. */
static void indexes_of_one_file_may_be_made_at_once(void **state)
{
    char path[PATH_BYTES], directory[PATH_BYTES];
    RecordIndex *indexes[INDEXES];
    write_records(state, path);
    scratch_path(state, "indexes", directory);
    for (size_t i = 0; i < INDEXES; i++) assert_ok(record_index_open(&indexes[i], path, directory));
    for (size_t i = 0; i < INDEXES; i++) {
        Text line = {0};
        assert_ok(record_index_wait(indexes[i]));
        assert_int_equal(record_index_count(indexes[i]), RECORDS);
        assert_ok(record_index_read(indexes[i], RECORDS - 1, &line));
        assert_string_equal(line.data, "{\"text\": \"record 99999\"}");
        text_free(&line);
    }
    for (size_t i = 0; i < INDEXES; i++) record_index_close(indexes[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(indexes_of_one_file_may_be_made_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
