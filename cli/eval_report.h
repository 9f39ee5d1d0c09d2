/* What an evaluation found: for people, for programs, record by record. */
#ifndef GRAFT_CLI_EVAL_REPORT_H
#define GRAFT_CLI_EVAL_REPORT_H

#include "cli/eval_score.h"

void eval_print(const Eval *eval);
MUST_USE Err *eval_print_json(const Eval *eval);

/* A line of JSON for every record and variant, to settings.records; nothing when that is not given. */
MUST_USE Err *eval_write_records(const Eval *eval);

#endif
