/* Where each record of a large JSON Lines file begins, so that any one can be read without the others being held.
 * The file is gone through once, by a thread of its own; what was found is kept as a file and mapped, so that memory
 * stays flat and the next start is immediate. A packed file is unpacked beside it, for it cannot be entered midway.
 *
 *     offsets-NAME.bin    header, then [count + 1] places, the last being the end of the file
 *     unpacked-NAME.jsonl of a packed file
 *
 * Both are made anew when the data file's size or time of change is another one. Blank lines are no records. */
#ifndef GRAFT_DATA_RECORDS_RECORD_INDEX_H
#define GRAFT_DATA_RECORDS_RECORD_INDEX_H

#include "data/text/text.h"

#include <stdint.h>

typedef struct RecordIndex RecordIndex;

/* Begin; `directory` is made when it is not there. */
MUST_USE Err *record_index_open(RecordIndex **offsets, const char *path, const char *directory);
void record_index_close(RecordIndex *offsets);

/* Wait for the end of it; what follows may be called only after success. Fails: ERR_IO. Any number of times. */
MUST_USE Err *record_index_wait(RecordIndex *offsets);

size_t record_index_count(const RecordIndex *offsets);
void record_index_digest(const RecordIndex *offsets,
                         uint64_t sum[2]); /* of all bytes; tells files apart, but not a forger's */

/* Record i in place of what `line` held. Any number of threads. */
MUST_USE Err *record_index_read(const RecordIndex *offsets, size_t i, Text *line);
MUST_USE Err *record_index_line_number(const RecordIndex *offsets, size_t i,
                                       size_t *number); /* reads all that comes before */

#endif
