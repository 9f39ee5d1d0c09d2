/* A checkpoint: one HDF5 file with everything that a resume needs.
 *
 *     /                          attributes: format "graft checkpoint", format_version, step, seed, ... (CkptInfo)
 *     /adapter/NAME              parameters, float32 [dims]; experts of a layer stacked in the first dimension
 *     /adapter/NAME_ids          which experts those are, int32 [dims[0]], where NAME is stacked
 *     /optimizer/m/NAME, v/NAME  AdamW's moments, float32 [dims]
 *     /run/NAME                  other state of the run: counts, uint64 [n], or values, float32 [n]
 *
 * What always holds:
 *   1. A file under its own name is complete (draft, sync, rename).
 *   2. It has exactly these arrays.
 *   3. Every byte of them is under a checksum, and was read back and compared.
 *   4. The same state gives the same bytes.
 * Functions on whole directories are in checkpoint_directory.c.
 * Source: the HDF5 file format is read and written through ckpt/h5 alone. */
#ifndef GRAFT_CKPT_CHECKPOINT_H
#define GRAFT_CKPT_CHECKPOINT_H

#include "base/file.h"

#include <stdbool.h>
#include <stdint.h>

enum { CHECKPOINT_VERSION = 2, CKPT_TEXTS = 5 };

/* One array and its position in the flat vectors. */
typedef struct {
    const char *name; /* "layers/3/self_attn.q_a_proj/lora_A" */
    size_t n_dims, dims[3];
    size_t offset;      /* of its first element */
    const int32_t *ids; /* [dims[0]] expert ids of the first dimension, or NULL */
} CkptArray;

/* The attributes: everything that is not an array. */
typedef struct {
    uint64_t step; /* updates done */
    uint64_t seed;
    uint64_t epoch;          /* passes over the data that are finished */
    uint64_t epoch_position; /* documents taken in this one */
    uint64_t tokens;         /* in the loss, since the start */
    uint64_t metrics_bytes;  /* length of the metrics file, which a resume cuts back to */
    uint64_t parameters;     /* elements of all arrays; checkpoint_save counts them */
    const char *config_json, *progress_json, *compute_path, *base_digest,
        *data_digest; /* saving: NULL is stored as "" */
    char
        *owned[CKPT_TEXTS]; /* after reading: what the texts point to, until checkpoint_info_free; unused when saving */
} CkptInfo;

/* State of the run besides the adapter and the moments. */
typedef struct {
    const char *name;
    size_t n;         /* not 0 */
    uint64_t *counts; /* [n], or NULL */
    float *values;    /* [n], or NULL */
} CkptExtra;

typedef struct {
    CkptInfo info;
    size_t n_arrays;
    const CkptArray *arrays;
    size_t n;              /* elements of each vector */
    float *values, *m, *v; /* [n] */
    size_t n_extras;
    const CkptExtra *extras;
} Checkpoint;

/* Fails: ERR_IO; ERR_FORMAT when what was read back differs. Then the old file, if there was one, is unchanged, and no
 * draft remains. */
MUST_USE Err *checkpoint_save(const Checkpoint *ckpt, const char *path);

/* Fill info and the vectors. The caller sets n, values, m, v, and the arrays and extras, which the file must have
 * exactly. Nothing is read into the vectors before every name, shape and id was compared.
 * Fails: ERR_FORMAT, naming the array, what was found and what was expected; ERR_IO when there is no such file.
 * Owner: the texts of info are the caller's, until checkpoint_info_free. */
MUST_USE Err *checkpoint_load(Checkpoint *ckpt, const char *path);

/* The adapter alone: its values, and those of the extras that the file has. Moments and other state are not read.
 *   found  [n_extras] out */
MUST_USE Err *checkpoint_load_values(Checkpoint *ckpt, const char *path, bool *found);

/* Read the attributes alone: to inspect a file, or to rebuild the configuration that a resume needs before it has
 * arrays. */
MUST_USE Err *checkpoint_peek(CkptInfo *info, const char *path);
void checkpoint_info_free(CkptInfo *info);

/* DIRECTORY/checkpoint-000120.h5 */
MUST_USE Err *checkpoint_path(char path[PATH_BYTES], const char *directory, uint64_t step);

/* The step in the name of a checkpoint; 0 for a file of another name. */
uint64_t checkpoint_step(const char *path);

/* The path of the checkpoint with the most steps. *found is false when the directory has none or does not exist. */
MUST_USE Err *checkpoint_newest(const char *directory, char path[PATH_BYTES], bool *found);

/* Remove all but the `keep` checkpoints with the most steps (0 keeps all), and drafts that a killed run left behind.
 * The directory must belong to this run alone. */
MUST_USE Err *checkpoint_rotate(const char *directory, size_t keep);

/* Remove the checkpoints with `step` steps or more, and drafts. A run that starts over, or resumes from an earlier
 * step, would otherwise mix them with its own. */
MUST_USE Err *checkpoint_remove_from(const char *directory, uint64_t step);

#endif
