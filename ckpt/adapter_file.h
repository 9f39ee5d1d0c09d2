/* PEFT adapter directories: adapter_config.json and adapter_model.safetensors. This module knows how adapters are named
 * and stored, and nothing of any model: a module is a path such as "model.layers.3.self_attn.q_a_proj".
 *
 * Reading turns every layout into one list of LoRA modules, dW = scale B A:
 *
 *     M.lora_A.weight [r][in], M.lora_B.weight [out][r]                    plain; M may be experts.7.gate_proj
 *     M.lora_embedding_A [r][vocab], M.lora_embedding_B [hidden][r]        embedding, transposed: dW [vocab][hidden]
 *     experts.base_layer.lora_* (gate and up), experts.lora_* (down)       PEFT's fused form, LoRA of every expert:
 *         A [E r][in] expert after expert, B [out][r E] column j E + e; gate is the first half of gate_up's rows
 *     experts.gate_proj.lora_A.weight [E or 1][r][in], B [E or 1][out][r]  stacked; 1 is shared by all experts
 *
 * The prefix base_model.model. and an infix .default are optional; X.base_layer.weight is skipped.
 * Writing gives one layout that every consumer reads: per-expert names, one r, one scale.
 * Source: Hugging Face PEFT 0.21, tuners/lora/layer.py (ParamWrapper), utils/save_and_load.py. */
#ifndef GRAFT_CKPT_ADAPTER_FILE_H
#define GRAFT_CKPT_ADAPTER_FILE_H

#include "ckpt/adapter_config.h"
#include "tensor/safetensors.h"

/* ---- reading ---- */

/* A matrix inside a tensor: element [i][j] is number first + i row_step + j col_step. */
typedef struct {
    const TensorView *tensor;
    size_t first, row_step, col_step;
} AdapterSlice;

typedef struct {
    const char *module; /* of the weight W [out][in] */
    size_t r, in, out;
    AdapterSlice A, B; /* [r][in], [out][r]; gate and up of a fused file share A */
    double scale;      /* alpha / r or alpha / sqrt(r), patterns applied */
    bool embedding;
} AdapterLora;

/* A weight that was trained in full: a router's. */
typedef struct {
    const char *name;  /* "model.layers.3.mlp.gate.weight" */
    size_t rows, cols; /* rows is 1 for a vector */
    const TensorView *tensor;
} AdapterExtra;

typedef struct {
    AdapterConfig config;
    size_t n_loras, n_extras;
    AdapterLora *loras;         /* by module, in strcmp's order */
    AdapterExtra *extras;       /* by name */
    struct AdapterStore *store; /* the memory that all of these point into */
} AdapterFile;

/* Fails: ERR_IO, ERR_FORMAT. Strict: a tensor that is not understood, lacks its partner or has the wrong shape is an
 * error that names it. Owner of *file: the caller, until adapter_file_close; what it points to lives as long. */
MUST_USE Err *adapter_file_open(AdapterFile **file, const char *directory);
void adapter_file_close(AdapterFile *file);

/* NULL when the module has no LoRA. */
const AdapterLora *adapter_file_find(const AdapterFile *file, const char *module);

/* A [r][in] and B [out][r] as float; the scale is left out. */
void adapter_file_read_lora(const AdapterLora *lora, float *A, float *B);
void adapter_file_read_extra(const AdapterExtra *extra, float *data); /* [rows][cols] */

/* ---- writing ---- */

typedef struct {
    const char *module;
    size_t r, in, out;
    const float *A, *B; /* [r][in], [out][r]; both NULL: zeros, for an expert that is not adapted */
    double scale;
} AdapterOutLora;

typedef struct {
    const char *name;
    size_t rows, cols; /* rows 1: a vector, kept in F32 */
    const float *data;
} AdapterOutExtra;

typedef struct {
    const char *base_model; /* for base_model_name_or_path; may be NULL */
    DType dtype;            /* F32 or BF16 */
    size_t n_loras, n_extras;
    const AdapterOutLora *loras;
    const AdapterOutExtra
        *extras; /* routers trained in full; PEFT needs the weight and correction bias of every layer */
} AdapterOut;

/* Write an adapter directory, which is made if it does not exist. The files appear whole or not at all, after a draft
 * of them was read back and compared. A smaller r is padded with zeros to the largest. A scale that differs from that
 * of the first LoRA module is multiplied into B, in double, rounded once.
 * Fails: ERR_USAGE for what no consumer reads (LoRA on an embedding; a layer whose experts do not all have gate, up and
 *        down; a scale that is not positive), ERR_IO, ERR_FORMAT when what was read back differs. */
MUST_USE Err *adapter_file_write(const char *directory, const AdapterOut *out);

#endif
