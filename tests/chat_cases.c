/* chat_cases CASES_JSONL: run every case, print the failures and a count. */
#include "tests/support/cases.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    Count count = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: chat_cases CASES_JSONL\n");
        return ERR_USAGE;
    }
    Err *err = cases_chat(argv[1], &count);
    printf("%zu passed, %zu failed\n", count.passed, count.failed);
    if (err) return err_report("chat_cases", err);
    return count.failed || !count.passed;
}
