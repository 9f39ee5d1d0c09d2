/* Lines of metrics.jsonl and of TensorBoard. Every line of a run begins with its step and its epoch. The keys are a
 * file format: they keep their names. */
#include "train/run.h"

double run_epoch(const Run *run) { return (double)run->done / (double)loader_steps_per_epoch(run->loader); }

Json *run_line(const Run *run)
{
    Json *line = json_new_object();
    json_add_number(line, "step", (double)run->done);
    json_add_number(line, "epoch", run_epoch(run));
    return line;
}

Err *run_note(Run *run, Json *line)
{
    Err *err = run->board ? tensorboard_line(run->board, line) : NULL;
    if (!err) return metrics_write(&run->metrics, line);
    json_free(line);
    return err;
}
