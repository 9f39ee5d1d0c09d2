/* Measures the machine's memory bandwidth and then generation, and makes a record of both. Only a single sequence
 * has flop, bytes and a share: its decoding reads every weight that it uses once per token, whereas several
 * sequences share reads. */
#include "bench/generate.h"

#include "base/machine.h"
#include "bench/neighbours.h"
#include "bench/report.h"
#include "infer/speed.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <omp.h>
#include <stdio.h>

/* FLOP and bytes of one decoded token of a single sequence. */
static void add_token_cost(Json *record, const Model *model, double tokens_per_s, double memory_gbs)
{
    Cost cost = {count_forward(model), generation_bytes(model)};
    json_add_number(record, "flop", cost.flop);
    json_add_number(record, "bytes", cost.bytes);
    json_add_number(record, "gflops", 1e-9 * cost.flop * tokens_per_s);
    json_add_number(record, "gbs", 1e-9 * cost.bytes * tokens_per_s);
    json_add_number(record, "share_of_bandwidth", 1e-9 * cost.bytes * tokens_per_s / memory_gbs);
}

Err *generate_measure(Json **record, Model *model, const char *name, const GenerateConfig *c)
{
    Machine machine;
    GenerationSpeed speed;
    SpeedConfig config = {(size_t)c->batch, (size_t)c->prompt, (size_t)c->new_tokens, (size_t)c->rounds,
                          (size_t)c->group_tokens};
    machine_measure(&machine);
    Neighbours others = neighbours_begin();
    TRY(generation_speed(&speed, model, NULL, &config));
    double neighbours = neighbours_end(&others);
    *record = report_record("generate");
    json_add_string(*record, "model", name);
    json_add_string(*record, "path", dispatch_path());
    json_add_number(*record, "threads", omp_get_max_threads());
    json_add_number(*record, "batch", (double)c->batch);
    json_add_number(*record, "prompt", (double)c->prompt);
    json_add_number(*record, "new", (double)c->new_tokens);
    json_add_number(*record, "prefill_tokens_per_s", speed.prefill);
    json_add_number(*record, "decode_tokens_per_s", speed.decode);
    json_add_number(*record, "weight_bytes_per_token", generation_bytes(model));
    json_add_number(*record, "memory_gbs", machine.memory_gbs);
    json_add_number(*record, "neighbour_cores", neighbours);
    if (c->batch == 1) add_token_cost(*record, model, speed.decode, machine.memory_gbs);
    return NULL;
}

void generate_print(const Json *record)
{
    printf("%-5s %3.0f %-9s prefill %8.4g tokens/s   decode %7.4g tokens/s", json_string(json_find(record, "model")),
           report_number(record, "batch"), report_number(record, "batch") == 1 ? "sequence" : "sequences",
           report_number(record, "prefill_tokens_per_s"), report_number(record, "decode_tokens_per_s"));
    if (json_find(record, "share_of_bandwidth"))
        printf("   %.0f MB of weights a token: %.2f of %.1f GB/s",
               1e-6 * report_number(record, "weight_bytes_per_token"), report_number(record, "share_of_bandwidth"),
               report_number(record, "memory_gbs"));
    printf("   %s\n", json_string(json_find(record, "path")));
    fflush(stdout);
}
