/* TensorBoard event files: the numbers of metrics.jsonl, and a picture of the expert load.
 *
 *     output_dir/tensorboard/events.out.tfevents.SECONDS.graft.PID     one for each process of the run
 *     record    u64 bytes | u32 masked CRC-32C of those 8 | data | u32 masked CRC-32C of data      little-endian
 *     data      an Event: wall_time 1, step 2, file_version 3 or summary 5 or session_log 7
 *
 * A resumed run begins a file with SessionLog START at its first step: readers drop later steps of older files.
 * Tags are the keys of the metrics; those of an evaluation are eval_loss/FILE and eval_loss/FILE/DOMAIN.
 * Source: TensorFlow, core/util/event.proto, core/framework/summary.proto, lib/io/record_writer.h. */
#ifndef GRAFT_TRAIN_TENSORBOARD_H
#define GRAFT_TRAIN_TENSORBOARD_H

#include "base/json.h"

typedef struct TensorBoard TensorBoard;

/* done: finished steps; at 0 the event files of earlier runs in that directory are removed. */
MUST_USE Err *tensorboard_open(TensorBoard **board, const char *directory, uint64_t done);
MUST_USE Err *tensorboard_close(TensorBoard *board);

/* Remove the event files that graft wrote below a run's directory. */
MUST_USE Err *tensorboard_remove(const char *directory);

/* Write every number of a metrics line. */
MUST_USE Err *tensorboard_line(TensorBoard *board, const Json *line);

/* Write the heat map of the expert load so far, drawn from metrics.jsonl. Does nothing without a load or a font. */
MUST_USE Err *tensorboard_picture(TensorBoard *board, uint64_t step);

#endif
