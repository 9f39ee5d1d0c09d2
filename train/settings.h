/* The options of `graft train`: one table for the configuration file, the command line and --help. */
#ifndef GRAFT_TRAIN_SETTINGS_H
#define GRAFT_TRAIN_SETTINGS_H

#include "base/options.h"
#include "data/records/settings.h"

typedef struct {
    bool help;
    char *model_name_or_path, *output_dir;
    Json *train_file; /* a path, or a list of paths or {"path", "weight"} */
    TextList eval_file;
    /* adapter, PEFT's names */
    int64_t r;
    double lora_alpha, lora_dropout;
    bool use_rslora, train_router;
    Json *target_modules, *layers_to_transform, *experts;
    char *init_adapter;
    /* data */
    DataSettings data;
    int64_t preload_mb;
    /* step */
    int64_t train_batch_size, micro_batch_tokens, group_tokens, keep_layers;
    Json *seq_aux_loss_coef, *aux_loss_coef, *z_loss_coef; /* a number, or {"layer": number} */
    double load_balancing_loss_coef, router_bias_update_rate;
    /* optimiser, Hugging Face's trainer's names */
    double learning_rate, loraplus_lr_ratio, router_learning_rate, weight_decay, adam_beta1, adam_beta2, adam_epsilon,
        max_grad_norm, warmup_ratio;
    char *lr_scheduler_type;
    Json *lr_scheduler_kwargs;
    int64_t warmup_steps, max_steps;
    double num_train_epochs;
    /* the run */
    int64_t seed, logging_steps, eval_steps, early_stopping_patience, save_steps, save_total_limit;
    double save_minutes;
    bool keep_best, tensorboard;
    char *dump;
    char *resume_from_checkpoint;
    bool overwrite_output_dir, resume_on_another_path;
    int64_t ranks, threads;
    char *compute, *memory_limit, *scratch_dir;
    bool guard, timing, bf16_adapter;
} Settings;

extern const Option settings_table[];

#endif
