/* An index of a large JSON Lines file: where each record begins, so that any record can be read without the others in
 * memory. A thread reads the file once. The index is stored as a file and mapped, so memory stays constant and the next
 * start does not wait. A compressed file is also decompressed there, because it cannot be read from the middle.
 *
 *     offsets-NAME.bin      header, then [count + 1] positions of records; the last is the end of the file
 *     unpacked-NAME.jsonl   a compressed file, decompressed
 *
 * Both are made again when the data file's size or modification time has changed. Blank lines (json_line_is_blank) are
 * no records. */
#ifndef GRAFT_DATA_RECORDS_RECORD_INDEX_H
#define GRAFT_DATA_RECORDS_RECORD_INDEX_H

#include "data/text/text.h"

#include <stdint.h>

typedef struct RecordIndex RecordIndex;

/* Start indexing. `directory` holds the files above; it is created when it does not exist. */
MUST_USE Err *record_index_open(RecordIndex **index, const char *path, const char *directory);
void record_index_close(RecordIndex *index);

/* Wait until the index is complete; the functions below may be called only after it has succeeded. It may be called any
 * number of times. Fails: ERR_IO. */
MUST_USE Err *record_index_wait(RecordIndex *index);

size_t record_index_count(const RecordIndex *index);
void record_index_digest(const RecordIndex *index, uint64_t sum[2]); /* of all bytes; not cryptographic */

/* Read record i into `line`, in place of its contents. Any number of threads. */
MUST_USE Err *record_index_read(const RecordIndex *index, size_t i, Text *line);

/* The line number of record i, from 1. It reads the file up to the record. */
MUST_USE Err *record_index_line_number(const RecordIndex *index, size_t i, size_t *number);

#endif
