/* The results of an evaluation: as a table, as JSON, and record by record. */
#ifndef GRAFT_CLI_EVAL_REPORT_H
#define GRAFT_CLI_EVAL_REPORT_H

#include "cli/eval_score.h"

void eval_report_print(const Eval *eval);
MUST_USE Err *eval_report_print_json(const Eval *eval);

/* Write a line of JSON for every record and variant to settings.records. Does nothing when it is not given. */
MUST_USE Err *eval_report_write_records(const Eval *eval);

#endif
