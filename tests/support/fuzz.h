/* A fuzzer is one file under tests/fuzz with libFuzzer's entry point. `make fuzz` links it with libFuzzer; elsewhere
 * FUZZ_MAIN makes it an ordinary test, which runs every file of tests/fuzz/corpus/NAME through the same entry. */
#ifndef GRAFT_TESTS_SUPPORT_FUZZ_H
#define GRAFT_TESTS_SUPPORT_FUZZ_H

#include <stddef.h>
#include <stdint.h>

typedef int (*FuzzEntry)(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Run every file of the corpus as one CMocka test; returns its exit code. Each input must end in an answer, and leave
 * no memory allocated. */
int fuzz_corpus(const char *name, FuzzEntry entry);

/* A path from which data can be read until the next call, for readers that take a file. */
const char *fuzz_file(const uint8_t *data, size_t bytes);

#ifdef FUZZING /* set by make fuzz: libFuzzer brings its own main */
#define FUZZ_MAIN(name)
#else
#define FUZZ_MAIN(name) \
    int main(void) { return fuzz_corpus(name, LLVMFuzzerTestOneInput); }
#endif

#endif
