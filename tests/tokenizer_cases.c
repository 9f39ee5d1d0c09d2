/* tokenizer_cases TOKENIZER_JSON ENCODE_JSONL DECODE_JSONL: run every case, print the failures and a count. */
#include "tests/support/cases.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    Count count = {0};
    if (argc != 4) {
        fprintf(stderr, "usage: tokenizer_cases TOKENIZER_JSON ENCODE_JSONL DECODE_JSONL\n");
        return ERR_USAGE;
    }
    Err *err = cases_tokenizer(argv[1], argv[2], argv[3], &count);
    printf("%zu passed, %zu failed\n", count.passed, count.failed);
    if (err) return err_report("tokenizer_cases", err);
    return count.failed || !count.passed;
}
