/* The verbs of `graft`, one file each. argv holds the words after the verb; the result is the exit code. */
#ifndef GRAFT_CLI_VERBS_H
#define GRAFT_CLI_VERBS_H

int verb_train(int argc, char **argv);
int verb_eval(int argc, char **argv);
int verb_generate(int argc, char **argv);
int verb_chat(int argc, char **argv);
int verb_inspect(int argc, char **argv);
int verb_plot(int argc, char **argv);
int verb_plan(int argc, char **argv);
int verb_doctor(int argc, char **argv);
int verb_bench(int argc, char **argv);
int verb_preview(int argc, char **argv);

#endif
