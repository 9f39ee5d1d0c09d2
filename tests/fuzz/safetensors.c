/* Any bytes as a safetensors file. One that opens must keep the promises of the header: every tensor inside the file,
 * each found under its name. */
#include "tensor/safetensors.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void open_and_check(const uint8_t *data, size_t bytes)
{
    Safetensors file;
    Err *err = safetensors_open(&file, fuzz_file(data, bytes));
    if (err) {
        err_free(err);
        return;
    }
    size_t sum = 0;
    for (size_t i = 0; i < file.n_tensors; i++) {
        const TensorView *view = &file.tensors[i];
        const unsigned char *at = view->data;
        if (at < file.map.data || at + view->bytes > file.map.data + file.map.bytes) abort();
        if (safetensors_find(&file, view->name) != view) abort();
        sum += view->bytes;
    }
    if (sum > file.map.bytes) abort();
    safetensors_close(&file);
}

/* The input is tried as it is, and with the right header length in front and 20 bytes of data behind it: random bytes
 * almost never have the right length, and the checks beyond it would not be reached. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    enum { PREFIX = 8, DATA = 20 };
    open_and_check(data, bytes);
    if (bytes <= PREFIX) return 0;
    uint8_t *fitted = calloc(1, bytes + DATA);
    if (!fitted) abort();
    memcpy(fitted, data, bytes);
    for (int i = 0; i < PREFIX; i++) fitted[i] = (uint8_t)((uint64_t)(bytes - PREFIX) >> (8 * i));
    open_and_check(fitted, bytes + DATA);
    free(fitted);
    return 0;
}

FUZZ_MAIN("safetensors")
